// The chat page. State lives in `chats` and `settings`, both kept in localStorage; everything on screen is drawn from it.
// Model output is hostile: it only ever becomes text nodes (h() and markdown() below), never HTML.

const $ = (id) => document.getElementById(id);
const IDEAS = ["Hello! Who are you?", "What is 123 * 456?", "Tell me a story.", "How many letters a are in banana?"];
const HELP = `/temperature 0.8 – how surprising answers are (0 … 2)
/topk 50 – how many tokens to choose from (1 … 200)
/clear – a new conversation
/help – this list
Enter sends, Shift+Enter starts a new line, Esc stops.`;

// ---------------------------------------------------------------- state

function load(key, fallback) {
  try { return JSON.parse(localStorage.getItem(key)) ?? fallback; } catch { return fallback; }
}
function keep(key, value) {
  try { localStorage.setItem(key, JSON.stringify(value)); } catch { /* full or forbidden: the page works without */ }
}

let defaults = { temperature: 0.8, top_k: 50, max_tokens: 512, system: "" };
let settings = load("nanochat.settings", {}); // only what differs from the server's defaults
let chats = load("nanochat.chats", []); // newest first: {id, title, messages: [{role, parts, error, note}]}
let chat = newChat();
let running = null; // the AbortController of the answer being written

function newChat() {
  return { id: crypto.randomUUID?.() ?? String(Math.random()), title: "", messages: [] };
}
function setting(name) { return settings[name] ?? defaults[name]; }
function remember() {
  chats = [chat, ...chats.filter((one) => one.id !== chat.id)].filter((one) => one.messages.length).slice(0, 100);
  keep("nanochat.chats", chats);
  drawHistory();
}
function show(other) {
  stop();
  chat = other;
  document.body.classList.remove("menu");
  draw();
  $("input").focus();
}

// ---------------------------------------------------------------- drawing

function h(tag, props, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children.filter((child) => child != null));
  return node;
}
function button(label, onclick, props) { return h("button", { type: "button", onclick, ...props }, label); }

function inline(text) { // `code`, **bold**, *italic*
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(/`([^`\n]+)`|\*\*([^*\n]+)\*\*|(?<![\w*])\*([^\s*][^*\n]*)\*(?![\w*])/g)) {
    nodes.push(text.slice(end, match.index));
    const tag = match[1] ? "code" : match[2] ? "strong" : "em";
    nodes.push(h(tag, {}, match[1] ?? match[2] ?? match[3]));
    end = match.index + match[0].length;
  }
  return [...nodes, text.slice(end)];
}

function markdown(text) {
  const blocks = [];
  const fences = text.split(/^```(.*)$/m); // text, language, code, "", text, language, code, …
  for (let i = 0; i < fences.length; i += 4) {
    prose(fences[i], blocks);
    if (i + 2 < fences.length) blocks.push(codeBlock(fences[i + 2].replace(/^\n|\n$/g, "")));
  }
  return blocks;
}
function codeBlock(code) { return h("pre", {}, h("code", {}, code)); }

function prose(text, blocks) {
  for (const part of text.split(/\n{2,}/)) {
    let lines = [];
    let list = null;
    const flush = () => { if (lines.join("").trim()) blocks.push(h("p", {}, ...inline(lines.join("\n").trim()))); lines = []; };
    for (const line of part.split("\n")) {
      const heading = line.match(/^#{1,4} (.+)/);
      const item = line.match(/^\s*(?:([-*•])|(\d{1,3})[.)]) (.+)/);
      if (!item) list = null;
      if (heading || item) flush();
      if (heading) blocks.push(h("h3", {}, ...inline(heading[1])));
      else if (item) {
        const tag = item[1] ? "UL" : "OL";
        if (list?.tagName !== tag) blocks.push(list = h(tag, item[2] ? { start: Number(item[2]) } : {}));
        list.append(h("li", {}, ...inline(item[3])));
      } else lines.push(line);
    }
    flush();
  }
}

function drawPart(part) {
  if (part.type === "text") return markdown(part.text);
  return [h("div", { className: "tool" }, h("span", { className: "label" }, "calculator"), h("span", {}, part.expression),
    h("span", { className: "arrow" }, "→"), h("b", {}, part.result))];
}

function drawBody(message, index) {
  const dots = h("div", { className: "dots", role: "status", ariaLabel: "thinking" }, h("i"), h("i"), h("i"));
  const waiting = running && index === chat.messages.length - 1 && !message.parts.length;
  return h("div", { className: "body" }, ...message.parts.flatMap(drawPart), waiting ? dots : null,
    message.error ? h("div", { className: "error", role: "alert" }, message.error) : null);
}

