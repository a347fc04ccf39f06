// A text to continue, as base models do: one sheet of paper; what was there before the last continuation is kept for
// undo and for another try.
import { server } from "./api.js";
import { remember, running, session, stop, write } from "./chat.js";
import { $, grow, h, icon, iconButton } from "./dom.js";
import { request } from "./settings.js";
import { read, view } from "./tokens.js";
import { nameAfter } from "./tree.js";
import { describe } from "./view.js";

let shown = null; // the chat the sheet belongs to
let sheet = null;
let showsTokens = false;
let saving = 0;

async function writeOn(chat = session.chat) {
  if (running(chat) || !chat.text) return;
  Object.assign(chat, { from: chat.text.length, tokens: [] });
  showsTokens = false;
  await write(chat, chat, "v1/completions", { ...request(server.text), prompt: chat.text }, (choice) => {
    chat.text += choice.text ?? "";
    chat.tokens.push(...read(choice.logprobs));
  });
  if (session.chat === chat) sheet.focus();
}

function undo(chat) {
  chat.text = chat.text.slice(0, chat.from);
  for (const gone of ["from", "tokens", "stats", "error"]) delete chat[gone];
  showsTokens = false;
}
function again() {
  undo(session.chat);
  writeOn();
}
function instead(number, [text]) { // another token there, and on from it
  const chat = session.chat;
  chat.text = chat.text.slice(0, chat.from) + chat.tokens.slice(0, number).map((token) => token.text).join("") + text;
  writeOn();
}

/** The sheet and what can be done with it. */
export function drawText() {
  const chat = session.chat;
  const busy = Boolean(running());
  if (shown !== chat) {
    shown = chat;
    showsTokens = false;
    sheet = h("textarea", { className: "sheet", "aria-label": "Text", placeholder: "Begin a text, and the model goes on with it …", spellcheck: false });
    sheet.oninput = () => {
      chat.text = sheet.value;
      if (chat.from !== undefined) for (const stale of ["from", "tokens", "stats", "error"]) delete chat[stale];
      chat.title = nameAfter(chat.text);
      clearTimeout(saving);
      saving = setTimeout(remember, 600, chat);
      grow(sheet);
      tools(chat, false);
    };
    sheet.onkeydown = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); writeOn(); }
    };
  }
  sheet.readOnly = busy;
  if (sheet.value !== chat.text) sheet.value = chat.text;
  const paper = showsTokens && !busy ? h("div", { className: "sheet shown" }, h("span", { className: "given" }, chat.text.slice(0, chat.from)),
    view(chat.tokens, () => null, instead)) : sheet;
  if ($("log").firstChild?.lastChild !== paper) {
    $("log").replaceChildren(h("section", { className: "text" }, h("h1", { className: "unseen" }, chat.title || "New text"), paper));
  }
  grow(sheet);
  tools(chat, busy);
}

function tools(chat, busy) {
  const odds = chat.tokens?.some((token) => token.p !== undefined);
  const redraw = () => { drawText(); session.drawList(); };
  const main = busy ? h("button", { type: "button", className: "send", "aria-label": "Stop", onclick: () => stop() }, icon("stop"))
    : h("button", { type: "button", className: "primary", onclick: () => writeOn(), disabled: !chat.text, title: "Ctrl+Enter" }, "Write on");
  const undoable = chat.from !== undefined && !busy;
  const all = [
    iconButton("undo", "Undo the continuation", () => { undo(chat); redraw(); sheet.focus(); }, { disabled: !undoable }),
    iconButton("again", "Another continuation", again, { disabled: !undoable }),
    odds && !busy ? iconButton("odds", "Token probabilities", () => { showsTokens = !showsTokens; redraw(); }, { "aria-pressed": String(showsTokens) }) : null,
    h("span", { className: "fine note" }, describe(chat.stats)),
    chat.error ? h("span", { className: "wrong", role: "alert" }, chat.error) : null,
    h("span", { className: "space" }), main];
  const label = document.activeElement?.closest("#writer") && document.activeElement.getAttribute("aria-label");
  $("writer").replaceChildren(...all.filter(Boolean));
  if (label) ($("writer").querySelector(`[aria-label="${CSS.escape(label)}"]:enabled`) ?? sheet).focus();
}
