// The page. Where to read: tree.js (what a conversation is), chat.js (talking), view.js (how it looks), api.js (the
// server); then markdown.js and tokens.js, and the rest. This file ties them together. No framework, no build step.
import { openAbout } from "./about.js";
import { connect, server } from "./api.js";
import { running, save, send, sendToAll, session, show, speaksChat, stop } from "./chat.js";
import { $, button, escapes, grow, h, icon, sends, toast } from "./dom.js";
import { command, defaults, model, onSetting, openSettings, set, setting } from "./settings.js";
import { drawList } from "./sidebar.js";
import { allChats, draft, onChangeElsewhere } from "./store.js";
import { drawText } from "./text.js";
import { closeCard } from "./tokens.js";
import { isEmpty, merge, newChat } from "./tree.js";
import { contextUse, draw, drawStream, editLast } from "./view.js";

// ---------------------------------------------------------------- drawing

const phone = matchMedia("(max-width: 760px)");
let frame = 0;
Object.assign(session, {
  draw(fresh) {
    closeCard();
    document.body.dataset.kind = session.chat.kind;
    if (fresh && phone.matches) openMenu(false);
    if (session.chat.kind === "text") drawText(); else draw(fresh);
    document.title = session.chat.title ? `${session.chat.title} – nanochat` : "nanochat";
    drawComposer();
    drawList();
  },
  drawStream(chat) {
    if (chat !== session.chat) return;
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      if (!running()) return;
      if (session.chat.kind === "text") drawText(); else drawStream(running().targets);
      drawMeter();
    });
  },
  drawList,
  trouble(error) { // the server has gone, or it was started again with another key or model
    if (error instanceof TypeError || error.status === 401 || error.code === "model_not_found") meet();
  },
});

function drawComposer() {
  const busy = Boolean(running());
  $("send").replaceChildren(icon(busy ? "stop" : "up"));
  $("send").setAttribute("aria-label", busy ? "Stop" : "Send");
  $("send").disabled = !busy && !$("input").value.trim();
  $("ask-all").hidden = !session.manyModels;
  $("ask-all").disabled = busy || !$("input").value.trim();
  $("sampling").replaceChildren(icon("tune"), `Temperature ${setting("temperature")} · top-k ${setting("top_k")}`);
  const isLost = session.chat.kind === "chat" && !isEmpty(session.chat) && !speaksChat();
  $("notice").hidden = !isLost;
  if (isLost) {
    $("notice").replaceChildren(`${model().id} is a base model: it continues texts and has not learnt to converse.`,
      server.text ? button("Open a text", () => startNew("text"), { className: "link" }) : "");
  }
  drawMeter();
}

function drawMeter() {
  const use = contextUse();
  $("meter").hidden = !use;
  if (!use) return;
  const bar = h("i");
  bar.style.width = `${Math.min(100, 100 * use.used / use.total)}%`;
  const isFull = use.used >= use.total;
  const [used, total] = [use.used, use.total].map((number) => number.toLocaleString("en"));
  const text = `${use.isExact ? "" : "about "}${used} of ${total} tokens`;
  const meaning = isFull ? "The memory is full: with the next question the model forgets the oldest messages."
    : "What the model can remember beside a new answer. Beyond it, it forgets the oldest messages.";
  const values = { "aria-valuenow": Math.min(use.used, use.total), "aria-valuemax": use.total, "aria-valuetext": text,
    title: `${text}. ${meaning}` };
  for (const [name, value] of Object.entries(values)) $("meter").setAttribute(name, value);
  $("meter").classList.toggle("full", use.used > 0.8 * use.total);
  $("meter").replaceChildren(h("span", { className: "bar" }, bar), h("span", { className: "fine" }, text));
}

// ---------------------------------------------------------------- writing

function startNew(kind = speaksChat() || !server.text ? "chat" : "text") {
  show(isEmpty(session.chat) && session.chat.kind === kind ? session.chat : newChat(kind));
  (kind === "text" ? $("log").querySelector("textarea") : $("input")).focus();
}
function submit(say = send) {
  const text = $("input").value;
  if (!text.trim() || running()) return;
  const told = command(text, startNew);
  $("input").value = draft.text = "";
  grow($("input"));
  if (told === null) say(text); else if (told) toast(told);
  drawComposer();
}
$("composer").onsubmit = (event) => {
  event.preventDefault();
  if (running()) stop(); else submit();
};
$("ask-all").onclick = () => submit(sendToAll);
$("input").oninput = () => {
  draft.text = $("input").value;
  grow($("input"));
  drawComposer();
};
$("input").onkeydown = (event) => {
  if (sends(event)) { event.preventDefault(); submit(); }
  if (event.key === "ArrowUp" && !$("input").value) { event.preventDefault(); editLast(); }
};