function drawMessage(message, index) {
  const actions = h("div", { className: "actions" });
  const box = h("article", { className: `message ${message.role}`, ariaLabel: message.role });
  const copy = button("Copy", () => {
    navigator.clipboard?.writeText(textOf(message)).then(() => { copy.textContent = "Copied"; });
  }, { className: "always" });
  if (message.role === "user") {
    box.append(h("div", { className: "body" }, textOf(message)), actions);
    actions.append(button("Edit", () => edit(box, message, index)), copy);
  } else {
    box.append(drawBody(message, index), actions);
    actions.append(message.error ? "" : copy, button(message.error ? "Try again" : "Regenerate", () => answer(index)));
    if (message.note) actions.append(h("span", { className: "fine" }, message.note));
  }
  return box;
}

function draw() {
  document.body.classList.toggle("busy", Boolean(running));
  $("log").replaceChildren(...chat.messages.map(drawMessage));
  if (!chat.messages.length) {
    $("log").append(h("section", { className: "hello" }, h("img", { src: "logo.svg", alt: "" }),
      h("h1", {}, "What shall we talk about?"), h("p", {}, "A small language model, trained from nothing."),
      h("div", { className: "ideas" }, ...IDEAS.map((idea) => button(idea, () => send(idea))))));
  }
  drawHistory();
  drawSend();
  follow(true);
}

function drawLast() { // while streaming: only the newest message
  const index = chat.messages.length - 1;
  $("log").lastElementChild?.querySelector(".body")?.replaceWith(drawBody(chat.messages[index], index));
  follow(false);
}

let atEnd = true;
$("scroll").addEventListener("scroll", () => {
  atEnd = $("scroll").scrollHeight - $("scroll").scrollTop - $("scroll").clientHeight < 60;
});
function follow(always) { if (always || atEnd) $("scroll").scrollTop = $("scroll").scrollHeight; }

function drawHistory() {
  $("history").replaceChildren(...chats.map((one) => h("div", { className: one.id === chat.id ? "chat open" : "chat" },
    button(one.title, () => show(one), { className: "name" }),
    button("✕", () => forget(one), { className: "icon", ariaLabel: `Delete ${one.title}` }))));
}
function forget(one) {
  chats = chats.filter((other) => other.id !== one.id);
  keep("nanochat.chats", chats);
  if (one.id === chat.id) show(newChat()); else drawHistory();
}

function drawSend() {
  $("send").textContent = running ? "■" : "↑";
  $("send").ariaLabel = running ? "Stop" : "Send";
  $("send").disabled = !running && !$("input").value.trim();
}
function grow(box) { box.style.height = "auto"; box.style.height = `${box.scrollHeight}px`; }
function notice(text) {
  $("log").querySelector(".hello")?.remove();
  $("log").append(h("div", { className: "notice", role: "status" }, text));
  follow(true);
}

function edit(box, message, index) {
  const area = h("textarea", { rows: 1, value: textOf(message), ariaLabel: "Edit the message" });
  const done = () => { if (area.value.trim()) { chat.messages.length = index; send(area.value); } };
  area.onkeydown = (event) => {
    if (event.key === "Escape") draw();
    if (enters(event)) { event.preventDefault(); done(); }
  };
  area.oninput = () => grow(area);
  box.replaceChildren(h("div", { className: "editor" }, area, h("div", { className: "row" },
    button("Cancel", draw), button("Send", done, { className: "primary" }))));
  grow(area);
  area.focus();
}

// ---------------------------------------------------------------- talking

function textOf(message) {
  return message.parts.map((part) => part.type === "text" ? part.text : `[${part.expression} → ${part.result}]`).join("");
}

function wire(message) { // what the server is sent: tool calls go back as the model wrote them
  if (message.role === "user") return { role: "user", content: textOf(message) };
  return { role: "assistant", content: message.parts.flatMap((part) => part.type === "text" ? [part]
    : [{ type: "python", text: part.expression }, { type: "python_output", text: part.result }]) };
}

function send(text) {
  if (running) return;
  text = text.trim();
  if (text.startsWith("/")) return command(text);
  chat.title ||= text.slice(0, 60);
  chat.messages.push({ role: "user", parts: [{ type: "text", text }] });
  answer(chat.messages.length);
}

async function answer(index) { // writes message `index` anew; what stood there or after it goes
  stop();
  const own = chat;
  const controller = running = new AbortController();
  const message = { role: "assistant", parts: [] };
  chat.messages.splice(index, Infinity, message);
  remember();
  draw();
  const started = performance.now();
  let frame = 0;
  try {
    const system = setting("system").trim();
    const history = chat.messages.slice(0, index).filter((one) => !one.error).map(wire);
    for await (const chunk of stream({
      messages: [...(system ? [{ role: "system", content: system }] : []), ...history], stream: true,
      stream_options: { include_usage: true }, temperature: setting("temperature"), top_k: setting("top_k"),
      max_tokens: setting("max_tokens"),
    }, controller.signal)) {
      take(message, chunk, (performance.now() - started) / 1000);
      frame ||= requestAnimationFrame(() => { frame = 0; if (chat === own) drawLast(); });
    }
  } catch (error) {
    if (controller.signal.aborted) message.note = "stopped";
    else message.error = error instanceof TypeError ? "The server can't be reached. Is it still running?" : error.message;
    if (!controller.signal.aborted) connect();
  }
  cancelAnimationFrame(frame);
  if (running === controller) running = null;
  if (chat === own) { draw(); remember(); } else keep("nanochat.chats", chats);
}

