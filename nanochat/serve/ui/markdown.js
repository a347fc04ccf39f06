// Markdown → elements. Model output is hostile: every character of it ends in a text node, no image is ever loaded,
// and a link is a link only to http, https or mailto. Every pattern here reads its input in linear time.
import { copyText, h, iconButton } from "./dom.js";
import { formula } from "./math.js";

const MAX_FORMULA_LINES = 30;
const MAX_DEPTH = 6; // of lists in quotes in lists …: deeper ones are shown as they are written
const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*)/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)(?:([-*+•])|(\d{1,9})[.)])(?: +|$)/;

/** Block elements of a text; an open fence (the text may still be streaming) counts as closed at its end. */
export function markdown(text) { return blocks(text.split("\n"), 0); }

function blocks(lines, depth) {
  const found = [];
  let prose = [];
  const flush = () => {
    const text = prose.join("\n").trim();
    if (text) found.push(h("p", { dir: "auto" }, inline(text)));
    prose = [];
  };
  for (let i = 0; i < lines.length;) {
    const block = depth < MAX_DEPTH && BLOCKS.reduce((taken, read) => taken ?? read(lines, i, depth), null);
    if (block) {
      flush();
      found.push(block.node);
      i = block.end;
    } else if (!lines[i].trim()) { flush(); i++; } else prose.push(lines[i++]);
  }
  flush();
  return found;
}

// Each reads one block that starts at lines[i]: {node, end}, or null if none does.
const BLOCKS = [fence, heading, rule, quote, list, table, displayed];

