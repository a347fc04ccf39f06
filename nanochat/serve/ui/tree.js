// A conversation is a tree: a message edited or answered again gets a sibling, and the path of chosen ones is what is
// shown and sent. Plain data and pure functions; no page, no network.
//
// chat: {id, kind: "chat" | "text", title, updated (ms), nodes: [node], chosen: id of the first node,
//        text, from (where the last continuation starts), tokens, stats}            (the second line: kind "text")
// node: {id, parent: id or "", chosen: id of the child shown, role, parts, tokens, stats, error, model}
// part: {type: "text", text} | {type: "tool", expression, result};  a node stands after its parent in `nodes`

export const newId = () => crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`; // no randomUUID over plain http
export const newChat = (kind = "chat") =>
  ({ id: newId(), kind, title: "", updated: Date.now(), nodes: [], chosen: "", text: "" });

const find = (chat, id) => chat.nodes.find((node) => node.id === id);
export const parentOf = (chat, node) => find(chat, node.parent);
export const siblings = (chat, node) => chat.nodes.filter((other) => other.parent === node.parent);

/** The messages shown, first to last. */
export function path(chat) {
  const nodes = [];
  for (let node = find(chat, chat.chosen); node; node = find(chat, node.chosen)) nodes.push(node);
  return nodes;
}
/** The messages that lead to `node`, itself included. */
export function lineage(chat, node) {
  const nodes = [];
  for (; node; node = parentOf(chat, node)) nodes.unshift(node);
  return nodes;
}
export function choose(chat, node) { (parentOf(chat, node) ?? chat).chosen = node.id; }
export function add(chat, parent, role, parts = []) {
  const node = { id: newId(), parent: parent?.id ?? "", chosen: "", role, parts };
  chat.nodes.push(node);
  choose(chat, node);
  return node;
}

export const textOf = (node) =>
  node.parts.map((part) => part.type === "text" ? part.text : `[${part.expression} → ${part.result}]`).join("");
export const isEmpty = (chat) => !chat.nodes.length && !chat.text;
export const titleOf = (chat) => chat.title || "Untitled";
export const nameAfter = (text) => text.trim().replace(/\s+/g, " ").slice(0, 60);
export const holds = (chat, needle) => [chat.title, chat.text, ...chat.nodes.map(textOf)].some(
  (text) => text.toLowerCase().includes(needle));

/** Append streamed text to the parts. */
export function say(node, text) {
  const last = node.parts.at(-1);
  if (last?.type === "text") last.text += text; else node.parts.push({ type: "text", text });
}

/** A message as the server is sent it: tool calls go back as the model wrote them. */
export function wire(node) {
  if (node.role === "user") return { role: "user", content: textOf(node) };
  return { role: "assistant", content: node.parts.flatMap((part) => part.type === "text" ? [part]
    : [{ type: "python", text: part.expression }, { type: "python_output", text: part.result }]) };
}

// ---------------------------------------------------------------- export and import

/** All of it, branches included. */
export const backup = (chats) => JSON.stringify({ format: "nanochat-chats-1", chats }, null, 1);

/** What is shown, as lines that scripts.chat_sft can learn from: the answered questions of every conversation. */
export function trainingLines(chats) {
  const answered = (node, i, nodes) =>
    node.role === "assistant" && node.parts.length ? [nodes[i - 1], node].map(wire) : [];
  const conversations = chats.map((chat) => path(chat).flatMap(answered)).filter((messages) => messages.length);
  return conversations.map((messages) => `${JSON.stringify({ messages })}\n`).join("");
}

/** The conversations of a backup, of one {"messages"} object or of such lines. The file is not trusted: only strings
 *  of known fields are taken over, ids are made anew, and a parent must stand before its child, so no cycle gets in. */
export function restore(text) {
  let found;
  try { found = JSON.parse(text); } catch {
    try { found = text.split("\n").filter((line) => line.trim()).map(JSON.parse); } catch { found = null; }
  }
  const list = Array.isArray(found) ? found : found?.chats ?? [found];
  const chats = (Array.isArray(list) ? list : []).map(clean).filter((chat) => chat && !isEmpty(chat));
  if (!chats.length) {
    throw new Error("There is no conversation in this file; expected an export of this page or lines of “messages”.");
  }
  return chats;
}

const string = (value) => typeof value === "string" ? value : "";

function clean(one) {
  if (!one || typeof one !== "object") return null;
  const chat = { ...newChat(one.kind === "text" ? "text" : "chat"), text: string(one.text), title: string(one.title) };
  if (Number.isFinite(one.updated)) chat.updated = Math.min(one.updated, Date.now());
  const nodeOf = new Map(); // old id → new node
  let last = null;
  for (const old of Array.isArray(one.nodes) ? one.nodes : Array.isArray(one.messages) ? one.messages : []) {
    const parent = one.nodes ? nodeOf.get(old?.parent) ?? null : last;
    const parts = partsOf(old?.parts ?? old?.content);
    const wanted = parent?.role === "user" ? "assistant" : "user";
    if (old?.role !== wanted || !parts.length) continue;
    nodeOf.set(old.id, last = add(chat, parent, old.role, parts));
  }
  for (const old of [one, ...(one.nodes ?? [])]) if (nodeOf.has(old?.chosen)) choose(chat, nodeOf.get(old.chosen));
  chat.title ||= nameAfter(chat.nodes.length ? textOf(chat.nodes[0]) : chat.text);
  return chat;
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