function stop() {
  running?.abort();
  running = null;
}

function take(message, chunk, seconds) {
  if (chunk.error) throw new Error(chunk.error.message);
  const delta = chunk.choices[0]?.delta ?? {};
  const last = message.parts.at(-1);
  if (delta.nanochat?.tool) message.parts.push({ type: "tool", ...delta.nanochat.tool });
  else if (delta.content && last?.type === "text") last.text += delta.content;
  else if (delta.content) message.parts.push({ type: "text", text: delta.content });
  if (chunk.nanochat?.dropped_messages) message.dropped = chunk.nanochat.dropped_messages;
  if (chunk.choices[0]?.finish_reason === "length") message.cut = true;
  if (!chunk.usage) return;
  const tokens = chunk.usage.completion_tokens;
  message.note = [`${tokens} tokens`, `${Math.round(tokens / seconds)} per second`, message.cut ? "cut at the limit" : "",
    message.dropped ? `the first ${message.dropped} messages no longer fit` : ""].filter(Boolean).join(" · ");
}

async function* stream(body, signal) { // the JSON objects of a server-sent event stream
  const response = await fetch("v1/chat/completions", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Error(problem.error?.message ?? `the server answered ${response.status}`);
  }
  let buffer = "";
  for (const reader = response.body.pipeThrough(new TextDecoderStream()).getReader(); ;) {
    const { value, done } = await reader.read();
    if (done) break;
    const events = (buffer + value).split("\n\n"); // network chunks end anywhere: keep the unfinished rest
    buffer = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
  throw new Error("The connection broke before the answer was complete.");
}

function command(text) {
  const [name, value] = text.split(/\s+/);
  const number = Number(value);
  const set = (key, low, high) => {
    if (value === undefined || !(number >= low && number <= high)) return notice(`${name} is ${setting(key)}; give ${low} to ${high}.`);
    settings[key] = key === "top_k" ? Math.round(number) : number;
    keep("nanochat.settings", settings);
    notice(`${name.slice(1)} is now ${settings[key]}.`);
  };
  if (name === "/temperature") set("temperature", 0, 2);
  else if (name === "/topk") set("top_k", 1, 200);
  else if (name === "/clear" || name === "/new") show(newChat());
  else notice(name === "/help" ? HELP : `There is no ${name}.\n${HELP}`);
}

// ---------------------------------------------------------------- wiring

function enters(event) { return event.key === "Enter" && !event.shiftKey && !event.isComposing; }

$("input").oninput = () => { grow($("input")); drawSend(); };
$("input").onkeydown = (event) => { if (enters(event)) { event.preventDefault(); if (!running) $("composer").requestSubmit(); } };
$("composer").onsubmit = (event) => {
  event.preventDefault();
  if (running) return stop();
  const text = $("input").value;
  if (!text.trim()) return;
  $("input").value = "";
  grow($("input"));
  send(text);
  drawSend();
};
$("new").onclick = () => show(newChat());
$("menu").onclick = () => document.body.classList.toggle("menu");
$("shade").onclick = () => document.body.classList.remove("menu");
document.onkeydown = (event) => {
  if (event.key === "Escape" && !$("settings").open) stop();
  if (event.ctrlKey && event.shiftKey && event.key.toLowerCase() === "n") { event.preventDefault(); show(newChat()); }
};

function paint(theme) { if (theme) document.documentElement.dataset.theme = theme; }
paint(load("nanochat.theme", ""));
$("theme").onclick = () => {
  const dark = getComputedStyle(document.documentElement).colorScheme.trim() === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  paint(dark ? "light" : "dark");
  keep("nanochat.theme", dark ? "light" : "dark");
};

const fields = [...$("settings").querySelectorAll("[name]")];
function fillSettings() {
  for (const field of fields) {
    field.value = setting(field.name);
    if (field.type === "range") field.parentElement.querySelector("output").value = field.value;
  }
}
for (const field of fields) field.oninput = () => {
  settings[field.name] = field.type === "range" ? Number(field.value) : field.value;
  keep("nanochat.settings", settings);
  fillSettings();
};
$("open-settings").onclick = () => { fillSettings(); $("settings").showModal(); };
$("settings").onclose = () => {
  if ($("settings").returnValue === "reset") keep("nanochat.settings", settings = {});
  $("settings").returnValue = "";
};

async function connect() { // who is there? asks again until someone is
  try {
    const { data: [model] } = await (await fetch("v1/models")).json();
    defaults = { ...defaults, ...model.nanochat };
    $("model").textContent = model.id;
    $("model").className = "";
  } catch {
    $("model").textContent = "The server can't be reached; trying again…";
    $("model").className = "down";
    setTimeout(connect, 3000);
  }
}
connect();
draw();
