// Settings: what differs from the server's defaults, the dialog that shows them, and the slash commands.
import { server, tokenize } from "./api.js";
import { $, h, openDialog } from "./dom.js";
import { keep, load, onKeptElsewhere } from "./store.js";

let changed = load("settings", {});
const fallback = { temperature: 0.8, top_k: 50, top_p: 1, min_p: 0, max_tokens: 512, seed: "",
  system: "", theme: "", key: "", model: "" };
const listeners = [];
export const onSetting = (react) => listeners.push(react);
export const setting = (name) => changed[name] ?? fallback[name];
export const model = () => server.models.find((each) => each.id === setting("model")) ?? server.models[0];
export function defaults(ofServer) {
  for (const name of Object.keys(fallback)) fallback[name] = ofServer?.[name] ?? fallback[name];
  const context = ofServer?.context_tokens;
  if (context) fallback.max_tokens = Math.min(fallback.max_tokens, context);
  $("set-max_tokens").max = context ?? 4096;
}
onKeptElsewhere("settings", () => {
  changed = load("settings", {});
  listeners.forEach((react) => react("theme"));
});
export function set(name, value) {
  if (value === undefined) delete changed[name]; else changed[name] = value;
  keep("settings", changed);
  listeners.forEach((react) => react(name));
}

/** The part of a request that settings make: of what the server takes (`fields`), what differs from doing nothing. */
export function request(fields) {
  const body = { stream_options: { include_usage: true }, model: model()?.id };
  for (const name of ["temperature", "top_k", "max_tokens"]) body[name] = setting(name);
  if (fields.has("top_p") && setting("top_p") < 1) body.top_p = setting("top_p");
  if (fields.has("min_p") && setting("min_p") > 0) body.min_p = setting("min_p");
  if (fields.has("seed") && setting("seed") !== "") body.seed = setting("seed");
  if (fields.has("top_logprobs") && fields.has("logprobs")) Object.assign(body, { logprobs: true, top_logprobs: 5 });
  else if (fields.has("prompt") && fields.has("logprobs")) body.logprobs = 5;
  return body;
}

// ---------------------------------------------------------------- the dialog

const form = $("settings");
const inputs = [...form.querySelectorAll("[name]")];
const isNumber = (input) => ["range", "number"].includes(input.type);

function fill() {
  for (const input of inputs) {
    input.value = setting(input.name);
    const output = form.querySelector(`output[for="${input.id}"]`);
    if (output) output.value = input.value;
  }
  for (const field of form.querySelectorAll("[data-needs]")) field.hidden = !server.chat.has(field.dataset.needs);
}
export function openSettings(at) {
  fill();
  measure();
  openDialog(form);
  if (at) $(`set-${at}`).focus();
}
for (const input of inputs) {
  input.oninput = () => {
    set(input.name, isNumber(input) && input.value !== "" ? Number(input.value) : input.value);
    if (input.type === "range") fill();
    if (input.name === "system") measure();
  };
}

// How much of the context the system prompt takes, while it is typed: the server refuses a text that leaves no room.
let measuring = 0;
function measure() {
  clearTimeout(measuring);
  $("about-system").textContent = "";
  const text = setting("system").trim();
  if (!text || !server.tokenize) return;
  measuring = setTimeout(async () => {
    const { length } = await tokenize({ prompt: text, add_special_tokens: false }).catch(() => []);
    const context = model()?.nanochat?.context_tokens;
    if (!length || text !== setting("system").trim()) return;
    $("about-system").textContent = `${length.toLocaleString("en")} tokens`
      + (context ? ` of the ${context.toLocaleString("en")} that the model can read.` : ".")
      + (length > context / 2 ? " This is too long: it leaves too little room for questions and answers." : "");
    $("about-system").classList.toggle("wrong", length > context / 2);
  }, 300);
}
form.onclose = () => {
  const ofSampling = inputs.filter((input) => input.closest("[data-of=sampling]")).map((input) => input.name);
  if (form.returnValue === "reset") ofSampling.forEach((name) => set(name, undefined));
  form.returnValue = "";
};
for (const dialog of [form, $("teach"), $("help")]) {
  dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); }; // a click beside it
}

// ---------------------------------------------------------------- slash commands

const NUMBERS = { temperature: ["temperature", 0, 2], topk: ["top_k", 1, 200], topp: ["top_p", 0.05, 1],
  minp: ["min_p", 0, 0.5], tokens: ["max_tokens", 1, Infinity] };
const HELP = [["/temperature 0.8", "how surprising answers are, 0 to 2"],
  ["/topk 50", "how many tokens to choose from, 1 to 200"],
  ["/topp 0.9", "only the most probable tokens that together reach this probability"],
  ["/minp 0.05", "only tokens at least this likely, relative to the most probable"],
  ["/tokens 512", "the longest answer"], ["/system You are a poet.", "the system prompt; alone: none"],
  ["/clear", "a new conversation"], ["/help", "this list"],
  ["Enter, Shift+Enter", "send, start a new line"], ["Esc", "stop the answer"],
  ["↑", "in an empty box: edit the last message"],
  ["Ctrl+Shift+O", "a new conversation"], ["Ctrl+K", "search conversations"], ["Ctrl+Enter", "in a text: write on"]];

function openHelp() {
  $("help-list").replaceChildren(...HELP.flatMap(([what, why]) => [h("dt", {}, h("kbd", {}, what)), h("dd", {}, why)]));
  openDialog($("help"));
}

/** Do what a line says if it is a command: what there is to tell about it ("" = nothing), or null if it is none. */
export function command(line, startNew) {
  const match = line.trim().match(/^\/([a-z]+)(?:\s+([^]*))?$/i);
  if (!match) return null;
  const name = match[1].toLowerCase();
  const value = (match[2] ?? "").trim();
  if (name === "help") return openHelp() ?? "";
  if (name === "clear" || name === "new") return startNew() ?? "";
  if (name === "system") {
    set("system", value);
    return value ? "The system prompt is set." : "There is no system prompt now.";
  }
  if (!NUMBERS[name]) return `There is no /${name}; /help lists what there is.`;
  const [key, low, high] = NUMBERS[name];
  const number = Number(value);
  const fits = value && number >= low && number <= high;
  if (!fits) return `/${name} is ${setting(key)}; give a number from ${low} to ${high}.`;
  set(key, ["top_k", "max_tokens"].includes(key) ? Math.round(number) : number);
  return `${name} is now ${setting(key)}.`;
}
