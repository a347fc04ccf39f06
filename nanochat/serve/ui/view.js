// The conversation on screen. A message is drawn again only when something about it changed; while it is being written,
// only its last blocks are.
import { canGoOn, branch, edit, goOn, model, regenerate, running, send, session, speaksChat, turn } from "./chat.js";
import { $, button, copyText, grow, h, iconButton, patch } from "./dom.js";
import { markdown } from "./markdown.js";
import { openSettings, setting } from "./settings.js";
import { view } from "./tokens.js";
import { path, siblings, textOf } from "./tree.js";

const drawn = new Map(); // node → {key, element}
const inspected = new WeakSet(); // messages shown token by token
let editing = null;

// ---------------------------------------------------------------- a message

export function drawTool({ expression, result }) {
  const long = /\n/.test(expression + result) || expression.length + result.length > 70;
  return h("div", { className: long ? "tool long" : "tool", role: "group", "aria-label": "Tool call" },
    h("span", { className: "label" }, "calculator"), h("code", {}, expression),
    h("span", { className: "arrow" }, "→"), h("output", {}, result || "no result"));
}

function bodyOf(node) {
  const busy = running()?.target === node;
  if (node.role === "user") return [h("div", { className: "bubble", dir: "auto" }, textOf(node))];
  const content = inspected.has(node) && !busy
    ? view(node.tokens, drawTool, canGoOn() && !running() ? (number, other) => branch(node, number, other) : null)
    : node.parts.flatMap((part) => part.type === "text" ? markdown(part.text) : [drawTool(part)]);
  const dots = { className: "dots", role: "img", "aria-label": "Thinking" };
  if (busy && !node.parts.length) content.push(h("div", dots, h("i"), h("i"), h("i")));
  else if (!node.parts.length && !node.error) {
    content.push(h("p", { className: "fine" }, "The model ended without a word that can be shown."));
  }
  if (node.error) content.push(h("div", { className: "error", role: "alert" }, node.error));
  return content;
}

export function describe(stats = {}) {
  const notes = { length: "cut at the limit", stopped: "stopped", cancel: "stopped" };
  return [stats.tokens && `${stats.tokens} token${stats.tokens === 1 ? "" : "s"}`,
    stats.rate && `${Math.round(stats.rate)} per second`, notes[stats.ending],
    stats.dropped && `the first ${stats.dropped} messages no longer fit`].filter(Boolean).join(" · ");
}

function actionsOf(node, isLast) {
  const actions = h("div", { className: "actions" });
  const all = siblings(session.chat, node);
  const place = all.indexOf(node);
  if (all.length > 1) {
    const to = (name, label, step) =>
      iconButton(name, label, () => turn(node, step), { disabled: !all[place + step] || Boolean(running()) });
    actions.append(h("span", { className: "branches" }, to("left", "Previous version", -1),
      h("span", {}, `${place + 1}/${all.length}`), to("right", "Next version", 1)));
  }
  const copy = iconButton("copy", "Copy", () => copyText(textOf(node), copy));
  if (node.parts.length) actions.append(copy);
  if (running()) return actions;
  if (node.role === "user") actions.append(iconButton("pen", "Edit", () => startEdit(node)));
  else {
    if (node.error) actions.append(button("Try again", () => regenerate(node), { className: "link" }));
    else actions.append(iconButton("again", "Regenerate", () => regenerate(node)));
    if (isLast && node.parts.length && canGoOn()) actions.append(iconButton("on", "Continue", () => goOn(node)));
    if (node.tokens?.some((token) => token.p !== undefined)) {
      actions.append(iconButton("odds", "Token probabilities", () => {
        if (!inspected.delete(node)) inspected.add(node);
        draw();
      }, { "aria-pressed": String(inspected.has(node)) }));
    }
    actions.append(h("span", { className: "fine note" }, describe(node.stats),
      session.manyModels && node.stats?.model ? ` · ${node.stats.model}` : ""));
  }
  return actions;
}

