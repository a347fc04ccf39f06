// The page /run: stages, words, curves and exams of a run. It asks for what is new every two seconds, and not at all
// while nobody looks. What it keeps are the lines of metrics; all else comes anew with every answer.
import { ask, explain } from "./api.js";
import { $, announce, h, patch } from "./dom.js";
import { bar, plot, short } from "./plot.js";

const EVERY_MS = 2000;
const MODELS = ["base", "mid", "sft", "rl"]; // the stages that train a model
const FIGURES = [["loss, nats per token", { loss: "train/loss_nats" }, ["base", "mid", "sft"]],
  ["bits per byte of text it has not seen", { validation: "val/bpb" }, MODELS],
  ["answers in practice", { "right (reward)": "rl/reward_mean", "used the calculator": "rl/tool_use",
    "right with it": "rl/reward_with_tool" }, MODELS],
  ["answers to test questions", { "right at once": "rl/test_pass_at_1" }, MODELS],
  ["tokens per second", { tokens: "speed/tokens_per_second" }, MODELS]];
const run = { name: "", cursors: {}, lines: {}, stage: "" };

const clock = (seconds) => seconds >= 3600
  ? `${Math.floor(seconds / 3600)} h ${String(Math.floor(seconds / 60) % 60).padStart(2, "0")} min`
  : seconds >= 60 ? `${Math.floor(seconds / 60)} min ${String(Math.floor(seconds) % 60).padStart(2, "0")} s`
  : `${Math.floor(seconds)} s`;
const titleOf = (name) => name.startsWith("chat_eval_") ? `exams of ${name.slice(10)}` : name.replaceAll("_", " ");

// ---------------------------------------------------------------- reading

/** Add what an answer of the server brings. */
function take(state) {
  for (const stage of MODELS) {
    const { cursor, fresh, lines } = state.metrics[stage] ?? { cursor: "", fresh: true, lines: [] };
    run.cursors[stage] = cursor;
    run.lines[stage] = fresh ? lines : [...run.lines[stage], ...lines];
  }
}

/** Seconds that a stage still takes: from its last steps if it trains, else as the recipe expects. */
export function secondsLeft(stage, lines = []) {
  if (stage.state === "done") return 0;
  const [first, last] = [lines.at(-50), lines.at(-1)];
  const from = first ?? lines[0];
  if (stage.state !== "to come" && last?.["train/steps"] && last.step > from.step) {
    const pace = (last["time/seconds"] - from["time/seconds"]) / (last.step - from.step);
    return Math.max(0, (last["train/steps"] - last.step) * pace);
  }
  return Math.max(0, stage.expected - stage.seconds);
}

/** What the model said, the newest first, without repetitions: [{prompt, answers: [{when, text}]}]. */
function wordsOf(linesOf) {
  const byPrompt = new Map();
  for (const stage of MODELS) {
    for (const line of (linesOf[stage] ?? []).filter((each) => each.words)) {
      const when = `${stage} ${Math.round(100 * line.step / line["train/steps"])} %`;
      for (const [prompt, text] of line.words) {
        const answers = byPrompt.get(prompt) ?? [];
        byPrompt.set(prompt, answers);
        if (answers[0]?.text === text) answers[0].until = when;
        else answers.unshift({ when, text });
      }
    }
  }
  return [...byPrompt].map(([prompt, answers]) => ({ prompt, answers }));
}

// ---------------------------------------------------------------- drawing

function drawStages(stages) {
  patch($("stages"), stages.map((stage) => {
    const left = secondsLeft(stage, run.lines[stage.name]);
    const share = stage.state === "done" ? 1 : stage.state === "to come" ? 0
      : stage.seconds / (stage.seconds + left || 1);
    const time = { done: clock(stage.seconds), running: `${clock(left)} left`, stopped: "stopped",
      "to come": `about ${clock(stage.expected)}` }[stage.state];
    const kind = `${stage.state.replace(" ", "-")}${MODELS.includes(stage.name) ? " model" : ""}`;
    const item = h("li", { className: kind },
      h("span", { className: "name" }, titleOf(stage.name)), h("span", { className: "fine" }, time),
      h("span", { className: "bar" }, h("i", {})));
    item.querySelector("i").style.width = `${Math.round(100 * share)}%`;
    return item;
  }));
}

