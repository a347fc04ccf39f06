// The conversation on screen. A message is drawn again only when something about it changed; while it is being written,
// only its last blocks are.
import { actionsOf, changesOf, describe, editing, editor, looks, startEdit } from "./actions.js";
import { branch, canGoOn, isWriting, running, send, session, speaksChat, systemOf } from "./chat.js";
import { compare } from "./compare.js";
import { $, button, h, patch } from "./dom.js";
import { insideView } from "./inside.js";
import { markdown } from "./markdown.js";
import { promptView } from "./prompt.js";
import { model, openSettings, setting } from "./settings.js";
import { view } from "./tokens.js";
import { parentOf, path, siblings, textOf } from "./tree.js";

const drawn = new Map(); // node → {key, element}
const NUM_SHOWN = 200; // messages: a browser takes seconds to draw thousands
let numShown = NUM_SHOWN;

// ---------------------------------------------------------------- a message

export function drawTool({ expression, result }) {
  const isProgram = /\n/.test(expression);
  const long = isProgram || /\n/.test(result) || expression.length + result.length > 70;
  return h("div", { className: long ? "tool long" : "tool", role: "group", "aria-label": "Tool call" },
    h("span", { className: "label" }, isProgram ? "program" : "calculator"), h("code", {}, expression),
    h("span", { className: "arrow" }, "→"), h("output", {}, result || "no result"));
}

function bodyOf(node) {
  const busy = isWriting(node);
  if (node.role === "user") return [h("div", { className: "bubble", dir: "auto" }, textOf(node))];
  const choose = canGoOn() && !running() ? (number, other) => branch(node, number, other) : null;
  const content = looks.get(node) === "odds" && !busy ? view(node.tokens, drawTool, choose)
    : node.parts.flatMap((part) => part.type === "text" ? markdown(part.text) : [drawTool(part)]);
  if (looks.get(node) === "prompt" && !busy) content.unshift(promptView(node));
  if (looks.get(node) === "inside" && !busy) content.push(insideView(node));
  const dots = { className: "dots", role: "img", "aria-label": "Thinking" };
  if (busy && !node.parts.length) content.push(h("div", dots, h("i"), h("i"), h("i")));
  else if (!node.parts.length && !node.error) {
    content.push(h("p", { className: "fine" }, "The model ended without a word that can be shown."));
  }
  if (node.error) {
    content.push(h("div", { className: "error", role: "alert" }, node.error,
      node.cure ? button("Open settings", () => openSettings(node.cure), { className: "link" }) : null));
  }
  return content;
}

function drawMessage(node, isLast) {
  const isOneOfMany = node.role === "assistant" && parentOf(session.chat, node).compared;
  const name = node.role === "user" ? "You" : isOneOfMany ? node.stats?.model ?? "nanochat" : "nanochat";
  const element = h("article", { className: `message ${node.role}`, "aria-label": name },
    h("h2", { className: isOneOfMany ? "author" : "unseen" }, name));
  if (editing === node) element.append(editor(node));
  else element.append(h("div", { className: "body" }, bodyOf(node)), actionsOf(node, isLast));
  return element;
}

function elementOf(node, isLast) {
  // What a message looks like depends on this and on nothing else.
  const key = [isLast, Boolean(running()), isWriting(node), editing === node, node.parts.length, textOf(node).length,
    node.error, canGoOn(), session.manyModels, changesOf(node)].join();
  if (drawn.get(node)?.key !== key) drawn.set(node, { key, element: drawMessage(node, isLast) });
  return drawn.get(node).element;
}

export function editLast() {
  const last = path(session.chat).findLast((node) => node.role === "user");
  if (last && !running()) startEdit(last);
}

// ---------------------------------------------------------------- all of it

function hello() {
  const ideas = (model()?.nanochat?.suggestions ?? []).map((idea) => button(idea, () => send(idea)));
  return h("section", { className: "hello" }, h("img", { src: "logo.svg", alt: "", width: 56, height: 56 }),
    h("h1", {}, speaksChat() ? "What shall we talk about?" : "A base model"),
    h("p", {}, speaksChat() ? "A small language model, trained from nothing."
      : "It has not learnt to converse yet: it continues texts. Choose “New text to continue”."),
    h("div", { className: "ideas" }, ideas));
}

