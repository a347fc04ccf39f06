// The inside of the model: what it did before it said a token of an answer. The numbers are the server's (/v1/inside).
import { explain, lookInside, server } from "./api.js";
import { prompt, session } from "./chat.js";
import { button, h } from "./dom.js";
import { percent, visible } from "./tokens.js";
import { parentOf, textOf, wire } from "./tree.js";

const shown = new WeakMap(); // answer → {box, text: what the answer was then}

export const canLookInside = () => Boolean(server.inside);

/** The panel of `answer`; it fills itself. */
export function insideView(answer) {
  const text = textOf(answer);
  if (shown.get(answer)?.text !== text) {
    const box = h("section", { className: "inside", "aria-label": "Inside the model" });
    shown.set(answer, { box, text });
    const panel = { box, answer, words: null, views: h("div", { className: "views" }), head: null, asked: 0 };
    box.append(panel.views);
    look(panel);
  }
  return shown.get(answer).box;
}

/** Ask for the token at `position` (default: the first of the answer), and show it. */
async function look(panel, position) {
  const { answer } = panel;
  const number = ++panel.asked; // an older question may be answered later
  const { sent, messages } = prompt(session.chat, parentOf(session.chat, answer), answer.stats?.system ?? "");
  const forgotten = Math.max(sent.findIndex((node) => node.id === answer.stats?.remembers), 0);
  messages.splice(messages.length - sent.length, forgotten);
  panel.views.setAttribute("aria-busy", "true");
  try {
    // max_tokens 1: what the model remembered is known, so nothing more has to make room.
    const found = await lookInside({ model: answer.stats?.model, messages: [...messages, wire(answer)], max_tokens: 1,
      ...(position && { position }) });
    if (number !== panel.asked) return;
    panel.words ??= choice(panel, found);
    draw(panel, found);
  } catch (error) {
    panel.views.replaceChildren(h("p", { className: "wrong", role: "alert" }, explain(error)));
    if (!panel.words) shown.delete(answer); // the next time it is tried again
  }
  panel.views.removeAttribute("aria-busy");
}

// ---------------------------------------------------------------- small things

const plain = (text) => text.replace(/^bytes:/, "");
const word = (text) => h("code", {}, visible(plain(text)));
// Sorted: the keys of an object that are numbers come first in JavaScript.
const best = (said) => Object.entries(said.top_logprobs).map(([text, nats]) => [text, Math.exp(nats)])
  .sort(([, p], [, other]) => other - p);
const shade = (node, share) => { node.style.setProperty("--surprise", `${Math.round(70 * share)}%`); return node; };

/** Buttons of which one is chosen; arrow keys move between them. `onChoose(index)`. */
function group(label, buttons, chosen, onChoose) {
  const mark = (index) => buttons.forEach((each, i) => {
    each.setAttribute("aria-pressed", String(i === index));
    each.tabIndex = i === index ? 0 : -1;
  });
  buttons.forEach((each, i) => { each.onclick = () => { mark(i); onChoose(i); }; });
  mark(chosen);
  const box = h("div", { role: "group", "aria-label": `${label}; arrow keys move between them` }, buttons);
  box.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const next = step && buttons[buttons.indexOf(event.target) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
  };
  return box;
}

/** The answer's tokens, one of which is looked at. */
function choice(panel, { tokens, prompt_tokens: first, position }) {
  const buttons = tokens.slice(first).map((text) => button(visible(plain(text)), null, { className: "token" }));
  const box = group("Words of the answer", buttons, position - first, (index) => look(panel, first + index));
  box.className = "words";
  const hint = "Choose a word of the answer to see how the model came to say it.";
  panel.box.prepend(h("p", { className: "fine" }, hint), box);
  return box;
}

function view(title, explanation, ...content) {
  return h("section", {}, h("h3", {}, title), h("p", { className: "fine" }, explanation), ...content);
}

// ---------------------------------------------------------------- the views

function draw(panel, found) {
  const { tokens, position, layers } = found;
  const said = tokens[position] ?? best(layers.at(-1))[0][0];
  const [start, end] = ["<|output_start|>", "<|output_end|>"].map((mark, i) => tokens.lastIndexOf(mark, position - i));
  const author = start > end ? " the calculator wrote " : " the model says ";
  panel.views.replaceChildren(
    h("p", { role: "status" }, "After ", word(tokens[position - 1]), author, word(said),
      `, to which the model gives ${percent(Math.exp(layers.at(-1).logprob))}.`),
    layerByLayer(layers, said), heads(panel, found, said), without(found, said), alike(found));
}

