// Text → ids and back, as nanochat/tokenizer does it; the chat format; the calculator.
"use strict";

// JavaScript's \s has U+FEFF and lacks U+0085; its patterns know neither (?i:…) in part nor possessive marks.
const SPACE = "\\t-\\r \\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";

class Tokenizer {
  // tokens: strings with a character per byte, by id; the special tokens follow them.
  constructor(tokens, specials, digits) {
    this.tokens = tokens;
    this.ids = new Map(tokens.map((token, id) => [token, id]));
    this.specials = Object.fromEntries(specials.map((name, i) => [name, tokens.length + i]));
    this.pattern = new RegExp(
      "'(?:[sdmtSDMT\\u017f]|[lL][lL]|[vV][eE]|[rR][eE])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1," + digits + "}"
      + `| ?[^${SPACE}\\p{L}\\p{N}]+[\\r\\n]*|[${SPACE}]*[\\r\\n]|[${SPACE}]+(?![^${SPACE}])|[${SPACE}]+`, "gu");
  }

  encode(text) {
    return (text.match(this.pattern) || []).flatMap((word) => this.encodeWord(word));
  }

  encodeWord(word) {  // join the neighbours that are the token with the lowest id, again and again
    const parts = Array.from(new TextEncoder().encode(word), (byte) => String.fromCharCode(byte));
    if (this.ids.has(parts.join(""))) return [this.ids.get(parts.join(""))];
    for (;;) {
      let best = Infinity, at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const id = this.ids.get(parts[i] + parts[i + 1]);
        if (id < best) [best, at] = [id, i];
      }
      if (at < 0) return parts.map((part) => this.ids.get(part));
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }

  decode(ids) {
    const bytes = ids.filter((id) => id < this.tokens.length).map((id) => this.tokens[id]).join("");
    return new TextDecoder().decode(Uint8Array.from(bytes, (letter) => letter.charCodeAt(0)));
  }
}

// The arithmetic that the model calls: numbers, + - * / // % **, brackets, 'word'.count('o'), len('word').
function calculate(expression) {
  if (expression.length > 200) return "error";
  const grouped = /["'a-z]/i.test(expression) ? expression
    : expression.replace(/(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])/g, (number) => number.replaceAll(",", ""));
  const words = grouped.match(/\d+\.?\d*|\.\d+|'[^'\\]*'|"[^"\\]*"|\*\*|\/\/|[a-z]+|\S/gi) || [];
  try {
    const value = sum(words);
    return words.length ? "error" : format(value);
  } catch {
    return "error";
  }
}

function number(value) {
  if (typeof value !== "number" || !Number.isFinite(value) || Math.abs(value) > Number.MAX_SAFE_INTEGER) throw value;
  return value;
}

function sum(words) {
  let value = product(words);
  while (words[0] === "+" || words[0] === "-") {
    const sign = words.shift() === "+" ? 1 : -1;
    value = number(number(value) + sign * number(product(words)));
  }
  return value;
}

function product(words) {
  let value = signed(words);
  while (["*", "/", "//", "%"].includes(words[0])) {
    const operator = words.shift(), left = number(value), right = number(signed(words));
    if (operator !== "*" && right === 0) throw right;
    const floor = Math.floor(left / right);
    value = number({"*": left * right, "/": left / right, "//": floor, "%": left - right * floor}[operator]);
  }
  return value;
}

function signed(words) {  // -2**2 is -4
  if (words[0] === "-" || words[0] === "+") return (words.shift() === "-" ? -1 : 1) * number(signed(words));
  const base = atom(words);
  if (words[0] !== "**") return base;
  words.shift();
  return number(number(base) ** number(signed(words)));
}

function atom(words) {
  const word = words.shift();
  if (word === "(") return close(words, sum(words));
  if (word === "len" && words.shift() === "(") return close(words, text(words)).length;
  if (/^[\d.]/.test(word)) return Number(word);
  words.unshift(word);
  const owner = text(words);
  if (words.splice(0, 3).join("") !== ".count(") throw word;
  return owner.split(close(words, text(words))).length - 1;
}

function text(words) {
  const word = words.shift();
  if (!/^['"].+['"]$/.test(word)) throw word;
  return word.slice(1, -1);
}

function close(words, value) {
  if (words.shift() !== ")") throw value;
  return value;
}

function format(value) {  // as the training data writes it: never an exponent, never 0.30000000000000004
  const rounded = Number(Math.abs(value) < 1 ? value.toPrecision(10) : Number(value.toFixed(10)).toPrecision(15)) + 0;
  return String(rounded).includes("e") ? rounded.toFixed(20).replace(/0+$/, "") : String(rounded);
}