/** Everything but the list of conversations; `fresh`: another conversation is on screen than before. */
export function draw(fresh = false) {
  if (fresh) startEdit(null);
  if (fresh) numShown = NUM_SHOWN;
  const { chat } = session;
  const all = path(chat);
  const nodes = all.slice(-numShown);
  const isCompared = (node) => node.role === "assistant" && parentOf(chat, node)?.compared;
  const visible = nodes.flatMap((node) => isCompared(node) ? siblings(chat, node) : [node]);
  const focused = document.activeElement;
  const focusedNode = [...drawn.entries()].find(([, { element }]) => element.contains(focused))?.[0];
  for (const node of drawn.keys()) if (!visible.includes(node)) drawn.delete(node);
  const remembered = nodes.findLast((node) => node.stats)?.stats.remembers;
  const elements = nodes.flatMap((node, i) => [node.id === remembered ? memoryMark : null, isCompared(node)
    ? compare(parentOf(chat, node), siblings(chat, node), (answer) => elementOf(answer, false), place)
    : elementOf(node, i === nodes.length - 1)]);
  if (nodes.length < all.length) elements.unshift(button("Show earlier messages", showEarlier, { className: "link earlier" }));
  const top = nodes.length ? [h("h1", { className: "unseen" }, chat.title || "Conversation")] : [hello()];
  const change = () => openSettings("system");
  const system = systemOf(chat);
  if (system) top.push(button(system, change, { className: "system", dir: "auto", title: "The system prompt" }));
  place($("log"), [...top, ...elements].filter(Boolean));
  keepFocus(focused, focusedNode, nodes);
  if (nodes.length) follow(fresh || Boolean(running())); else scroll.scrollTop = 0;
}
function showEarlier() {
  const below = scroll.scrollHeight - scroll.scrollTop;
  numShown += NUM_SHOWN;
  draw();
  scroll.scrollTop = scroll.scrollHeight - below; // what was read stays where it is
  ($("log").querySelector(".earlier") ?? scroll).focus({ preventScroll: true });
}
const memoryMark = h("p", { className: "memory" }, h("span", {}, "The model remembers from here"));

// Elements that stay are not moved: a selection and the place within a wide block of code survive.
function place(parent, elements) {
  elements.forEach((element, i) => {
    if (parent.children[i] !== element) parent.insertBefore(element, parent.children[i] ?? null);
  });
  while (parent.children.length > elements.length) parent.lastChild.remove();
}

// A button of a message that was drawn again gets the focus back; one that is gone leaves it to the box.
function keepFocus(focused, node, nodes) {
  if (!node || focused.isConnected) return;
  const label = focused.getAttribute("aria-label");
  const version = nodes.find((other) => other.parent === node.parent); // of the same message
  const buttons = [...(drawn.get(version)?.element.querySelectorAll(".actions button:enabled") ?? [])];
  const same = buttons.find((other) => other.getAttribute("aria-label") === label);
  (same ?? (label?.includes("version") ? buttons[0] : null) ?? $("input")).focus();
}

/** While answers stream in: the end of each only. */
export function drawStream(nodes) {
  for (const node of nodes) {
    const body = drawn.get(node)?.element.querySelector(".body");
    if (body) patch(body, bodyOf(node));
  }
  follow(false);
}

const scroll = $("scroll");
let atEnd = true;
scroll.addEventListener("scroll", () => {
  atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
  $("to-end").hidden = atEnd;
});
$("to-end").onclick = () => follow(true);
function follow(always) { if (always || atEnd) scroll.scrollTop = scroll.scrollHeight; }

/** {used, total, isExact}: tokens after what is on screen, and how many the model can remember beside a new answer, for
 *  which the server keeps up to a quarter of the context free. Null when unknown. What follows the last answer that
 *  the server has counted is estimated. */
export function contextUse() {
  const context = model()?.nanochat?.context_tokens;
  const nodes = path(session.chat);
  const counted = nodes.findLastIndex((node) => node.stats?.used);
  if (!context || !nodes.some((node) => node.stats)) return null;
  const later = nodes.slice(counted + 1);
  const used = later.reduce((sum, node) => sum + (node.stats?.tokens ?? Math.ceil(textOf(node).length / 4)),
    nodes[counted]?.stats.used ?? 0);
  const total = context - Math.floor(Math.min(setting("max_tokens"), context / 4));
  return { used: Math.min(used, context), total, isExact: !later.length };
}