function layerByLayer(layers, said) {
  const rows = layers.flatMap((layer, i) => [h("dt", {}, i ? `layer ${i}` : "before layer 1"),
    h("dd", {}, best(layer).slice(0, 3).map(([text, p]) => shade(
      h("span", { className: text === said ? "guess said" : "guess" }, word(text), ` ${percent(p)}`), p)))]);
  return view("Layer by layer", "The last step of the model turns its state into words. Here this step follows every "
    + "layer: this is what the model would have said if it had stopped there.", h("dl", {}, rows));
}

function heads(panel, { parts, tokens, position }, said) {
  const all = parts.filter((part) => part.part === "head");
  const text = h("p", { className: "tokens", dir: "auto" });
  const summary = h("p", { className: "fine", role: "status" });
  const show = (index) => {
    const { layer, head, attends, without: lost } = all[index];
    const weights = new Map(attends);
    text.replaceChildren(...tokens.slice(0, position).map((token, i) => {
      const weight = weights.get(i) ?? 0;
      return shade(h("span", { className: "token", title: percent(weight) }, plain(token)), weight);
    }));
    const most = attends.slice(0, 3).flatMap(
      ([i, weight], place) => [place ? ", " : "", word(tokens[i]), ` ${percent(weight)}`]);
    summary.replaceChildren(`Head ${head} of layer ${layer} looks at `, ...most, ". Without this head ", word(said),
      ` would get ${percent(Math.exp(lost.logprob))}; the most probable word would be `, word(best(lost)[0][0]), ".");
  };
  const buttons = all.map(({ layer, head, without: lost }) => button([`${layer}.${head} `,
    h("small", {}, percent(Math.exp(lost.logprob)))], null, { title: `Layer ${layer}, head ${head}` }));
  const lost = all.map((part) => part.without.logprob);
  const chosen = panel.head ?? lost.indexOf(Math.min(...lost)); // at first the head that matters most
  const box = group("Heads", buttons, chosen, (index) => show(panel.head = index));
  box.className = "heads";
  show(chosen);
  return view("Where the heads look", "Each head of a layer looks back at the words that were read and fetches what it "
    + "needs from some of them: the darker, the more. The percentage on a button says how likely the word would be if "
    + "this head were switched off.", box, summary, text);
}

const PARTS = { smear: () => "smear: no share of the preceding word", mlp: ({ layer }) => `MLP of layer ${layer}`,
  value_embedding: ({ layer }) => `value embeddings of layer ${layer}` };

function without({ parts, layers }, said) {
  const row = (name, { logprob, ...rest }) => {
    const bar = h("i", {});
    bar.style.width = `${Math.max(100 * Math.exp(logprob), 1)}%`;
    const [other] = best(rest)[0];
    return [h("dt", {}, name), h("dd", {}, h("span", { className: "bar" }, bar), ` ${percent(Math.exp(logprob))} `,
      other === said ? null : h("span", {}, "says ", word(other)))];
  };
  return view("What is missing without a part", "One part is left out, for this word only. The bar says how likely the "
    + "word would still be. Smear mixes a share of the preceding word into every word; value embeddings are tables in "
    + "which layers look the word up again; an MLP works on each word by itself.", h("dl", {},
    row("nothing is left out", layers.at(-1)),
    parts.filter((part) => PARTS[part.part]).flatMap((part) => row(PARTS[part.part](part), part.without))));
}

const TABLES = { embedding: () => "embedding", smear: () => "embedding with smear",
  value_embedding: ({ layer }) => `value embedding of layer ${layer}` };

function alike({ neighbours, tokens, position }) {
  const read = tokens[position - 1];
  const rows = neighbours.flatMap((table) => [h("dt", {}, TABLES[table.part](table)), h("dd", {},
    table.tokens.filter(([text]) => text !== read).slice(0, 6).map(([text, cosine]) => shade(
      h("span", { className: "guess" }, word(text), ` ${cosine.toFixed(2)}`), Math.max(cosine, 0))))]);
  return view("Words that are alike", ["To the model a word is a row of numbers in a table. These words have the rows "
    + "most like that of ", word(read), ", which was read last (1: the same direction, 0: nothing in common)."],
  h("dl", {}, rows));
}
