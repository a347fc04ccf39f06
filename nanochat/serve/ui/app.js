// The page. Where to read: tree.js (what a conversation is), chat.js (talking), view.js (how it looks), api.js (the
// server); then markdown.js and tokens.js, and the rest. This file ties them together. No framework, no build step.
import { connect, Refused, server } from "./api.js";
import { model, running, send, session, show, speaksChat, stop } from "./chat.js";
import { $, grow, h, icon, toast } from "./dom.js";
import { command, defaults, onSetting, openSettings, set, setting } from "./settings.js";
import { drawList } from "./sidebar.js";
import { allChats, onChangeElsewhere } from "./store.js";
import { drawText } from "./text.js";
import { closeCard } from "./tokens.js";
import { isEmpty, newChat } from "./tree.js";
import { contextUse, draw, drawStream, editLast, enters } from "./view.js";

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
      if (session.chat.kind === "text") drawText(); else drawStream(running().target);
      drawMeter();
    });
  },
  drawList,
  trouble(error) { if (error instanceof TypeError || error.status === 401) meet(); },
});

function drawComposer() {
  const busy = Boolean(running());
  $("send").replaceChildren(icon(busy ? "stop" : "up"));
  $("send").setAttribute("aria-label", busy ? "Stop" : "Send");
  $("send").disabled = !busy && !$("input").value.trim();
  $("sampling").replaceChildren(icon("tune"), `Temperature ${setting("temperature")} · top-k ${setting("top_k")}`);
  drawMeter();
}

function drawMeter() {
  const use = contextUse();
  $("meter").hidden = !use;
  if (!use) return;
  const bar = h("i");
  bar.style.width = `${100 * use.used / use.total}%`;
  const text = `${use.used.toLocaleString("en")} of ${use.total.toLocaleString("en")} tokens`;
  const values = { "aria-valuenow": use.used, "aria-valuemax": use.total, "aria-valuetext": text,
    title: `${text} of context` };
  for (const [name, value] of Object.entries(values)) $("meter").setAttribute(name, value);
  $("meter").classList.toggle("full", use.used > 0.8 * use.total);
  $("meter").replaceChildren(h("span", { className: "bar" }, bar), h("span", { className: "fine" }, text));
}

// ---------------------------------------------------------------- writing



function startNew(kind = speaksChat() || !server.text ? "chat" : "text") {
  show(isEmpty(session.chat) && session.chat.kind === kind ? session.chat : newChat(kind));
  (kind === "text" ? $("log").querySelector("textarea") : $("input")).focus();
}
function submit() {
  const text = $("input").value;
  if (!text.trim() || running()) return;
  const told = command(text, startNew);
  $("input").value = "";
  grow($("input"));
  if (told === null) send(text); else if (told) toast(told);
  drawComposer();
}
$("composer").onsubmit = (event) => {
  event.preventDefault();
  if (running()) stop(); else submit();
};
$("input").oninput = () => { grow($("input")); drawComposer(); };
$("input").onkeydown = (event) => {
  if (enters(event)) { event.preventDefault(); submit(); }
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
$("theme").onclick = () => {
  const dark = getComputedStyle(document.documentElement).colorScheme.trim() === "dark"
    || (!setting("theme") && matchMedia("(prefers-color-scheme: dark)").matches);
  set("theme", dark ? "light" : "dark");
};
onSetting((name) => {
  const { dataset } = document.documentElement;
  if (setting("theme")) dataset.theme = setting("theme"); else delete dataset.theme;
  if (name === "key") meet();
  if (name === "system") session.draw(); else drawComposer();
});

document.onkeydown = (event) => {
  const key = event.key.toLowerCase();
  const control = event.ctrlKey || event.metaKey;
  if (key === "escape" && phone.matches && menuIsOpen()) openMenu(false);
  else if (key === "escape" && !document.querySelector("dialog[open]")) stop();
  else if (control && event.shiftKey && (key === "o" || key === "n")) { event.preventDefault(); startNew(); }
  else if (control && key === "k") {
    event.preventDefault();
    openMenu(true);
    $("search").focus();
  }
};

// ---------------------------------------------------------------- beginning

let retry = 0;
async function meet() { // who is there? asks again until someone is
  clearTimeout(retry);
  let trouble = "";
  try {
    await connect();
    defaults(model()?.nanochat);
  } catch (error) {
    trouble = error instanceof Refused && error.status === 401 ? "This server wants an API key: see Settings"
      : "The server can't be reached; trying again…";
    if (error.status !== 401) retry = setTimeout(meet, 3000);
  }
  session.manyModels = server.models.length > 1;
  $("model").classList.toggle("down", Boolean(trouble));
  $("model-name").textContent = trouble || (session.manyModels ? "" : model().id);
  $("models").hidden = Boolean(trouble) || !session.manyModels;
  $("models").replaceChildren(...server.models.map(
    (one) => h("option", { value: one.id, selected: one === model() }, one.id)));
  $("new-text").hidden = !server.text;
  session.draw();
}
$("models").onchange = () => {
  set("model", $("models").value);
  defaults(model()?.nanochat);
  session.draw();
};

// At the start, and when another tab has changed something. What is being written here, or is newer here, stays.
async function readChats() {
  const kept = await allChats().catch(() => []);
  const own = [session.chat, ...session.chats.filter((chat) => running(chat))];
  const stays = (chat) => own.find((one) => one.id === chat.id && (running(one) || one.updated >= chat.updated));
  const unsaved = own.filter((one) => running(one) && !kept.some((chat) => chat.id === one.id));
  session.chats = [...new Set([...unsaved, ...kept.map((chat) => stays(chat) ?? chat)])];
  const same = session.chats.find((chat) => chat.id === session.chat.id);
  if (same && same !== session.chat) show(same); else session.drawList();
}
onChangeElsewhere(readChats);

session.draw(true);
openMenu(!phone.matches);
readChats();
meet();
