// A text to continue, as base models do: one sheet of paper; what was there before the last continuation is kept for
// undo and for another try.
import { describe } from "./actions.js";
import { server, tokenize } from "./api.js";
import { canForce, CHARS_PER_TOKEN, remember, running, session, stop, write } from "./chat.js";
import { $, button, enters, grow, h, iconButton } from "./dom.js";
import { model, request, setting } from "./settings.js";
import { join, read, view } from "./tokens.js";
import { nameAfter } from "./tree.js";

let shown = null; // the chat the sheet belongs to
let sheet = null;
let showsTokens = false;
let saving = 0;

/** What the model is to go on with: the text, or its last tokens where it is longer than the context. */
async function promptOf(text) {
  const context = model()?.nanochat?.context_tokens;
  if (!server.tokenize || !context) return { prompt: text };
  const length = context - Math.ceil(Math.min(setting("max_tokens"), context / 4)); // the rest is for what comes
  const [begin, ...ids] = await tokenize({ prompt: text.slice(-CHARS_PER_TOKEN * context) }).catch(() => []);
  return ids.length < length ? { prompt: text } : { prompt: [begin, ...ids.slice(1 - length)], notes: { length } };
}

async function writeOn(chat = session.chat) {
  const { prompt, notes } = await promptOf(chat.text);
  if (running(chat) || !chat.text) return;
  const { from, tokens, stats } = chat;
  const body = { ...request(server.text), prompt };
  if (stats?.ended && canForce()) body.ignore_eos = true;
  Object.assign(chat, { from: chat.text.length, tokens: [] });
  showsTokens = false;
  const take = (choice) => {
    chat.text += choice.text ?? "";
    chat.tokens.push(...read(choice.logprobs));
  };
  await write(chat, [{ target: chat, route: "v1/completions", body, take, notes, earlier: stats ?? {} }]);
  if (chat.text.length === chat.from && from !== undefined) Object.assign(chat, { from, tokens }); // nothing came
  if (session.chat === chat) sheet.focus();
}

function forgetLast(chat) { for (const stale of ["from", "tokens", "stats", "error"]) delete chat[stale]; }
function undo(chat) {
  chat.text = chat.text.slice(0, chat.from);
  forgetLast(chat);
  showsTokens = false;
}
function again() {
  undo(session.chat);
  writeOn();
}
function instead(number, [text]) { // another token there, and on from it
  const chat = session.chat;
  chat.text = chat.text.slice(0, chat.from) + join(chat.tokens.slice(0, number)) + text;
  writeOn();
}

/** The sheet and what can be done with it. */
export function drawText() {
  const chat = session.chat;
  const busy = Boolean(running());
  if (shown !== chat) {
    shown = chat;
    showsTokens = false;
    sheet = h("textarea", { className: "sheet", "aria-label": "Text", dir: "auto", spellcheck: false,
      placeholder: "Begin a text, and the model goes on with it …" });
    sheet.oninput = () => {
      chat.text = sheet.value;
      forgetLast(chat);
      if (!chat.named) chat.title = nameAfter(chat.text);
      clearTimeout(saving);
      saving = setTimeout(remember, 600, chat);
      grow(sheet);
      tools(chat, false);
    };
    sheet.onkeydown = (event) => {
      if (enters(event) && (event.ctrlKey || event.metaKey)) { event.preventDefault(); writeOn(); }
    };
  }
  sheet.readOnly = busy;
  if (sheet.value !== chat.text) sheet.value = chat.text;
  const given = h("span", { className: "given" }, chat.text.slice(0, chat.from));
  const paper = showsTokens && !busy
    ? h("div", { className: "sheet" }, given, view(chat.tokens, () => null, instead)) : sheet;
  if ($("log").firstChild?.lastChild !== paper) {
    const heading = h("h1", { className: "unseen" }, chat.title || "New text");
    $("log").replaceChildren(h("section", { className: "text" }, heading, paper));
  }
  grow(sheet);
  tools(chat, busy);
}

function tools(chat, busy) {
  const odds = chat.tokens?.some((token) => token.p !== undefined);
  const redraw = () => { drawText(); session.drawList(); };
  const main = busy ? iconButton("stop", "Stop", () => stop(), { className: "send" })
    : button("Write on", () => writeOn(), { className: "primary", disabled: !chat.text, title: "Ctrl+Enter" });
  const disabled = chat.from === undefined || busy;
  const takeBack = () => { undo(chat); redraw(); sheet.focus(); };
  const look = () => { showsTokens = !showsTokens; redraw(); };
  const all = [
    iconButton("undo", "Undo the continuation", takeBack, { disabled }),
    iconButton("again", "Another continuation", again, { disabled }),
    odds && !busy ? iconButton("odds", "Token probabilities", look, { "aria-pressed": String(showsTokens) }) : null,
    h("span", { className: "fine note" }, describe(chat.stats, chat)),
    chat.error ? h("span", { className: "wrong", role: "alert" }, chat.error) : null,
    h("span", { className: "space" }), main];
  const label = document.activeElement?.closest("#writer") && document.activeElement.getAttribute("aria-label");
  $("writer").replaceChildren(...all.filter(Boolean));
  if (label) ($("writer").querySelector(`[aria-label="${CSS.escape(label)}"]:enabled`) ?? sheet).focus();
}
