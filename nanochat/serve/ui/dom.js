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

/** Say it to screen readers; nothing is shown. */
export function announce(text) { $("announcer").textContent = text; }

/** A line at the bottom for some seconds, with one thing to do about it at most. */
export function toast(text, label, action) {
  const box = h("div", { className: "toast" }, h("span", {}, text),
    label && button(label, () => { box.remove(); action(); }, { className: "link" }));
  $("toasts").replaceChildren(box);
  setTimeout(() => box.remove(), label ? 10_000 : 5_000);
}

export async function copyText(text, control) {
  try {
    await navigator.clipboard.writeText(text);
    control.replaceChildren(icon("check"));
    setTimeout(() => control.replaceChildren(icon("copy")), 1500);
    announce("Copied");
  } catch { toast("The browser does not let this page copy; it needs https or localhost."); }
}
