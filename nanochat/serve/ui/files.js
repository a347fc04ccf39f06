// Conversations as files: all of them, or lines to train on; and files of this page, of trainers and of ChatGPT back
// into conversations. Pure: no page, no network.
import { add, choose, isEmpty, lineage, nameAfter, newChat, path, textOf, wire } from "./tree.js";

/** All of it, branches included. */
export const backup = (chats) => JSON.stringify({ format: "nanochat-chats-1", chats }, null, 1);

// ---------------------------------------------------------------- lines to train on

const isAnswer = (node) => node.role === "assistant" && node.parts.length > 0;
export const goodAnswers = (chats) => chats.flatMap((chat) => chat.nodes).filter((node) => node.rating === 1).length;

/** Lines that scripts.chat_sft can learn from. `only` "good": the answers marked as good, on whatever branch; earlier
 *  answers of their conversations stand before them with weight 0, which the trainer reads but does not learn.
 *  Else: what is shown of every conversation, up to an answer marked as bad. */
export function trainingLines(chats, only = "") {
  const lines = chats.flatMap((chat) => only === "good" ? goodLines(chat) : shownLine(chat));
  return lines.map((messages) => `${JSON.stringify({ messages })}\n`).join("");
}

function shownLine(chat) {
  const nodes = path(chat);
  const bad = nodes.findIndex((node) => node.rating === -1);
  const answered = (bad < 0 ? nodes : nodes.slice(0, bad)).flatMap((node, i, all) =>
    isAnswer(node) ? [all[i - 1], node] : []);
  return answered.length ? [[...systemOf(answered.at(-1)), ...answered.map(wire)]] : [];
}

function goodLines(chat) {
  const good = chat.nodes.filter((node) => node.rating === 1 && isAnswer(node));
  const before = new Set(good.flatMap((node) => lineage(chat, node).slice(0, -1)));
  const learnt = new Set(); // an answer on two lines is learnt once
  return good.filter((node) => !before.has(node)).map((last) => {
    const line = lineage(chat, last).filter((node, i, all) => isAnswer(node) || (all[i + 1] && isAnswer(all[i + 1])));
    return [...systemOf(last), ...line.map((node) => {
      if (node.role === "user") return wire(node);
      const counts = node.rating === 1 && !learnt.has(node);
      learnt.add(node);
      return counts ? wire(node) : { ...wire(node), weight: 0 };
    })];
  });
}

const systemOf = (node) => node.stats?.system ? [{ role: "system", content: node.stats.system }] : [];

// ---------------------------------------------------------------- and back

/** The conversations of a backup, of ChatGPT's conversations.json, of one {"messages"} object or of such lines. The
 *  file is not trusted: fields are taken over by name and type, ids are made anew, and a parent must stand before its
 *  child, so no cycle gets in. */
export function restore(text) {
  let content;
  try { content = JSON.parse(text); } catch {
    try { content = text.split("\n").filter((line) => line.trim()).map(JSON.parse); } catch { content = null; }
  }
  const list = Array.isArray(content) ? content : content?.chats ?? [content];
  const chats = (Array.isArray(list) ? list : []).map(clean).filter((chat) => chat && !isEmpty(chat));
  if (!chats.length) {
    throw new Error("There is no conversation in this file; expected an export of this page or of ChatGPT, or lines "
      + "of “messages”.");
  }
  return chats;
}

/** The same for two conversations of the same words and branches: a file that is imported twice adds nothing. */
export function fingerprint(chat) {
  const place = new Map(chat.nodes.map((node, i) => [node.id, i]));
  return JSON.stringify([chat.kind, chat.text, chat.nodes.map((node) =>
    [node.role, place.get(node.parent) ?? -1, node.parts])]);
}

const string = (value) => typeof value === "string" ? value : "";
const number = (value) => Number.isFinite(value) ? value : undefined;

