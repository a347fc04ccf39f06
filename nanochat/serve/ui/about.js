// The card behind a model's name: its size, what it has learnt from, its curves, its exams, its licence.
import { ask, explain } from "./api.js";
import { $, h, openDialog } from "./dom.js";
import { bar, plot, short } from "./plot.js";
import { setting } from "./settings.js";

const MODELS = ["base", "mid", "sft", "rl"];
const count = (number) => number.toLocaleString("en");
const minutes = (seconds) => seconds < 60 ? `${Math.round(seconds)} s` : `${short(seconds / 60)} min`;
const bytes = (size) => size >= 1e6 ? `${short(size / 1e6)} MB` : `${short(size / 1e3)} kB`;

function facts(card) {
  const rows = [["size", `${count(card.parameters)} parameters; layers: ${card.layers}, width: ${card.width}`],
    ["can read", `${count(card.context)} tokens at once, of ${count(card.vocabulary)} kinds`],
    ["has read", `${count(card.tokens)} tokens in ${minutes(card.seconds)} of training`],
    ["checkpoint", `${card.stage}, step ${count(card.step)}`], ["data", card.licence]];
  return h("dl", {}, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

const table = (head, rows) => h("div", { className: "table", tabIndex: 0, role: "region",
  "aria-label": `by ${head[0]}` }, h("table", {},
  h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, cell)))),
  h("tbody", {}, rows.map(([first, ...cells]) => h("tr", {}, h("th", { scope: "row" }, first),
    cells.map((cell) => h("td", {}, cell)))))));
const section = (title, ...content) => h("section", {}, h("h3", {}, title), ...content);

function curves({ trained }) {
  return trained.filter((part) => part.curve.length > 1).map((part) => {
    const what = part.what === "rl/reward_mean" ? "right answers in practice" : "loss, nats per token";
    return h("figure", {}, h("figcaption", {}, h("b", {}, part.stage),
      ` ${what}; ${count(part.tokens)} tokens, ${minutes(part.seconds)}`),
    plot(`${part.stage}: ${what}`, { [what]: part.curve }, part.of ?? part.steps));
  });
}

function exams(scores) {
  const taken = MODELS.filter((stage) => Object.values(scores).some((exam) => exam[stage]));
  return table(["exam", ...taken], Object.entries(scores).map(([exam, by]) => [exam, ...taken.map((stage) => {
    const { accuracy, stderr, chance } = by[stage] ?? {};
    return accuracy === undefined ? "–"
      : [bar(accuracy, stderr, chance, MODELS.indexOf(stage)), h("span", {}, accuracy.toFixed(2))];
  })]));
}

function contamination(found) {
  const rows = Object.entries(found);
  return rows.length ? table(["exam", "items", "long enough to tell", "in the text"],
    rows.map(([exam, numbers]) => [exam, ...numbers.map(count)]))
    : h("p", { className: "fine" }, "Not measured; python -m scripts.contamination does it.");
}

const LISTED = 30; // files that were left out
function data({ read, num_more: more, left_out: leftOut }) {
  const list = (items) => h("ul", {}, items.map((item) => h("li", {}, item)));
  const rest = (number) => number > 0 ? h("p", { className: "fine" }, `And ${count(number)} more.`) : null;
  const files = list(read.map(([kind, name, size, rows]) =>
    `${kind}: ${name}, ${bytes(size)}${rows ? `, ${count(rows)} rows` : ""}`));
  if (!leftOut.length) return [files, rest(more), h("p", { className: "fine" }, "Nothing was left out.")];
  return [files, rest(more), h("p", {}, "Left out:"),
    list(leftOut.slice(0, LISTED).map(([name, reason]) => `${name}: ${reason}`)), rest(leftOut.length - LISTED)];
}

export async function openAbout(name) {
  $("about-title").textContent = name;
  $("about-body").replaceChildren(h("p", { className: "fine" }, "…"));
  openDialog($("about"));
  try {
    const card = await (await ask(`v1/models/${encodeURIComponent(name)}/card`)).json();
    const links = [h("a", { href: "run" }, "The run: its words and curves, stage by stage"),
      // A link carries no API key.
      card.has_report && !setting("key") ? h("a", { href: "run/report" }, "The report")
        : "The report: report/report.md in the run's folder"];
    $("about-body").replaceChildren(facts(card), h("p", { className: "links" }, links[0], h("br"), links[1]),
      section("What it can do", Object.keys(card.exams).length ? exams(card.exams)
        : h("p", { className: "fine" }, "No exam has been taken yet.")),
      section("How it learnt", ...curves(card)), section("What it has read", ...data(card.data).filter(Boolean)),
      section("Do the exams stand in its text?", contamination(card.contamination)));
  } catch (error) { $("about-body").replaceChildren(h("p", { className: "wrong", role: "alert" }, explain(error))); }
}
$("about").onclick = (event) => { if (event.target === $("about")) $("about").close(); }; // a click beside it
