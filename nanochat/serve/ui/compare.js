// The answers to one question side by side: of several models, or several samples of one.
import { server } from "./api.js";
import { inOrder, modelNamed, running, sample, session, touch } from "./chat.js";
import { button, h, iconButton } from "./dom.js";
import { model } from "./settings.js";

const MAX_SAMPLES = 8; // at a time; the server has more rows, but nobody reads more columns
const EVERY = "every model";
const parts = new WeakMap(); // question → {key, section, bar, grid}: the same elements, so that the focus stays

/** The section below `question`, with an element for each of `answers`. `place` puts elements into their parent. */
export function compare(question, answers, elementOf, place) {
  const known = parts.get(question) ?? { section: h("section", { className: "comparison", "aria-label":
    "Answers side by side" }), grid: h("div", { className: "columns" }) };
  const key = [Boolean(running()), server.models.map((each) => each.id)].join();
  if (known.key !== key) Object.assign(known, { key, bar: toolbar(question) });
  parts.set(question, known);
  place(known.grid, answers.map((answer) => {
    const element = elementOf(answer);
    element.classList.toggle("chosen", question.chosen === answer.id);
    return element;
  }));
  place(known.section, [known.bar, known.grid]);
  return known.section;
}

function toolbar(question) {
  const busy = Boolean(running());
  const number = h("input", { type: "number", min: 1, max: MAX_SAMPLES, value: session.manyModels ? 1 : 3,
    "aria-label": "How many more answers" });
  const names = [...server.models.map((each) => each.id), ...(session.manyModels ? [EVERY] : [])];
  const preset = session.manyModels ? EVERY : model()?.id;
  const whose = h("select", { "aria-label": "Of which model" },
    names.map((name) => h("option", { value: name, selected: name === preset }, name)));
  const ask = () => {
    const models = whose.value === EVERY ? inOrder(server.models.map((each) => each.id)) : [modelNamed(whose.value).id];
    const many = Math.round(Number(number.value));
    sample(question, models, Math.min(Math.max(many || 1, 1), MAX_SAMPLES));
  };
  const close = () => { delete question.compared; touch(question); };
  return h("div", { className: "toolbar" }, number, h("span", { className: "fine" }, "more of"), whose,
    button("Ask", ask, { className: "primary", disabled: busy }), h("span", { className: "space" }),
    iconButton("close", "Show one answer only", close, { disabled: busy }));
}
