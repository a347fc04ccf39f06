// What can be done with a message: the buttons below it, the note beside them, the box in which it is edited.
import {
  canForce, canGoOn, correct, edit, goOn, isWriting, pick, rate, regenerate, running, session, touch, turn,
} from "./chat.js";
import { $, button, copyText, enters, escapes, grow, h, iconButton, sends } from "./dom.js";
import { canLookInside } from "./inside.js";
import { canShowPrompt } from "./prompt.js";
import { parentOf, siblings, textOf } from "./tree.js";

/** Messages that are shown another way: "odds" token by token, "prompt" with what the model read,
 *  "inside" with what happened in the model. */
export const looks = new WeakMap();
export let editing = null; // the message in the editor

/** What the parts of this module that a message has depend on. */
export function changesOf(node) {
  const all = siblings(session.chat, node);
  const question = parentOf(session.chat, node);
  return [all.indexOf(node), all.length, looks.get(node), node.rating, describe(node.stats, node),
    question?.compared && question.chosen === node.id, question?.compared, canShowPrompt(), canLookInside()].join();
}

const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** The note below an answer: its size, speed, end. */
export function describe(stats = {}, target = null) {
  const endings = { length: "cut at the limit", stopped: "stopped", cancel: "stopped", corrected: "corrected by you" };
  const isBroken = stats.tokens && !stats.ending && !target?.error && !isWriting(target);
  const seconds = (time) => time < 0.95 ? `${Math.ceil(1000 * time)} ms` : `${time.toFixed(1)} s`;
  const rate = stats.rate?.toFixed(stats.rate < 9.95 ? 1 : 0);
  return [stats.tokens && count(stats.tokens, "token"), stats.rate && `${rate} per second`,
    stats.promptTokens > 0 && `${count(stats.promptTokens, "token")} read in ${seconds(stats.promptSeconds)}`,
    stats.length && `of the text only the last ${count(stats.length, "token")}`,
    isBroken ? "interrupted" : endings[stats.ending],
    stats.ended && `the model thinks that this is the end${canForce() ? "; press again to make it go on" : ""}`,
    stats.ignored && `the server ignored ${stats.ignored.join(", ")}`].filter(Boolean).join(" · ");
}

function look(node, way) {
  if (looks.get(node) === way) looks.delete(node); else looks.set(node, way);
  session.draw();
}

function branches(node) {
  const all = siblings(session.chat, node);
  const place = all.indexOf(node);
  if (all.length < 2 || parentOf(session.chat, node)?.compared) return null;
  const to = (name, label, step) =>
    iconButton(name, label, () => turn(node, step), { disabled: !all[place + step] || Boolean(running()) });
  return h("span", { className: "branches" }, to("left", "Previous version", -1),
    h("span", {}, `${place + 1}/${all.length}`), to("right", "Next version", 1));
}

/** The row below a message. */
export function actionsOf(node, isLast) {
  const copy = iconButton("copy", "Copy", () => copyText(textOf(node), copy));
  const actions = [branches(node), node.parts.length ? copy : null];
  if (!running()) actions.push(...node.role === "user" ? ofQuestion(node) : ofAnswer(node, isLast));
  return h("div", { className: "actions" }, actions);
}

const ofQuestion = (node) => [iconButton("pen", "Edit", () => startEdit(node))];

function ofAnswer(node, isLast) {
  const question = parentOf(session.chat, node);
  const toggle = (icon, label, isOn, onclick) => iconButton(icon, label, onclick, { "aria-pressed": String(isOn) });
  const as = (way) => looks.get(node) === way;
  const again = node.error ? button("Try again", () => regenerate(node), { className: "link" })
    : iconButton("again", "Regenerate", () => regenerate(node));
  const author = session.manyModels && !question.compared && node.stats?.model; // else it stands above the answer
  const note = [describe(node.stats, node), author].filter(Boolean).join(" · ");
  const isChosen = question.chosen === node.id;
  const use = button(isChosen ? "In use" : "Use this one", () => pick(node), { className: "link", disabled: isChosen });
  return [
    question.compared ? use : again,
    ...node.parts.length ? [
      iconButton("edit", "Correct the answer", () => startEdit(node)),
      isLast && canGoOn() ? iconButton("on", "Continue", () => goOn(node)) : null,
      toggle("good", "Good answer", node.rating === 1, () => rate(node, 1)),
      toggle("bad", "Bad answer", node.rating === -1, () => rate(node, -1)),
      node.tokens?.some((token) => token.p !== undefined)
        ? toggle("odds", "Token probabilities", as("odds"), () => look(node, "odds")) : null,
      canShowPrompt() ? toggle("read", "What the model read", as("prompt"), () => look(node, "prompt")) : null,
      canLookInside() ? toggle("inside", "Inside the model", as("inside"), () => look(node, "inside")) : null,
      question.compared ? null : iconButton("compare", "Answers side by side", () => {
        question.compared = true;
        touch(question);
      })] : [],
    h("span", { className: "fine note" }, note)];
}

// ---------------------------------------------------------------- in other words

/** Show `node` in an editor; null: no message any more. */
export function startEdit(node) {
  editing = node;
  if (!node) return;
  session.draw();
  const area = $("log").querySelector(".editor textarea");
  grow(area);
  area.focus();
}

export function editor(node) {
  const isAnswer = node.role === "assistant";
  const label = isAnswer ? "Correct the answer" : "Edit";
  const area = h("textarea", { rows: 1, value: textOf(node), dir: "auto",
    "aria-label": isAnswer ? "What the answer should be" : "Edit the message" });
  const close = () => {
    const place = area.closest("article");
    const number = [...$("log").querySelectorAll("article")].indexOf(place);
    editing = null;
    session.draw();
    $("log").querySelectorAll("article")[number]?.querySelector(`[aria-label="${label}"]`)?.focus();
  };
  const done = () => {
    if (!area.value.trim()) return;
    editing = null;
    $("input").focus();
    if (isAnswer) correct(node, area.value.trim()); else edit(node, area.value);
  };
  area.oninput = () => grow(area);
  area.onkeydown = (event) => {
    if (escapes(event)) { event.stopPropagation(); close(); }
    if (isAnswer ? enters(event) && (event.ctrlKey || event.metaKey) : sends(event)) { event.preventDefault(); done(); }
  };
  return h("div", { className: "editor" }, area, h("div", { className: "row" },
    button("Cancel", close), button(isAnswer ? "Save" : "Send", done, { className: "primary" })));
}
