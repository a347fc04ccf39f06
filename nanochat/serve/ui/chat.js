// Talking: what is being written, into which message, and what came of it. Draws nothing: it calls session.draw…().
import { explain, server, stream } from "./api.js";
import { announce, toast } from "./dom.js";
import { model, request, setting } from "./settings.js";
import { dropChat, putChat } from "./store.js";
import { instead, read } from "./tokens.js";
import {
  add, choose, history, isEmpty, merge, nameAfter, newChat, parentOf, partsFrom, path, say, siblings, textOf,
  titleOf, wire,
} from "./tree.js";

/** chat: the one on screen; chats: all that are kept, newest first; runs: chat id → {controller, targets} of what is
 *  being written. app.js fills in the rest. */
export const session = { chat: newChat(), chats: [], runs: new Map(), manyModels: false,
  draw() {}, drawStream() {}, drawList() {}, trouble() {} };
const SAVE_EVERY_MS = 2000; // while streaming: a closed tab loses no more than this
export const CHARS_PER_TOKEN = 12; // more than any text has: what is longer than the context in this measure is not sent

export const running = (chat = session.chat) => session.runs.get(chat.id);
export const isWriting = (target, chat = session.chat) => Boolean(running(chat)?.targets.includes(target));
export const modelNamed = (name) => server.models.find((model) => model.id === name);
const isBase = (name) => /(^|-)base(-|$)/.test(name ?? ""); // a base model has not learnt the chat format
export const speaksChat = () => !isBase(model()?.id);
export const canForce = () => server.chat.has("ignore_eos"); // to go on where the model would end
export const canGoOn = () => server.chat.has("continue_final_message");
export const systemOf = (chat) => (chat.system ?? setting("system")).trim();

export function show(chat) {
  session.chat = chat;
  session.draw(true);
}
export function stop(chat = session.chat) { running(chat)?.controller.abort(); }

let warned = false;
export async function save(chat) {
  let changed = false;
  const combine = (mine, stored) => { changed = merge(mine, stored, running(chat)?.targets); };
  try { await putChat(chat, combine); } catch {
    if (!warned) toast("This browser keeps nothing (private window, or full): conversations last as long as the page.");
    warned = true;
  }
  if (changed && session.chat === chat) session.draw();
}
/** Keep a conversation that changed; it becomes the newest. */
export async function remember(chat) {
  if (isEmpty(chat)) return;
  chat.updated = Date.now();
  session.chats = [chat, ...session.chats.filter((other) => other !== chat)];
  session.drawList();
  await save(chat);
}
/** Keep a message that a person changed (rated, corrected …). */
export function touch(node) {
  node.changed = Date.now();
  session.draw();
  return save(session.chat);
}
export function rename(chat, title) {
  Object.assign(chat, { title, named: Date.now() });
  session.drawList();
  return save(chat);
}
export function forget(chat) {
  stop(chat);
  session.chats = session.chats.filter((other) => other !== chat);
  if (session.chat === chat) show(newChat(chat.kind)); else session.drawList();
  toast(`Deleted “${titleOf(chat)}”`, "Undo", () => { remember(chat); show(chat); });
  return dropChat(chat.id).catch(() => {});
}

// ---------------------------------------------------------------- answers

/** Stream into the targets of all `jobs` at once. A job is {target: a message, or a chat of kind "text"; route, body,
 *  take(choice): adds what a chunk brings; notes: what its statistics say from the start; earlier: those of the text
 *  that it goes on with}. */
export async function write(chat, jobs) {
  stop(chat);
  const run = { controller: new AbortController(), targets: jobs.map((job) => job.target) };
  session.runs.set(chat.id, run);
  for (const { target, body, notes } of jobs) {
    target.stats = { tokens: 0, model: body.model, ...notes };
    delete target.error;
  }
  remember(chat);
  session.draw();
  announce("Writing…");
  await Promise.all(jobs.map((job) => receive(chat, run, job)));
  if (running(chat) === run) session.runs.delete(chat.id);
  const [{ target }] = jobs;
  const words = target.parts ? textOf(target) : "Written";
  const outcome = target.error ?? (target.stats.ending === "stopped" ? "Stopped" : words);
  if (session.chat === chat) { session.draw(); announce(outcome); }
  if (session.chats.includes(chat)) await remember(chat); // else it was deleted meanwhile
}

