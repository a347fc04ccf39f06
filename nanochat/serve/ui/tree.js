// A conversation is a tree: a message edited or answered again gets a sibling, and the path of chosen ones is what is
// shown and sent. Plain data and pure functions; no page, no network.
//
// chat: {id, kind: "chat" | "text", title, named (ms: when a person gave the title), updated (ms), nodes: [node],
//        chosen: id of the first node, system (only if the file that the conversation came from had one),
//        text, from (where the last continuation starts), tokens, stats}            (this line: kind "text")
// node: {id, parent: id or "", chosen: id of the child shown, changed (ms), role, parts, tokens, stats, error,
//        cure: the setting that may help, rating: 1 good | -1 bad, compared: its answers are shown side by side}
// part: {type: "text", text} | {type: "tool", expression, result};  a node stands after its parent in `nodes`
// stats: {tokens, rate, prompt (its tokens), promptTokens (those of them that were read anew), promptSeconds, used,
//        ending, ended (nothing more came), model, system, ignored, length (of a text's end that was read), remembers: id of the first message that the model
//        still read, where it did not read all}

const newId = () => crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`; // no randomUUID over plain http
export const newChat = (kind = "chat") =>
  ({ id: newId(), kind, title: "", updated: Date.now(), nodes: [], chosen: "", text: "" });

// Messages by their ids and by their parents' ids. Messages are added, but never removed or moved.
const indexes = new WeakMap(); // chat → {size: how many of its messages are in, byId, children}
function indexOf(chat) {
  if (!indexes.has(chat)) indexes.set(chat, { size: 0, byId: new Map(), children: new Map() });
  const index = indexes.get(chat);
  for (; index.size < chat.nodes.length; index.size++) {
    const node = chat.nodes[index.size];
    index.byId.set(node.id, node);
    if (!index.children.has(node.parent)) index.children.set(node.parent, []);
    index.children.get(node.parent).push(node);
  }
  return index;
}
const find = (chat, id) => indexOf(chat).byId.get(id);
export const parentOf = (chat, node) => find(chat, node.parent);
export const siblings = (chat, node) => indexOf(chat).children.get(node.parent);

/** The messages shown, first to last. */
export function path(chat) {
  const nodes = [];
  for (let node = find(chat, chat.chosen); node; node = find(chat, node.chosen)) nodes.push(node);
  return nodes;
}
/** The messages that lead to `node`, itself included. */
export function lineage(chat, node) {
  const nodes = [];
  for (; node; node = parentOf(chat, node)) nodes.push(node);
  return nodes.reverse();
}
export function choose(chat, node) { (parentOf(chat, node) ?? chat).chosen = node.id; }
export function add(chat, parent, role, parts = []) {
  const node = { id: newId(), parent: parent?.id ?? "", chosen: "", changed: Date.now(), role, parts };
  chat.nodes.push(node);
  choose(chat, node);
  return node;
}

const callText = (part) => `[${part.expression} → ${part.result}]`;
export const textOf = (node) => node.parts.map((part, i, parts) => part.type === "text" ? part.text
  : callText(part) + (/^\S/.test(parts[i + 1]?.text ?? "") ? " " : "")).join("");
/** The parts of an answer that was corrected by hand: textOf() read backwards, tool calls included. */
export function partsFrom(text, original) {
  const calls = original.parts.filter((part) => part.type === "tool");
  const parts = [];
  for (let rest = text, match; rest; rest = rest.slice(match.end)) {
    const known = calls.map((call) => ({ call, at: rest.indexOf(callText(call)), size: callText(call).length }));
    const typed = [...rest.matchAll(/\[([^[\]→]+) → ([^[\]]*)\]/g)].map((found) => ({ at: found.index,
      size: found[0].length, call: { type: "tool", expression: found[1], result: found[2] } }));
    const [first] = [...known, ...typed].filter((found) => found.at >= 0).sort((a, b) => a.at - b.at);
    match = first ?? { at: rest.length, size: 0 };
    match.end = match.at + match.size + (first && rest[match.at + match.size] === " " ? 1 : 0);
    if (match.at) parts.push({ type: "text", text: rest.slice(0, match.at) });
    if (first) parts.push({ ...first.call });
  }
  return parts;
}

export const isEmpty = (chat) => !chat.nodes.length && !chat.text;
export const titleOf = (chat) => chat.title || "Untitled";
export const nameAfter = (text) => text.trim().replace(/\s+/g, " ").slice(0, 60).replace(/[\ud800-\udbff]$/, "");
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

/** The messages to send for an answer after (or in) `last`: the answered questions before it, since a question that
 *  was refused would be refused again, and the newest `maxChars` characters of them. The newest question always goes.
 *  {sent: [node], isCut: whether some did not fit into `maxChars`} */
export function history(chat, last, maxChars) {
  const line = lineage(chat, last);
  const answered = line.filter((node, i) =>
    node === last || (node.role === "user" ? line[i + 1].parts.length : node.parts.length));
  let start = answered.length - (last.role === "user" ? 1 : 2);
  let size = answered.slice(start).reduce((sum, node) => sum + textOf(node).length, 0);
  for (; start >= 2; start -= 2) {
    size += textOf(answered[start - 1]).length + textOf(answered[start - 2]).length;
    if (size > maxChars) break;
  }
  return { sent: answered.slice(Math.max(start, 0)), isCut: start > 0 };
}

const OF_CHAT = ["system", "updated", "text", "from", "tokens", "stats", "error"];
/** Take into `mine` what another tab has stored of the same conversation: new messages, and the newer versions of
 *  messages. Whichever conversation is newer decides which messages are shown, the later name by hand the title.
 *  `busy`: what is being written here, which stays. True if something changed. */
export function merge(mine, theirs, busy = []) {
  const known = new Map(mine.nodes.map((node) => [node.id, node]));
  const newer = theirs.updated > mine.updated && !busy.length;
  let changed = newer;
  for (const node of theirs.nodes) {
    const own = known.get(node.id);
    if (!own) mine.nodes.push(node);
    else if (!busy.includes(own) && (node.changed ?? 0) > (own.changed ?? 0)) {
      const { chosen } = own;
      for (const field of Object.keys(own)) delete own[field];
      Object.assign(own, node, { chosen }); // the same object: the page knows messages by it
    } else continue;
    changed = true;
  }
  if ((theirs.named ?? 0) > (mine.named ?? 0)) {
    Object.assign(mine, { title: theirs.title, named: theirs.named });
    changed = true;
  }
  if (!newer) return changed;
  for (const field of OF_CHAT) if (field in theirs) mine[field] = theirs[field]; else delete mine[field];
  mine.chosen = theirs.chosen;
  for (const node of theirs.nodes) if (known.has(node.id)) known.get(node.id).chosen = node.chosen;
  return true;
}
