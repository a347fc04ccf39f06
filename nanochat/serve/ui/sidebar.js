// The list of conversations: by day, searched, renamed, deleted; their files.
import { forget, rename, running, session, show } from "./chat.js";
import { $, download, enters, escapes, h, icon, iconButton, toast } from "./dom.js";
import { backup, fingerprint, restore } from "./files.js";
import { dropChat, putChat } from "./store.js";
import { openTeach } from "./teach.js";
import { holds, newChat, titleOf } from "./tree.js";

const DAY_MS = 86_400_000;
const MAX_ROWS = 500; // more of them make every drawing of the list slow
let renaming = null;

function age(chat) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (chat.updated >= midnight) return "Today";
  if (chat.updated >= midnight - DAY_MS) return "Yesterday";
  return chat.updated >= midnight - 7 * DAY_MS ? "This week" : "Earlier";
}

function row(chat) {
  const open = chat === session.chat;
  if (renaming === chat) return h("li", { className: "chat open" }, renamer(chat));
  const title = titleOf(chat);
  const pick = () => {
    show(chat);
    if (matchMedia("(hover: hover)").matches) $("input").focus(); // where there is no keyboard to slide in
  };
  const name = h("button", { type: "button", className: "name", title, "aria-current": String(open), onclick: pick,
    ondblclick: () => startRenaming(chat) },
  chat.kind === "text" ? icon("page") : null, h("span", { dir: "auto" }, title),
  running(chat) ? h("i", { className: "lamp", title: "Being written" }) : null);
  return h("li", { className: open ? "chat open" : "chat" }, name,
    iconButton("pen", `Rename ${title}`, () => startRenaming(chat)),
    iconButton("bin", `Delete ${title}`, () => { forget(chat); $("new").focus(); }));
}

function startRenaming(chat) {
  renaming = chat;
  drawList();
  $("history").querySelector("input")?.select();
}
function renamer(chat) {
  const input = h("input", { value: chat.title, "aria-label": "New name", dir: "auto", maxLength: 200 });
  const close = (keep) => {
    if (renaming !== chat) return;
    renaming = null;
    if (keep && input.value.trim()) rename(chat, input.value.trim()); else drawList();
    $("history").querySelector(`[aria-current=true]`)?.focus();
  };
  input.onkeydown = (event) => {
    if (escapes(event)) { event.stopPropagation(); close(false); }
    if (enters(event)) close(true);
  };
  input.onblur = () => setTimeout(close, 0, true);
  return input;
}

export function drawList() {
  if (renaming && $("history").querySelector("input")) return; // a name is being typed
  $("search").hidden = !session.chats.length;
  const wanted = $("search").value.trim();
  const needle = wanted.toLowerCase();
  const found = needle ? session.chats.filter((chat) => holds(chat, needle)) : session.chats;
  const groups = new Map();
  const focused = $("history").contains(document.activeElement) ? document.activeElement : null;
  const nameOf = (control) => control.getAttribute("aria-label") ?? control.title;
  for (const chat of found.slice(0, MAX_ROWS)) groups.set(age(chat), [...(groups.get(age(chat)) ?? []), chat]);
  const drawn = [...groups].flatMap(([name, chats]) => [h("h2", {}, name), h("ul", {}, chats.map(row))]);
  if (found.length > MAX_ROWS) {
    const number = (found.length - MAX_ROWS).toLocaleString("en");
    drawn.push(h("p", { className: "fine" }, `and ${number} older ones, which the search finds.`));
  }
  if (needle && !found.length) drawn.push(h("p", { className: "fine" }, `Nothing with “${wanted}”.`));
  $("history").replaceChildren(...drawn);
  if (focused) [...$("history").querySelectorAll("button")].find((one) => nameOf(one) === nameOf(focused))?.focus();
}
$("search").oninput = drawList;
$("search").onkeydown = (event) => {
  if (escapes(event) && $("search").value) { event.stopPropagation(); $("search").value = ""; drawList(); }
  if (enters(event)) $("history").querySelector(".name")?.click();
};

// ---------------------------------------------------------------- files

$("export").onclick = () => download("json", backup(session.chats));
$("export-lines").onclick = openTeach;
$("import").onclick = () => $("import-file").click();
$("import-file").onchange = async () => {
  try {
    let [taken, known] = [0, 0];
    for (const file of $("import-file").files) {
      const prints = new Set(session.chats.map(fingerprint));
      const all = restore(await file.text());
      const chats = all.filter((chat) => !prints.has(fingerprint(chat)));
      for (const chat of chats) await putChat(chat).catch(() => {});
      session.chats = [...chats, ...session.chats].sort((a, b) => b.updated - a.updated);
      [taken, known] = [taken + chats.length, known + all.length - chats.length];
    }
    toast(`${taken} conversation${taken === 1 ? "" : "s"} imported${known ? `, ${known} already here` : ""}.`);
  } catch (error) { toast(error.message); }
  $("import-file").value = "";
  drawList();
};
$("delete-all").onclick = () => {
  if (!confirm(`Delete all ${session.chats.length} conversations? This cannot be undone.`)) return;
  for (const chat of session.chats) { running(chat)?.controller.abort(); dropChat(chat.id).catch(() => {}); }
  session.chats = [];
  show(newChat());
};
