// LaTeX → MathML, for the formulas that models write: fractions, roots, powers, Greek, sums, matrices. No library and
// no fonts: browsers draw MathML. Whatever is not known here is shown as it was written, in the letters of code.
import { h } from "./dom.js";

const SPACE = "http://www.w3.org/1998/Math/MathML";
const MAX_CHARS = 2000;
const MAX_DEPTH = 20; // of braces in braces: a hostile answer must not fill the stack

const pairs = (text) => Object.fromEntries(text.trim().split(/\s+/).map((pair) => pair.split("=")));
const LETTERS = pairs(`alpha=α beta=β gamma=γ delta=δ epsilon=ϵ varepsilon=ε zeta=ζ eta=η theta=θ vartheta=ϑ iota=ι
  kappa=κ lambda=λ mu=μ nu=ν xi=ξ pi=π rho=ρ sigma=σ tau=τ upsilon=υ phi=ϕ varphi=φ chi=χ psi=ψ omega=ω Gamma=Γ Delta=Δ
  Theta=Θ Lambda=Λ Xi=Ξ Pi=Π Sigma=Σ Phi=Φ Psi=Ψ Omega=Ω infty=∞ partial=∂ nabla=∇ ell=ℓ hbar=ℏ emptyset=∅ varnothing=∅
  angle=∠ degree=° dots=… ldots=… cdots=⋯ vdots=⋮ Re=ℜ Im=ℑ aleph=ℵ`);
const SIGNS = pairs(`times=× div=÷ cdot=⋅ pm=± mp=∓ leq=≤ le=≤ geq=≥ ge=≥ neq=≠ ne=≠ approx=≈ equiv=≡ sim=∼ simeq=≃
  cong=≅ propto=∝ to=→ rightarrow=→ leftarrow=← Rightarrow=⇒ Leftarrow=⇐ implies=⟹ iff=⟺ Leftrightarrow=⇔
  leftrightarrow=↔ mapsto=↦ in=∈ notin=∉ subset=⊂ subseteq=⊆ supset=⊃ supseteq=⊇ cup=∪ cap=∩ setminus=∖ land=∧ wedge=∧ lor=∨ vee=∨ neg=¬
  forall=∀ exists=∃ mid=| parallel=∥ perp=⊥ star=⋆ ast=∗ circ=∘ bullet=• oplus=⊕ otimes=⊗ langle=⟨ rangle=⟩ lfloor=⌊
  rfloor=⌋ lceil=⌈ rceil=⌉ lvert=| rvert=| vert=| Vert=‖ prime=′ therefore=∴ because=∵ ll=≪ gg=≫ backslash=\\ lbrace={
  rbrace=} colon=:`);
const BIG = pairs("sum=∑ prod=∏ int=∫ iint=∬ oint=∮ bigcup=⋃ bigcap=⋂ lim=lim max=max min=min sup=sup inf=inf gcd=gcd");
const NAMES = new Set(`sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp det dim ker deg arg Pr
  mod`.split(/\s+/));
const ACCENTS = pairs("hat=^ bar=¯ overline=¯ vec=→ tilde=~ dot=˙ ddot=¨ widehat=^");
const GAPS = { ",": "0.17em", ":": "0.22em", ";": "0.28em", " ": "0.3em", "!": "0em", quad: "1em", qquad: "2em" };
const WORDS = new Set("text textbf textit mathrm mathbf mathit mathbb mathcal operatorname mbox".split(" "));
const FENCES = { pmatrix: ["(", ")"], bmatrix: ["[", "]"], vmatrix: ["|", "|"], cases: ["{", ""], matrix: ["", ""],
  aligned: ["", ""], align: ["", ""], "align*": ["", ""], array: ["", ""] };

/** A formula as an element: <math>, or <code> with the source where it has something unknown. */
export function formula(source, isBlock = false) {
  const className = isBlock ? "formula block" : "formula";
  try {
    if (source.length > MAX_CHARS) throw new RangeError("long");
    const reader = { tokens: source.match(/\\[a-zA-Z]+|\\[^]|\d+(?:[.,]\d+)*|\s+|[^]/g) ?? [], at: 0, depth: 0 };
    const math = element("math", row(reader, null), isBlock ? { display: "block" } : {});
    return isBlock ? h("div", { className, tabIndex: 0, role: "group", "aria-label": "Formula" }, math) : math;
  } catch { return h(isBlock ? "pre" : "code", { className }, source.trim()); }
}

function element(name, children, attributes = {}) {
  const node = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...[children].flat());
  return node;
}
const group = (nodes) => nodes.length === 1 ? nodes[0] : element("mrow", nodes);

// What stands up to the token `end` (null: up to the end of the source), which is read as well.
function row(reader, end) {
  if (++reader.depth > MAX_DEPTH) throw new RangeError("deep");
  const nodes = [];
  while (reader.tokens[reader.at] !== end) {
    if (reader.at >= reader.tokens.length) {
      if (end === null) break;
      throw new SyntaxError("open");
    }
    const node = scripted(reader, nodes);
    if (node) nodes.push(node);
  }
  reader.at++;
  reader.depth--;
  return nodes;
}

