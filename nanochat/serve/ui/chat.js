// Talking: what is being written, into which message, and what came of it. Draws nothing: it calls session.draw…().
import { explain, server, stream } from "./api.js";
import { announce, toast } from "./dom.js";
import { request, setting } from "./settings.js";
import { dropChat, putChat } from "./store.js";
import { instead, read } from "./tokens.js";
import {
  add, choose, isEmpty, lineage, nameAfter, newChat, parentOf, path, say, siblings, textOf, titleOf, wire,
} from "./tree.js";

/** chat: the one on screen; chats: all that are kept, newest first; runs: chat id → {controller, target} of what is
 *  being written. app.js fills in the rest. */
export const session = { chat: newChat(), chats: [], runs: new Map(), manyModels: false,
  draw() {}, drawStream() {}, drawList() {}, trouble() {} };
const SAVE_EVERY_MS = 2000; // while streaming: a closed tab loses no more than this

export const running = (chat = session.chat) => session.runs.get(chat.id);
export const model = () => server.models.find((one) => one.id === setting("model")) ?? server.models[0];
export const speaksChat = () => !/(^|-)base(-|$)/.test(model()?.id ?? ""); // a base model has not learnt the format
export const canGoOn = () => server.chat.has("continue_final_message");

export function show(chat) {
  session.chat = chat;
  session.draw(true);
}
export function stop(chat = session.chat) { running(chat)?.controller.abort(); }

let warned = false;
async function save(chat) {
  try { await putChat(chat); } catch {
    if (!warned) toast("This browser keeps nothing (private window, or full): conversations last as long as the page.");
    warned = true;
  }
}
/** Keep a conversation that changed; it becomes the newest. */
export async function remember(chat) {
  if (isEmpty(chat)) return;
  chat.updated = Date.now();
  session.chats = [chat, ...session.chats.filter((one) => one !== chat)];
  session.drawList();
  await save(chat);
}
export function rename(chat, title) {
  chat.title = title;
  session.drawList();
  return save(chat);
}
export function forget(chat) {
  stop(chat);
  session.chats = session.chats.filter((one) => one !== chat);
  if (session.chat === chat) show(newChat(chat.kind)); else session.drawList();
  toast(`Deleted “${titleOf(chat)}”`, "Undo", () => { remember(chat); show(chat); });
  return dropChat(chat.id).catch(() => {});
}

// ---------------------------------------------------------------- one answer

/** Stream into `target` (a message, or a chat of kind "text"); `take(choice)` adds what a chunk brings to it. */
export async function write(chat, target, route, body, take) {
  stop(chat);
  const run = { controller: new AbortController(), target };
  session.runs.set(chat.id, run);
  const stats = target.stats = { tokens: 0, model: model()?.id };
  delete target.error;
  remember(chat);
  session.draw();
  announce("Writing…");
  let [first, saved, counted] = [0, performance.now(), 0];
  try {
    for await (const chunk of stream(route, body, run.controller.signal)) {
      const choice = chunk.choices?.[0];
      const now = performance.now();
      if (choice && (choice.text || choice.delta?.content || choice.delta?.nanochat)) {
        first ||= now;
        stats.tokens = Math.max(stats.tokens, ++counted);
      }
      if (choice) take(choice);
      if (choice?.finish_reason) stats.ending = choice.finish_reason;
      if (chunk.nanochat?.dropped_messages) stats.dropped = chunk.nanochat.dropped_messages;
      if (chunk.usage) [stats.tokens, stats.used] = [chunk.usage.completion_tokens, chunk.usage.total_tokens];
      if (first && now > first) stats.rate = 1000 * (stats.tokens - 1) / (now - first); // the prompt does not count
      if (now - saved > SAVE_EVERY_MS) { saved = now; save(chat); }
      session.drawStream(chat);
    }
  } catch (error) {
    if (run.controller.signal.aborted) stats.ending = "stopped";
    else {
      target.error = explain(error);
      session.trouble(error);
    }
  }
  if (running(chat) === run) session.runs.delete(chat.id);
  const said = target.error ?? (stats.ending === "stopped" ? "Stopped" : target.parts ? textOf(target) : "Written");
  if (session.chat === chat) { session.draw(); announce(said); }
  if (session.chats.includes(chat)) await remember(chat); // else it was deleted meanwhile
}

function writeMessage(node, goOn) {
  const chat = session.chat;
  const system = setting("system").trim() && [{ role: "system", content: setting("system").trim() }];
  const before = lineage(chat, goOn ? node : parentOf(chat, node)).filter((one) => one.parts.length).map(wire);
  const body = { ...request(server.chat), messages: [...system, ...before],
    ...(goOn && { continue_final_message: true, add_generation_prompt: false }) };
  node.tokens ??= [];
  return write(chat, node, "v1/chat/completions", body, (choice) => {
    if (choice.delta?.content) say(node, choice.delta.content);
    node.tokens.push(...read(choice.logprobs));
    if (choice.delta?.nanochat?.tool) {
      const part = { type: "tool", ...choice.delta.nanochat.tool };
      node.parts.push(part);
      node.tokens.push({ tool: part });
    }
  });
}

export function send(text) {
  const chat = session.chat;
  chat.title ||= nameAfter(text);
  return answer(add(chat, path(chat).at(-1), "user", [{ type: "text", text: text.trim() }]));
}
export const answer = (question) => writeMessage(add(session.chat, question, "assistant"), false);
/** Another answer beside this one; an answer that failed before its first word is written over. */
export const regenerate = (node) => node.error && !node.parts.length ? writeMessage(node, false)
  : answer(parentOf(session.chat, node));
export const goOn = (node) => writeMessage(node, true);

/** The message in other words: a sibling, answered anew. */
export function edit(node, text) {
  const parent = parentOf(session.chat, node);
  return answer(add(session.chat, parent, "user", [{ type: "text", text: text.trim() }]));
}
/** Another answer that says `alternative` in the place of token `number`, and goes on from there. */
export function branch(node, number, alternative) {
  const other = add(session.chat, parentOf(session.chat, node), "assistant");
  Object.assign(other, instead(node.tokens, number, alternative));
  return goOn(other);
}
export function turn(node, step) {
  const all = siblings(session.chat, node);
  choose(session.chat, all[all.indexOf(node) + step]);
  save(session.chat);
  session.draw();
}