function clean(given) {
  if (!given || typeof given !== "object") return null;
  const source = given.mapping ? fromChatGPT(given) : given;
  const chat = { ...newChat(source.kind === "text" ? "text" : "chat"), text: string(source.text) };
  Object.assign(chat, { title: string(source.title), named: number(source.named) });
  if (Number.isFinite(source.updated)) chat.updated = Math.min(source.updated, Date.now());
  const nodeOf = new Map(); // old id → new node
  let last = null;
  const [nodes, messages] = [source.nodes, source.messages].map((list) => Array.isArray(list) ? list : []);
  for (const old of source.nodes ? nodes : messages) {
    if (old?.role === "system" && !nodeOf.size) chat.system = partsOf(old.content).map((part) => part.text).join("");
    const parent = source.nodes ? nodeOf.get(old?.parent) ?? null : last;
    const parts = partsOf(old?.parts ?? old?.content);
    if (parts.length && parent && old.role === parent.role) { // the same speaker again: one message here
      parent.parts.push({ type: "text", text: "\n\n" }, ...parts);
      nodeOf.set(old.id, parent);
      continue;
    }
    if (!parts.length || old.role !== "user" && !(old.role === "assistant" && parent)) continue;
    last = add(chat, parent, old.role, parts);
    nodeOf.set(source.nodes ? old.id : last.id, last);
    Object.assign(last, detailsOf(old));
  }
  for (const old of [source, ...nodes]) {
    if (nodeOf.has(old?.chosen)) choose(chat, nodeOf.get(old.chosen));
  }
  const system = source.system ?? chat.nodes.findLast((node) => node.stats?.system)?.stats.system;
  if (system) chat.system = string(system); // the conversation goes on with the system prompt that it had
  chat.title ||= nameAfter(chat.nodes.length ? textOf(chat.nodes[0]) : chat.text);
  return chat;
}

// What is known of an answer besides its words.
function detailsOf({ stats, tokens, rating, role }) {
  const details = {};
  if (rating === 1 || rating === -1) details.rating = rating;
  if (stats && typeof stats === "object" && role === "assistant") {
    details.stats = {};
    const numbers = ["tokens", "rate", "promptTokens", "promptSeconds", "used"];
    for (const name of numbers) details.stats[name] = number(stats[name]);
    for (const name of ["ending", "model", "system"]) details.stats[name] = string(stats[name]) || undefined;
  }
  try {
    if (Array.isArray(tokens)) details.tokens = tokens.map(tokenOf);
  } catch { /* a token is not whole: none is taken */ }
  return details;
}

function tokenOf({ text, p, top, bytes, tool }) {
  if (tool) return { tool: partsOf([{ ...tool, type: "tool" }])[0] };
  if (typeof text !== "string" || !Number.isFinite(p)) throw new TypeError("not a token");
  const pairs = top.map(([other, chance]) => [String(other), Number(chance)]);
  return { text, p, top: pairs, ...(Array.isArray(bytes) && { bytes: bytes.map(Number) }) };
}

function partsOf(content) {
  if (typeof content === "string") return content ? [{ type: "text", text: content }] : [];
  const parts = [];
  for (const part of Array.isArray(content) ? content : []) {
    if (part?.type === "text") parts.push({ type: "text", text: string(part.text) });
    const tool = (code, result) => parts.push({ type: "tool", expression: string(code), result: string(result) });
    if (part?.type === "tool") tool(part.expression, part.result);
    if (part?.type === "python") tool(part.text, "");
    if (part?.type === "python_output" && parts.at(-1)?.type === "tool") parts.at(-1).result = string(part.text);
  }
  return parts;
}

// ChatGPT's export: a tree too, with messages of the system and of tools, which are passed over, between ours.
function fromChatGPT({ title, update_time: seconds, mapping, current_node: current }) {
  const nodes = [];
  const spoken = (id) => ["user", "assistant"].includes(mapping[id]?.message?.author?.role) && textIn(mapping[id]);
  const textIn = ({ message: { content } }) =>
    (Array.isArray(content?.parts) ? content.parts : []).filter((part) => typeof part === "string").join("\n");
  const above = (id) => { // the next message towards the root that somebody spoke
    const seen = new Set();
    do { seen.add(id); id = mapping[id]?.parent; } while (id && !spoken(id) && !seen.has(id));
    return id;
  };
  const seen = new Set();
  const waiting = Object.keys(mapping).filter((id) => !mapping[id]?.parent);
  while (waiting.length) { // parents first
    const id = waiting.shift();
    if (seen.has(id)) continue;
    seen.add(id);
    waiting.push(...(Array.isArray(mapping[id]?.children) ? mapping[id].children : []));
    if (!spoken(id)) continue;
    nodes.push({ id, parent: above(id), role: mapping[id].message.author.role, parts: textIn(mapping[id]) });
  }
  const chat = { title, updated: 1000 * seconds, nodes };
  for (let id = spoken(current) ? current : above(current); id; id = above(id)) {
    const parent = nodes.find((node) => node.id === above(id)) ?? chat;
    if (parent.chosen) break;
    parent.chosen = id;
  }
  return chat;
}