function fence(lines, i) {
  const open = lines[i].match(FENCE);
  if (!open) return null;
  const closes = (line) => line.trim().startsWith(open[1]) && /^[`~]+$/.test(line.trim());
  let end = i + 1;
  while (end < lines.length && !closes(lines[end])) end++;
  return { node: codeBlock(lines.slice(i + 1, end).join("\n"), open[2].toLowerCase()), end: end + 1 };
}

function heading(lines, i) {
  const match = lines[i].match(HEADING);
  // always h3: the message has an h2, and a model that skips levels must not break a screen reader's outline
  const props = match && { className: `level${match[1].length}`, dir: "auto" };
  return match && { node: h("h3", props, inline(match[2])), end: i + 1 };
}

function rule(lines, i) { return RULE.test(lines[i]) ? { node: h("hr"), end: i + 1 } : null; }

function quote(lines, i, depth) {
  let end = i;
  while (end < lines.length && QUOTE.test(lines[end])) end++;
  return end === i ? null
    : { node: h("blockquote", {}, blocks(lines.slice(i, end).map((line) => line.replace(QUOTE, "")), depth + 1)), end };
}

function list(lines, i, depth) {
  const first = lines[i].match(ITEM);
  if (!first) return null;
  const node = h(first[2] ? "ul" : "ol", first[2] ? {} : { start: Number(first[3]) });
  let end = i;
  for (let match = first; match && match[1].length <= first[1].length + 1 && Boolean(match[2]) === Boolean(first[2]);) {
    const inner = [lines[end].slice(match[0].length)];
    const belongs = (line) => /^ {2,}/.test(line) && line.search(/\S/) > match[1].length;
    for (end++; end < lines.length; end++) { // deeper lines are the item's; so is one blank line between two of them
      if (belongs(lines[end])) inner.push(lines[end].slice(Math.min(lines[end].search(/\S/), match[0].length)));
      else if (!lines[end].trim() && belongs(lines[end + 1] ?? "")) inner.push("");
      else break;
    }
    const [head, ...rest] = blocks(inner, depth + 1);
    node.append(h("li", { dir: "auto" }, head?.tagName === "P" ? [...head.childNodes] : head, rest));
    if (!lines[end]?.trim() && ITEM.test(lines[end + 1] ?? "")) end++; // a loose list
    match = lines[end]?.match(ITEM);
  }
  return { node, end };
}

const cells = (line) => // \\| is a bar within a cell
  line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));

function table(lines, i) {
  if (!lines[i].includes("|") || !lines[i + 1]?.includes("-")) return null;
  const [head, marks] = [cells(lines[i]), cells(lines[i + 1])];
  if (head.length !== marks.length || !marks.every((mark) => /^:?-+:?$/.test(mark))) return null;
  const side = marks.map((mark) => mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : "start");
  const cell = (tag, text, c) => h(tag, { className: side[c], dir: "auto" }, inline(text ?? ""));
  const row = (tag, texts) => h("tr", {}, head.map((_, c) => cell(tag, texts[c], c)));
  let end = i + 2;
  while (lines[end]?.includes("|")) end++;
  const body = lines.slice(i + 2, end).map((line) => row("td", cells(line)));
  return { node: h("div", { className: "table", tabIndex: 0, role: "group", "aria-label": "Table" },
    h("table", {}, h("thead", {}, row("th", head)), h("tbody", {}, body))), end };
}

// A formula on lines of its own: \\[ … \\] or $$ … $$. One that is not closed yet is shown as it is written.
function displayed(lines, i) {
  const open = lines[i].match(/^\s*(\\\[|\$\$)/);
  if (!open) return null;
  const close = open[1] === "$$" ? "$$" : "\\]";
  const rest = [lines[i].slice(open[0].length), ...lines.slice(i + 1, i + MAX_FORMULA_LINES)];
  const end = rest.findIndex((line) => line.includes(close));
  const place = rest[end]?.indexOf(close);
  if (end < 0 || rest[end].slice(place + 2).trim()) return null;
  const source = [...rest.slice(0, end), rest[end].slice(0, place)].join("\n");
  return { node: formula(source, true), end: i + end + 1 };
}

// ---------------------------------------------------------------- inside a line

const MARKS = new RegExp([
  String.raw`\\([\\\x60*_{}#+.!|>~-])`, // 1 an escape; brackets are those of formulas
  String.raw`\x60([^\x60\n]+)\x60`, // 2 code
  String.raw`\*\*(?=\S)([^*]+)\*\*`, // 3 strong
  String.raw`(?<![\w*])\*(?=[^\s*])([^*\n]+)\*(?![\w*])`, // 4 emphasis
  String.raw`(?<![\w_])_(?=[^\s_])([^_\n]+)_(?![\w_])`, // 5 the same
  String.raw`~~(?=\S)([^~]+)~~`, // 6 struck out
  String.raw`!?\[([^\[\]\n]*)\]\(([^()\s]{1,2000})\)`, // 7 8 a link, or an image: shown as a link
  String.raw`\\\(([^\n]{1,400}?)\\\)`, // 9 a formula in the line
  String.raw`\\\[([^\n]{1,400}?)\\\]`, // 10
  String.raw`\$\$([^$\n]{1,400})\$\$`, // 11
  String.raw`(?<![\w$])\$(?=[^\s$])([^$\n]{1,200})(?<!\s)\$(?![\w$])`, // 12, unless it is about money
  String.raw`(https?:\/\/[^\s<>"'()\[\]]{1,2000}[^\s<>"'()\[\].,;:!?*_])`, // 13 a bare address
].join("|"), "g");

function inline(text, depth = 0) {
  if (depth > 3) return [text];
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(MARKS)) {
    nodes.push(text.slice(end, match.index), mark(match, depth));
    end = match.index + match[0].length;
  }
  return [...nodes, text.slice(end)].filter((node) => node !== "");
}

function mark([whole, escaped, code, strong, em, em2, struck, label, address, ...rest], depth) {
  const [inBrackets, inSquares, inDollars, inDollar, bare] = rest;
  if (inDollar) return /[\\^_={]|^[a-z]$/i.test(inDollar) ? formula(inDollar) : whole;
  if (inBrackets ?? inSquares ?? inDollars) return formula(inBrackets ?? inSquares ?? inDollars);
  if (escaped) return escaped;
  if (code) return h("code", {}, code);
  if (strong) return h("strong", {}, inline(strong, depth + 1));
  if (em ?? em2) return h("em", {}, inline(em ?? em2, depth + 1));
  if (struck) return h("del", {}, inline(struck, depth + 1));
  return link(address ?? bare, label ?? bare) ?? whole;
}

function link(address, label) {
  let url;
  try { url = new URL(address); } catch { return null; } // relative ones as well: they would lead into this server
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return null;
  const props = { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow", title: url.href };
  return h("a", props, label || url.href);
}

// ---------------------------------------------------------------- code

const HASH = /^(py|python|python3|sh|bash|shell|yaml|yml|toml|ruby|rb|r|makefile|)$/;
const WORDS = `and as assert async await break case catch class const continue def default del do elif else enum except
  export extends false False finally fn for from func function global if impl import in interface is lambda let match
  mut new nil None nonlocal not null or pass pub raise return self static struct super switch this throw true True try type
  typeof use var void while with yield`.replace(/\s+/g, "|");
const STRING = String.raw`"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?`;
const pattern = (comment) => new RegExp(
  String.raw`(${comment})|(${STRING})|\b(\d[\w.]*)|\b(${WORDS})\b|\b([A-Za-z_]\w*)(?=\()`, "g");
const CODE = { hash: pattern("#.*"), slash: pattern(String.raw`\/\/.*|\/\*[^]*?(?:\*\/|$)`) };
const KINDS = ["comment", "string", "number", "keyword", "call"];

/** A block of code: its language, a button that copies it, colours. */
export function codeBlock(code, language) {
  const nodes = [];
  let end = 0;
  for (const match of language === "text" ? [] : code.matchAll(CODE[HASH.test(language) ? "hash" : "slash"])) {
    const kind = KINDS[match.slice(1).findIndex(Boolean)];
    nodes.push(code.slice(end, match.index), h("span", { className: kind }, match[0]));
    end = match.index + match[0].length;
  }
  const copy = iconButton("copy", "Copy code", () => copyText(code, copy));
  return h("figure", { className: "code" }, h("figcaption", {}, h("span", {}, language || "code"), copy),
    h("pre", { tabIndex: 0 }, h("code", {}, nodes, code.slice(end))));
}
