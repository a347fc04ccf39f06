// Elements. Text only ever becomes text nodes: nothing here, or anywhere on the page, parses HTML.

export const $ = (id) => document.getElementById(id);

/** An element: h("p", {className: "fine", "aria-label": "…", onclick}, child, "text"); null children are left out. */
export function h(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined) continue;
    if (name in node) node[name] = value; else node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child != null));
  return node;
}

/** An icon of the sprite in index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}
export const button = (label, onclick, props) => h("button", { type: "button", onclick, ...props }, label);
export const iconButton = (name, label, onclick, props) =>
  h("button", { type: "button", className: "icon", onclick, title: label, "aria-label": label, ...props }, icon(name));

/** Make `parent` hold `nodes`, keeping the leading ones that are equal: a selection survives while text streams in. */
export function patch(parent, nodes) {
  nodes.forEach((node, i) => {
    const old = parent.childNodes[i];
    if (!old) parent.append(node);
    else if (!old.isEqualNode(node)) old.replaceWith(node);
  });
  while (parent.childNodes.length > nodes.length) parent.lastChild.remove();
}

export function grow(area) { area.style.height = "auto"; area.style.height = `${area.scrollHeight}px`; }

/** Let the browser save `text` as nanochat-DATE.`kind`; returns that name. */
export function download(kind, text) {
  const name = `nanochat-${new Date().toISOString().slice(0, 10)}.${kind}`;
  const link = h("a", { href: URL.createObjectURL(new Blob([text])), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  return name;
}

/** Say it to screen readers; nothing is shown. */
export function announce(text) { $("announcer").textContent = text; }

// A key that belongs to the composition of a Japanese or Chinese word. Safari reports the Enter that ends it after the
// composition, with the key code 229 only.
const composes = (event) => event.isComposing || event.keyCode === 229;
/** Whether a key press accepts what was typed, or throws it away. */
export const enters = (event) => event.key === "Enter" && !event.shiftKey && !composes(event);
export const escapes = (event) => event.key === "Escape" && !composes(event);

const touchKeyboard = matchMedia("(pointer: coarse)"); // its Enter is the only way to a new line
/** Whether a key press sends what was typed: Enter, or Ctrl+Enter where Enter is needed for a new line. */
export const sends = (event) => enters(event) && (event.ctrlKey || event.metaKey || !touchKeyboard.matches);

// An open dialog makes everything outside it inert and covers it, so messages move into the dialog and out again.
function placeToasts() {
  const parent = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
  if ($("toasts").parentNode !== parent) parent.append($("toasts"), $("announcer"));
}
document.addEventListener("close", placeToasts, true);
export function openDialog(dialog) {
  dialog.showModal();
  placeToasts();
}

/** A line above everything for some seconds, with one thing to do about it at most. */
export function toast(text, label, action) {
  const box = h("div", { className: "toast" }, h("span", {}, text),
    label && button(label, () => { box.remove(); action(); }, { className: "link" }));
  placeToasts();
  $("toasts").replaceChildren(box);
  setTimeout(() => box.remove(), label ? 10_000 : 5_000);
}

// Over plain http from another device browsers offer no clipboard; the old command works there, from a selection.
function copyBySelection(text) {
  const focused = document.activeElement;
  const area = h("textarea", { className: "unseen", value: text });
  (focused.closest?.("dialog") ?? document.body).append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused.focus?.();
  if (!copied) throw new Error("the browser refused");
}

export async function copyText(text, control) {
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text); else copyBySelection(text);
    control.replaceChildren(icon("check"));
    setTimeout(() => control.replaceChildren(icon("copy")), 1500);
    announce("Copied");
  } catch { toast("The browser does not let this page copy. Select the text, then press Ctrl+C."); }
}
