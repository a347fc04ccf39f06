// How likely each token was, and what else could have stood there.
//
// A token: {text, p, top: [[text, p], …], bytes (only of a piece of a character)}; between them {tool: part}.
import { announce, button, h } from "./dom.js";

const encoder = new TextEncoder();

/** The tokens of a chunk's `logprobs`: chat's ({content}) or completions' ({tokens, token_logprobs, top_logprobs}). */
export function read(logprobs) {
  if (logprobs?.content) {
    return logprobs.content.map((one) => {
      const text = one.bytes ? new TextDecoder().decode(new Uint8Array(one.bytes)) : one.token;
      const top = (one.top_logprobs ?? []).map((other) => [other.token, Math.exp(other.logprob)]);
      return { text, p: Math.exp(one.logprob), top, ...(text.includes("\ufffd") && { bytes: one.bytes }) };
    });
  }
  return (logprobs?.tokens ?? []).map((text, i) => {
    const top = Object.entries(logprobs.top_logprobs?.[i] ?? {}).map(([token, logprob]) => [token, Math.exp(logprob)])
      .sort(([, p], [, other]) => other - p); // the keys of an object that are numbers come first in JavaScript
    const bytes = text.startsWith("bytes:") && [...text.matchAll(/\\x(..)/g)].map(([, byte]) => parseInt(byte, 16));
    return { text, p: Math.exp(logprobs.token_logprobs[i] ?? 0), top, ...(bytes && { bytes }) };
  });
}

/** The text of tokens; characters that span several are put together. */
export function join(tokens) {
  const decoder = new TextDecoder();
  const bytes = (token) => token.bytes ? new Uint8Array(token.bytes) : encoder.encode(token.text);
  return tokens.map((token) => decoder.decode(bytes(token), { stream: true })).join("") + decoder.decode();
}

/** What stands before token `number`, and then `text` instead of it: {parts, tokens} of a new answer. */
export function instead(tokens, number, [text, p]) {
  const kept = [...tokens.slice(0, number), { ...tokens[number], text, p, bytes: undefined }];
  const parts = [];
  for (let start = 0, i = 0; i <= kept.length; i++) {
    if (i < kept.length && !kept[i].tool) continue;
    if (i > start) parts.push({ type: "text", text: join(kept.slice(start, i)) });
    if (i < kept.length) parts.push(kept[i].tool);
    start = i + 1;
  }
  return { parts, tokens: kept };
}

const SPECIAL = /^<\|\w+\|>$/; // a mark of the chat format
// Could stand in a text: not the end of the answer, not a piece of a character.
const sayable = (text) => text && !/\ufffd|^bytes:/.test(text) && !SPECIAL.test(text);
export const percent = (p) => p >= 0.9995 ? "100 %" : p < 0.0005 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`;
const hex = (byte) => `\\x${byte.toString(16).padStart(2, "0")}`;
export const visible = (text) => text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ | $/g, "␣") || "∅";

/** All tokens of an answer, the surprising ones tinted. `choose(number, alternative)`, if given, is called for an
 *  alternative picked in the card that opens over a token (pointer, or arrow keys). */
export function view(tokens, drawTool, choose) {
  const spans = new Map(); // element → number
  const nodes = tokens.flatMap((token, number) => {
    if (token.tool) return drawTool(token.tool);
    const className = SPECIAL.test(token.text) ? "token special" : "token";
    const span = h("span", { className, role: "button", tabIndex: spans.size ? -1 : 0 },
      token.bytes ? token.bytes.map(hex).join("") : token.text);
    span.style.setProperty("--surprise", `${Math.round(70 * (1 - token.p))}%`);
    spans.set(span, number);
    return [span];
  });
  const own = tokens.filter((token) => !token.tool);
  const nats = own.reduce((sum, token) => sum - Math.log(Math.max(token.p, 1e-9)), 0);
  const perplexity = Math.exp(nats / Math.max(own.length, 1));
  const label = "Tokens; arrow keys move between them";
  const box = h("div", { className: "tokens", role: "group", "aria-label": label }, nodes);
  const open = (span) => {
    const number = spans.get(span);
    if (number !== undefined) openCard(span, tokens[number], choose && ((other) => choose(number, other)));
  };
  box.onpointerover = (event) => { if (event.pointerType !== "touch") open(event.target); };
  box.onclick = (event) => { open(event.target); };
  box.addEventListener("focusin", (event) => open(event.target)); // there is no property onfocusin
  box.onkeydown = (event) => move(event, [...spans.keys()], open);
  return [box, h("p", { className: "legend fine" }, h("span", { className: "scale", "aria-hidden": "true" }),
    `expected → surprising · ${own.length} tokens, perplexity ${perplexity.toFixed(2)}`)];
}

function move(event, spans, open) {
  const here = spans.indexOf(event.target);
  const there = spans[here + ({ ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key] ?? NaN)];
  if (event.key === "Enter" || event.key === " ") {
    open(event.target);
    document.querySelector(".card button")?.focus();
  } else if (there) {
    event.target.tabIndex = -1;
    there.tabIndex = 0;
    there.focus();
  } else return;
  event.preventDefault();
}

let card = null;
export function closeCard() {
  card?.remove();
  card = null;
}

function openCard(span, token, choose) {
  if (card?.span === span) return;
  closeCard();
  const among = token.top.some(([text]) => text === token.text);
  const rows = [...(among ? [] : [[token.text, token.p]]), ...token.top].map(([text, p]) => {
    const bar = h("i", {});
    bar.style.width = `${Math.max(100 * p, 1)}%`;
    const row = [h("code", {}, visible(text)), h("span", { className: "bar" }, bar), h("span", {}, percent(p))];
    if (text === token.text) return h("div", { className: "other said" }, row);
    const onclick = () => { closeCard(); choose([text, p]); };
    const className = "other";
    return choose && sayable(text) ? button(row, onclick, { className }) : h("div", { className }, row);
  });
  card = h("div", { className: "card", role: "dialog", "aria-label": "Alternatives" }, rows,
    choose && token.top.length ? h("p", { className: "fine" }, "Pick another to go on from there.") : null);
  card.span = span;
  card.onkeydown = (event) => { if (event.key === "Escape") { event.stopPropagation(); span.focus(); closeCard(); } };
  document.body.append(card);
  placeCard();
  const spoken = ([text, p]) => `${visible(text)}, ${percent(p)}`;
  announce([[token.text, token.p], ...token.top].map(spoken).join("; "));
}

function placeCard() {
  const place = card.span.getClientRects()[0];
  const below = place.bottom + card.offsetHeight < innerHeight - 8;
  card.style.left = `${Math.max(8, Math.min(place.left, innerWidth - card.offsetWidth - 8))}px`;
  card.style.top = `${below ? place.bottom : place.top - card.offsetHeight}px`;
}

document.addEventListener("pointermove", (event) => {
  if (card && !event.target.closest?.(".card, .token") && !card.contains(document.activeElement)) closeCard();
});
document.addEventListener("pointerdown", (event) => { if (!event.target.closest?.(".card, .token")) closeCard(); });
document.addEventListener("scroll", () => { // the browser scrolls to a token that gets the focus: its card comes along
  if (card && card.span === document.activeElement) placeCard(); else closeCard();
}, true);
document.addEventListener("focusin", (event) => { if (!event.target.closest?.(".card, .token")) closeCard(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") closeCard(); });