async function receive(chat, run, { target, route, body, take, sent = [], earlier }) {
  const { stats } = target;
  const begun = performance.now();
  let [saved, gained] = [begun, 0];
  try {
    for await (const chunk of stream(route, body, run.controller.signal)) {
      const choice = chunk.choices?.[0];
      const now = performance.now();
      const hasWords = choice && (choice.text || choice.delta?.content || choice.delta?.nanochat);
      if (hasWords) gained += Math.max(read(choice.logprobs).length, 1);
      stats.tokens = Math.max(stats.tokens, gained);
      if (choice) take(choice);
      if (choice?.finish_reason) stats.ending = choice.finish_reason;
      if (chunk.usage) Object.assign(stats, { tokens: chunk.usage.completion_tokens, used: chunk.usage.total_tokens });
      if (stats.promptSeconds === undefined) stats.rate = 1000 * stats.tokens / (now - begun); // reading included
      if (stats.prompt) stats.used = stats.prompt + stats.tokens;
      if (chunk.nanochat) takeNews(stats, chunk.nanochat, sent);
      target.changed = Date.now();
      if (now - saved > SAVE_EVERY_MS) { saved = now; save(chat); }
      session.drawStream(chat);
    }
  } catch (error) {
    if (run.controller.signal.aborted) stats.ending = "stopped";
    else {
      target.error = explain(error);
      const isTooLong = error.code === "context_length_exceeded" && stats.system;
      target.cure = error.status === 401 ? "key" : isTooLong ? "system" : "";
      session.trouble(error);
    }
  }
  target.changed = Date.now();
  if (!earlier) return;
  if (!gained && !target.error) target.stats = { ...earlier, ended: stats.ending === "stop" };
  else if (target.parts) stats.tokens += earlier.tokens ?? 0;
}

// What only our own server says: the prompt's length, its timings, which of the messages `sent` it had to forget, what
// it ignored.
function takeNews(stats, news, sent) {
  const times = news.timings;
  if (times?.completion_ms > 0) stats.rate = 1000 * times.completion_tokens / times.completion_ms;
  if (times) Object.assign(stats, { promptTokens: times.prompt_tokens, promptSeconds: times.prompt_ms / 1000 });
  if (news.prompt_tokens) stats.prompt = news.prompt_tokens;
  const forgotten = news.forgotten_messages ?? news.dropped_messages;
  if (forgotten) stats.remembers = sent[forgotten]?.id;
  if (news.ignored?.length) stats.ignored = news.ignored;
}

/** The request of an answer, except the settings: {sent: the messages, messages: the same for the wire, notes}. */
export function prompt(chat, last, system = systemOf(chat)) {
  const context = model()?.nanochat?.context_tokens ?? 4096;
  const { sent, isCut } = history(chat, last, CHARS_PER_TOKEN * context);
  const messages = [...(system ? [{ role: "system", content: system }] : []), ...sent.map(wire)];
  return { sent, messages, notes: { ...(system && { system }), ...(isCut && { remembers: sent[0].id }) } };
}

function jobFor(node, { goOn: goesOn = false, using = model()?.id, number = 0 } = {}) {
  const chat = session.chat;
  if (isBase(using) && server.text && !goesOn) return continuation(node, using, number);
  const { sent, messages, notes } = prompt(chat, goesOn ? node : parentOf(chat, node));
  const body = { ...request(server.chat), model: using, messages,
    ...(goesOn && { continue_final_message: true }) };
  if (goesOn && server.chat.has("add_generation_prompt")) body.add_generation_prompt = false; // vLLM wants it said
  if (body.seed !== undefined) body.seed += number; // else all samples of a question would be the same
  if (goesOn && node.stats?.ended && canForce()) body.ignore_eos = true;
  node.tokens ??= [];
  return { target: node, route: "v1/chat/completions", body, notes, sent, earlier: goesOn ? node.stats ?? {} : null,
    take(choice) {
      if (choice.delta?.content) say(node, choice.delta.content);
      node.tokens.push(...read(choice.logprobs));
      if (choice.delta?.nanochat?.tool) {
        const part = { type: "tool", ...choice.delta.nanochat.tool };
        node.parts.push(part);
        node.tokens.push({ tool: part });
      }
    } };
}