function drawNow(stages) {
  const now = stages.find((stage) => stage.state === "running" || stage.state === "stopped");
  const left = stages.reduce((sum, stage) => sum + secondsLeft(stage, run.lines[stage.name]), 0);
  const last = now && run.lines[now.name]?.at(-1);
  const parts = now ? [titleOf(now.name), last && `step ${short(last.step)} of ${short(last["train/steps"])}`,
    now.state === "stopped" ? "stopped; the same command goes on" : `${clock(left)} left in all`]
    : stages.length && left === 0
      ? ["finished", `${clock(stages.reduce((sum, stage) => sum + stage.seconds, 0))} in all`] : [];
  const text = parts.filter(Boolean).join(" · ");
  if ($("now").textContent !== text) $("now").textContent = text;
  const stage = now ? `${titleOf(now.name)} ${now.state}` : parts[0] ?? "";
  if (run.stage && stage && run.stage !== stage) announce(stage);
  run.stage = stage;
}

function drawWords() {
  const said = wordsOf(run.lines);
  patch($("words"), said.length ? said.map(({ prompt, answers }) => h("section", {}, h("h3", {}, prompt),
    h("ol", { tabIndex: 0, "aria-label": `Answers to: ${prompt}` }, answers.map(({ when, until, text }) =>
      h("li", {}, h("span", { className: "fine" }, until ? `${when} to ${until}` : when), h("p", {}, text || "…"))))))
    : [h("p", { className: "fine" }, "It has not said anything yet.")]);
}

function drawCurves() {
  const figures = [];
  for (const stage of MODELS) {
    const lines = run.lines[stage] ?? [];
    const steps = lines.at(-1)?.["train/steps"] ?? lines.at(-1)?.step;
    for (const [title, keys] of FIGURES.filter(([, , stages]) => stages.includes(stage))) {
      const points = Object.fromEntries(Object.entries(keys).map(([label, key]) =>
        [label, lines.filter((line) => key in line).map((line) => [line.step, line[key]])])
        .filter(([, found]) => found.length));
      const labels = Object.keys(points);
      if (!labels.length) continue;
      const last = labels.map((label, i) => h("span", { className: `legend-item line${i}` },
        `${labels.length > 1 ? `${label} ` : ""}${short(points[label].at(-1)[1])}`));
      figures.push(h("figure", {}, h("figcaption", {}, h("b", {}, stage), ` ${title} `, last),
        plot(`${stage}: ${title}`, points, steps)));
    }
  }
  patch($("curves"), figures.length ? figures : [h("p", { className: "fine" }, "Nothing is trained yet.")]);
}

function drawExams(exams) {
  const taken = MODELS.filter((stage) => Object.values(exams).some((scores) => scores[stage]));
  const head = h("tr", {}, h("th", { scope: "col" }, "exam"), taken.map((stage) => h("th", { scope: "col" }, stage)));
  const rows = Object.entries(exams).map(([exam, scores]) => h("tr", {}, h("th", { scope: "row" }, exam),
    taken.map((stage) => {
      const { accuracy, stderr, chance } = scores[stage] ?? {};
      return h("td", {}, accuracy === undefined ? "–"
        : [bar(accuracy, stderr, chance, MODELS.indexOf(stage)), h("span", {}, accuracy.toFixed(2))]);
    })));
  patch($("exams"), rows.length ? [h("thead", {}, head), h("tbody", {}, rows)]
    : [h("tbody", {}, h("tr", {}, h("td", { className: "fine" }, "No exam has been taken yet.")))]);
}

function drawChoice(state) {
  $("runs").hidden = state.runs.length < 2;
  patch($("runs"), state.runs.map((name) => h("option", { value: name, selected: name === state.run }, name)));
  $("talk").hidden = !state.newest;
  if (!state.newest) return;
  const { stage, tag, step } = state.newest;
  $("talk").textContent = `Talk to ${stage} ${tag}, step ${step.toLocaleString("en")}`;
  $("talk").href = /^https?:/.test(state.run) ? state.run : "./";
}

// ---------------------------------------------------------------- following

let timer = 0;
async function follow() {
  clearTimeout(timer);
  if (document.hidden) return; // the page is shown again: follow() is called again
  try {
    const asked = run.name;
    const state = await (await ask(`run/data?${new URLSearchParams({ run: asked, ...run.cursors })}`)).json();
    if (asked !== run.name) return; // another run was chosen meanwhile
    take(state);
    drawChoice(state);
    drawStages(state.stages);
    drawNow(state.stages);
    drawWords();
    drawCurves();
    drawExams(state.exams);
    $("trouble").hidden = true;
  } catch (error) {
    $("trouble").textContent = `${explain(error)} What you see is what was there; the page tries again by itself.`;
    $("trouble").hidden = false;
  }
  timer = setTimeout(follow, EVERY_MS);
}
$("runs").onchange = () => {
  Object.assign(run, { name: $("runs").value, cursors: {}, lines: {}, stage: "" });
  follow();
};
document.onvisibilitychange = follow;
follow();
