// What the model would have said after every layer, and where its heads looked, before one token of an answer.
"use strict";

// {layers: the probabilities of all tokens after each layer, heads: [{layer, head, first, weights}]} after `ids`.
function lookInside(model, ids) {
  model.reset();
  for (const id of ids.slice(0, -1)) model.read(id);
  model.watched = {states: [], patterns: []};
  model.read(ids.at(-1));
  const {states, patterns} = model.watched;
  model.watched = null;
  const layers = states.map((state) => {
    const logits = model.logits(state), largest = Math.max(...logits);
    const parts = Array.from(logits, (value) => Math.exp(value - largest)), total = parts.reduce((a, b) => a + b);
    return parts.map((part) => part / total);
  });
  return {layers, heads: patterns};
}

function largest(numbers, count) {  // their indices
  return Array.from(numbers.keys()).sort((a, b) => numbers[b] - numbers[a]).slice(0, count);
}

// The element below an answer: closed at first; the choice of a word fills it.
function insideOf(chat, {prompt, written}) {
  const make = (tag, ...children) => {
    const element = document.createElement(tag);
    element.append(...children);
    return element;
  };
  const names = Object.fromEntries(Object.entries(chat.tokenizer.specials).map(([name, id]) => [id, name]));
  const word = (id) => `“${names[id] ?? chat.tokenizer.decode([id])}”`;
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const choice = make("select", make("option", "choose a word"), ...written.map((id) => make("option", word(id))));
  const box = make("div");
  choice.setAttribute("aria-label", "Word of the answer");
  choice.onchange = () => {
    if (running || !choice.selectedIndex) return;
    const ids = [...prompt, ...written.slice(0, choice.selectedIndex - 1)], {layers, heads} = lookInside(chat.model, ids);
    chat.cached = ids;
    const guesses = layers.map((shares, i) => make("li", i ? `layer ${i}: ` : "before layer 1: ",
      largest(shares, 3).map((id) => `${word(id)} ${percent(shares[id])}`).join(", ")));
    const looks = heads.map(({layer, head, first, weights}) => make("li", `layer ${layer + 1}, head ${head + 1}: `,
      largest(weights, 4).map((i) => `${word(ids[first + i])} ${percent(weights[i])}`).join(", ")));
    box.replaceChildren(make("p", "What the model would have said if it had stopped after a layer:"),
      make("ul", ...guesses), make("p", "Which words its heads looked at:"), make("ul", ...looks));
  };
  return make("details", make("summary", "Inside the model"), choice, box);
}