// A base model has not learnt to converse: it goes on with the question as with any text, for some sentences.
const BASE_TOKENS = 96;
function continuation(node, using, number) {
  const body = { ...request(server.text), model: using, prompt: textOf(parentOf(session.chat, node)),
    max_tokens: Math.min(setting("max_tokens"), BASE_TOKENS) };
  if (body.seed !== undefined) body.seed += number;
  node.tokens ??= [];
  return { target: node, route: "v1/completions", body, earlier: null, take(choice) {
    say(node, choice.text ?? "");
    node.tokens.push(...read(choice.logprobs));
  } };
}

const writeMessage = (node, options) => write(session.chat, [jobFor(node, options)]);

export function send(text) {
  const chat = session.chat;
  chat.title ||= nameAfter(text);
  return answer(add(chat, path(chat).at(-1), "user", [{ type: "text", text: text.trim() }]));
}
/** One question to every model, the answers side by side in the order in which the stages train them. */
export function sendToAll(text) {
  const chat = session.chat;
  chat.title ||= nameAfter(text);
  const question = add(chat, path(chat).at(-1), "user", [{ type: "text", text: text.trim() }]);
  question.compared = true;
  return sample(question, inOrder(server.models.map((each) => each.id)), 1);
}
const STAGES = ["base", "mid", "sft", "rl"];
export const inOrder = (names) => [...names].sort((one, other) => placeOf(one) - placeOf(other));
const placeOf = (name) => STAGES.findIndex((stage) => name.split("-").includes(stage));
export const answer = (question) => writeMessage(add(session.chat, question, "assistant"));
/** Another answer beside this one; an answer that failed before its first word is written over. */
export const regenerate = (node) => node.error && !node.parts.length ? writeMessage(node)
  : answer(parentOf(session.chat, node));
export const goOn = (node) => writeMessage(node, { goOn: true });
/** More answers to a question, written at the same time: `number` of each of the models. */
export function sample(question, models, number) {
  const { chosen } = question;
  const jobs = [];
  for (const using of models) {
    for (let i = 0; i < number; i++) jobs.push(jobFor(add(session.chat, question, "assistant"), { using, number: i }));
  }
  question.chosen = chosen || question.chosen; // what was in use before stays so, until another is picked
  return write(session.chat, jobs);
}

/** The message in other words: a sibling, answered anew. */
export function edit(node, text) {
  const chat = session.chat;
  if (!node.parent && !chat.named) chat.title = nameAfter(text);
  return answer(add(chat, parentOf(chat, node), "user", [{ type: "text", text: text.trim() }]));
}
/** What the answer should have been: a sibling, which counts as good. */
export function correct(node, text) {
  const better = add(session.chat, parentOf(session.chat, node), "assistant", partsFrom(text, node));
  const { model: author, system } = node.stats ?? {};
  Object.assign(better, { rating: 1, stats: { ending: "corrected", model: author, system } });
  return touch(better);
}
export function rate(node, rating) {
  if (node.rating === rating) delete node.rating; else node.rating = rating;
  return touch(node);
}
/** Another answer that says `alternative` in the place of token `number`, and goes on from there. */
export function branch(node, number, alternative) {
  const other = add(session.chat, parentOf(session.chat, node), "assistant");
  Object.assign(other, instead(node.tokens, number, alternative));
  return goOn(other);
}
export function turn(node, step) {
  const all = siblings(session.chat, node);
  pick(all[all.indexOf(node) + step]);
}
/** Show this version of a message. */
export function pick(node) {
  choose(session.chat, node);
  save(session.chat);
  session.draw();
}