function drawMessage(node, isLast) {
  const name = node.role === "user" ? "You" : "nanochat";
  const element = h("article", { className: `message ${node.role}`, "aria-label": name },
    h("h2", { className: "unseen" }, name));
  if (editing === node) element.append(editor(node));
  else element.append(h("div", { className: "body" }, bodyOf(node)), actionsOf(node, isLast));
  return element;
}

// What a message looks like depends on this and on nothing else.
function keyOf(node, isLast) {
  const all = siblings(session.chat, node);
  return [all.indexOf(node), all.length, isLast, Boolean(running()), running()?.target === node, editing === node,
    inspected.has(node), node.parts.length, textOf(node).length, node.error, describe(node.stats), canGoOn(),
    session.manyModels].join();
}

function startEdit(node) {
  editing = node;
  draw();
  const area = drawn.get(node).element.querySelector("textarea");
  grow(area);
  area.focus();
}
export function editLast() {
  const mine = path(session.chat).findLast((node) => node.role === "user");
  if (mine && !running()) startEdit(mine);
}
export const enters = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing;

function editor(node) {
  const area = h("textarea", { rows: 1, value: textOf(node), "aria-label": "Edit the message" });
  const close = () => {
    editing = null;
    draw();
    drawn.get(node)?.element.querySelector("[aria-label=Edit]")?.focus();
  };
  const done = () => {
    if (!area.value.trim()) return;
    editing = null;
    $("input").focus();
    edit(node, area.value);
  };
  area.oninput = () => grow(area);
  area.onkeydown = (event) => {
    if (event.key === "Escape") { event.stopPropagation(); close(); }
    if (enters(event)) { event.preventDefault(); done(); }
  };
  return h("div", { className: "editor" }, area, h("div", { className: "row" },
    button("Cancel", close), button("Send", done, { className: "primary" })));
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
  if (fresh) editing = null;
  const nodes = path(session.chat);
  const focused = document.activeElement;
  const focusedNode = [...drawn.entries()].find(([, { element }]) => element.contains(focused))?.[0];
  const elements = nodes.map((node, i) => {
    const key = keyOf(node, i === nodes.length - 1);
    if (drawn.get(node)?.key !== key) drawn.set(node, { key, element: drawMessage(node, i === nodes.length - 1) });
    return drawn.get(node).element;
  });
  for (const node of drawn.keys()) if (!nodes.includes(node)) drawn.delete(node);
  const system = setting("system").trim();
  const top = nodes.length ? [h("h1", { className: "unseen" }, session.chat.title || "Conversation")] : [hello()];
  const change = () => openSettings("system");
  if (system) top.push(button(system, change, { className: "system", title: "The system prompt" }));
  place([...top, ...elements]);
  keepFocus(focused, focusedNode, nodes);
  follow(fresh || Boolean(running()));
}

// Elements that stay are not moved: a selection and the place within a wide block of code survive.
function place(elements) {
  elements.forEach((element, i) => {
    if ($("log").children[i] !== element) $("log").insertBefore(element, $("log").children[i] ?? null);
  });
  while ($("log").children.length > elements.length) $("log").lastChild.remove();
}

// A button of a message that was drawn again gets the focus back; one that is gone leaves it to the box.
function keepFocus(focused, node, nodes) {
  if (!node || focused.isConnected) return;
  const label = focused.getAttribute("aria-label");
  const version = nodes.find((one) => one.parent === node.parent); // of the same message
  const buttons = [...(drawn.get(version)?.element.querySelectorAll(".actions button:enabled") ?? [])];
  const same = buttons.find((one) => one.getAttribute("aria-label") === label);
  (same ?? (label?.includes("version") ? buttons[0] : null) ?? $("input")).focus();
}

/** While an answer streams in: the end of the last message only. */
export function drawStream(node) {
  const body = drawn.get(node)?.element.querySelector(".body");
  if (body) patch(body, bodyOf(node));
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

/** Tokens of the context in use after what is on screen, or null when unknown. */
export function contextUse() {
  const last = path(session.chat).findLast((node) => node.stats);
  const used = last?.stats.used ?? null;
  const total = model()?.nanochat?.context_tokens;
  return used === null || !total ? null : { used: Math.min(used, total), total };
}