// An atom with its superscript and subscript.
function scripted(reader, nodes) {
  const token = reader.tokens[reader.at];
  const base = token === "^" || token === "_" ? element("mrow", []) : atom(reader, nodes);
  const scripts = {};
  for (let next = peek(reader); base && (next === "^" || next === "_" || next === "'"); next = peek(reader)) {
    reader.at++;
    const script = next === "'" ? element("mo", "′") : argument(reader);
    const place = next === "_" ? "low" : "high";
    scripts[place] = scripts[place] ? element("mrow", [scripts[place], script]) : script;
  }
  const { low, high } = scripts;
  const [under, over, both] = base?.isBig ? ["munder", "mover", "munderover"] : ["msub", "msup", "msubsup"];
  if (low && high) return element(both, [base, low, high]);
  return low ? element(under, [base, low]) : high ? element(over, [base, high]) : base;
}

function peek(reader) {
  while (/^\s+$/.test(reader.tokens[reader.at] ?? "")) reader.at++;
  return reader.tokens[reader.at];
}
function argument(reader) {
  const token = peek(reader);
  if (token === undefined || token === "}" || token === "^") throw new SyntaxError("argument");
  if (/^\d\d/.test(token)) { // a power without braces takes one digit
    reader.tokens[reader.at] = token.slice(1);
    return element("mn", token[0]);
  }
  return atom(reader);
}
function word(reader) { // {…} as text
  if (peek(reader) !== "{") throw new SyntaxError("word");
  const end = reader.tokens.indexOf("}", reader.at);
  if (end < 0) throw new SyntaxError("open");
  const text = reader.tokens.slice(reader.at + 1, end).join("");
  if (/[\\{]/.test(text)) throw new SyntaxError("word");
  reader.at = end + 1;
  return text;
}

function atom(reader) {
  const token = reader.tokens[reader.at++];
  if (/^\s/.test(token)) return null;
  if (token === "{") return group(row(reader, "}"));
  if (/^\d/.test(token)) return element("mn", token);
  if (token.length > 1) return command(reader, token.slice(1));
  if (token === "}" || token === "&" || token === "#" || token === "%" || token === "$") throw new SyntaxError(token);
  if (/\p{L}/u.test(token)) return element("mi", token);
  const isFence = /[()[\]|]/.test(token); // grows only after \\left and \\right
  return element("mo", { "-": "−", "*": "∗" }[token] ?? token, isFence ? { stretchy: "false" } : {});
}

function command(reader, name) {
  const own = (table) => Object.hasOwn(table, name);
  if (own(LETTERS)) return element("mi", LETTERS[name]);
  if (own(SIGNS)) return element("mo", SIGNS[name]);
  if (own(BIG)) {
    const node = element("mo", BIG[name], { movablelimits: "true" });
    return Object.assign(node, { isBig: !name.includes("int") });
  }
  if (NAMES.has(name)) return element("mi", name);
  if (own(GAPS)) return element("mspace", [], { width: GAPS[name] });
  if (WORDS.has(name)) return element("mtext", word(reader).replace(/^ | $/g, "\u00a0"));
  if (own(ACCENTS)) return element("mover", [argument(reader), element("mo", ACCENTS[name])], { accent: "true" });
  if (/^[dt]?frac$/.test(name)) return element("mfrac", [argument(reader), argument(reader)]);
  if (/^d?binom$/.test(name)) {
    const stack = element("mfrac", [argument(reader), argument(reader)], { linethickness: "0" });
    return element("mrow", [element("mo", "("), stack, element("mo", ")")]);
  }
  if (name === "sqrt") {
    if (peek(reader) !== "[") return element("msqrt", argument(reader));
    reader.at++;
    const degree = group(row(reader, "]"));
    return element("mroot", [argument(reader), degree]);
  }
  if (name === "boxed") return element("mrow", argument(reader), { class: "boxed" });
  if (name === "left") return fenced(reader);
  if (/^[bB]igg?[lr]?$/.test(name) || /^(display|text)style$/.test(name)) return null; // sizes are the browser's
  if (name === "begin") return table(reader, word(reader));
  if (/^[{}%$&#_|]$/.test(name)) return element("mo", name === "|" ? "‖" : name, { stretchy: "false" });
  throw new SyntaxError(name);
}

function fence(reader) {
  const token = peek(reader);
  reader.at++;
  if (token === ".") return [];
  const sign = token?.length === 1 ? token : { "\\{": "{", "\\}": "}", "\\|": "‖" }[token] ?? SIGNS[token?.slice(1)];
  if (!sign) throw new SyntaxError("fence");
  return [element("mo", sign, { stretchy: "true" })];
}
function fenced(reader) {
  const open = fence(reader);
  const inner = row(reader, "\\right");
  return element("mrow", [...open, ...inner, ...fence(reader)]);
}

function table(reader, kind) {
  if (!Object.hasOwn(FENCES, kind)) throw new SyntaxError(kind);
  if (kind === "array") word(reader); // how its columns are set
  const rows = [[[]]];
  while (peek(reader) !== "\\end") {
    const token = reader.tokens[reader.at];
    if (token === undefined) throw new SyntaxError("open");
    if (token === "&" || token === "\\\\") {
      reader.at++;
      if (token === "&") rows.at(-1).push([]); else rows.push([[]]);
    } else rows.at(-1).at(-1).push(scripted(reader) ?? "");
  }
  reader.at++;
  if (word(reader) !== kind) throw new SyntaxError(kind);
  if (rows.at(-1).length === 1 && !rows.at(-1)[0].length) rows.pop();
  const grid = element("mtable", rows.map((cells) => element("mtr", cells.map((cell) => element("mtd", cell)))));
  const [open, close] = FENCES[kind].map((sign) => sign ? [element("mo", sign, { stretchy: "true" })] : []);
  return element("mrow", [...open, grid, ...close]);
}