// ---------------------------------------------------------------- around it

$("new").onclick = () => startNew();
$("new-text").onclick = () => startNew("text");
const menuIsOpen = () => document.body.classList.contains(phone.matches ? "menu" : "wide") === phone.matches;
function openMenu(open) {
  if (phone.matches) document.body.classList.toggle("menu", open); else document.body.classList.toggle("wide", !open);
  $("menu").setAttribute("aria-expanded", String(open));
}
$("menu").onclick = () => openMenu(!menuIsOpen());
$("shade").onclick = () => openMenu(false);
$("open-settings").onclick = () => openSettings();
$("sampling").onclick = () => openSettings("temperature");
$("open-about").onclick = () => openAbout(model().id);
$("theme").onclick = () => {
  const dark = getComputedStyle(document.documentElement).colorScheme.trim() === "dark"
    || (!setting("theme") && matchMedia("(prefers-color-scheme: dark)").matches);
  set("theme", dark ? "light" : "dark");
};
onSetting((name) => {
  const { dataset } = document.documentElement;
  if (setting("theme")) dataset.theme = setting("theme"); else delete dataset.theme;
  if (name === "key") meet();
  if (name === "system") delete session.chat.system; // of an imported conversation: the new text replaces it
  if (name === "system") session.draw(); else drawComposer();
});

document.onkeydown = (event) => {
  // Under a Russian or Greek layout the key says another letter, but its place is the same.
  const key = (/^[a-z]$/i.test(event.key) ? event.key : event.code.replace("Key", "")).toLowerCase();
  const control = event.ctrlKey || event.metaKey;
  if (escapes(event) && phone.matches && menuIsOpen()) openMenu(false);
  else if (escapes(event) && !document.querySelector("dialog[open]")) stop();
  else if (control && event.shiftKey && (key === "o" || key === "n")) { event.preventDefault(); startNew(); }
  else if (control && key === "k") {
    event.preventDefault();
    openMenu(true);
    $("search").focus();
  }
};

// ---------------------------------------------------------------- beginning

const LOOK_AGAIN_MS = 10_000; // while a run trains: it makes newer checkpoints
const labelOf = ({ id, nanochat }) => nanochat?.is_live ? `${id}, step ${nanochat.step.toLocaleString("en")}` : id;
let retry = 0, known = "";
async function meet() { // who is there? asks again until someone is
  clearTimeout(retry);
  let trouble = "";
  try {
    await connect();
    defaults(model()?.nanochat);
  } catch (error) {
    trouble = error.status === 401 ? "This server wants an API key"
      : error.status === 503 ? error.message : "The server can't be reached; trying again…";
    if (error.status !== 401) retry = setTimeout(meet, 3000);
  }
  if (!trouble && server.models.some((each) => each.nanochat?.is_live)) retry = setTimeout(meet, LOOK_AGAIN_MS);
  const now = JSON.stringify([trouble, server.models]);
  if (now === known) return;
  known = now;
  session.manyModels = server.models.length > 1;
  $("model").classList.toggle("down", Boolean(trouble));
  const lacksKey = trouble.includes("API key");
  $("model-name").replaceChildren(lacksKey ? button(trouble, () => openSettings("key"), { className: "link" })
    : trouble || (session.manyModels ? "" : labelOf(model())));
  $("models").hidden = Boolean(trouble) || !session.manyModels;
  $("models").replaceChildren(...server.models.map(
    (each) => h("option", { value: each.id, selected: each === model() }, labelOf(each))));
  $("new-text").hidden = !server.text;
  $("open-about").hidden = Boolean(trouble) || !server.card;
  session.draw();
}
$("models").onchange = () => {
  set("model", $("models").value);
  defaults(model()?.nanochat);
  session.draw();
};

// At the start, and when another tab has changed something: a conversation that is known here takes in what is new.
async function readChats() {
  const stored = await allChats().catch(() => []);
  const known = new Map([session.chat, ...session.chats].map((chat) => [chat.id, chat]));
  const unsaved = session.chats.filter((chat) => running(chat) && !stored.some((other) => other.id === chat.id));
  let redraws = false;
  session.chats = [...unsaved, ...stored.map((other) => {
    const chat = known.get(other.id);
    if (chat && merge(chat, other, running(chat)?.targets) && chat === session.chat) redraws = true;
    return chat ?? other;
  })];
  if (redraws) session.draw(); else session.drawList();
}
onChangeElsewhere(readChats);
addEventListener("visibilitychange", () => { // a text that is being typed is kept a moment later, else
  if (document.hidden && session.chats.includes(session.chat)) save(session.chat);
});

$("input").value = draft.text;
session.draw(true);
grow($("input"));
openMenu(!phone.matches);
readChats();
meet();
