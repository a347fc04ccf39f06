// Where conversations and settings are kept: conversations as records in IndexedDB, each merged with what another tab
// has stored of it; settings in localStorage. Both may be forbidden: then everything lasts as long as the page.

export function load(key, fallback) {
  try { return JSON.parse(localStorage.getItem(`nanochat.${key}`)) ?? fallback; } catch { return fallback; }
}
export function keep(key, value) {
  try { localStorage.setItem(`nanochat.${key}`, JSON.stringify(value)); } catch { /* full or forbidden */ }
}
/** Called when another tab has kept something else under `key`. */
export function onKeptElsewhere(key, react) {
  addEventListener("storage", (event) => { if (event.key === `nanochat.${key}`) react(); });
}

/** What stands in the box, unsent: it outlives a reload, in this tab only. */
export const draft = {
  get text() { try { return sessionStorage.getItem("nanochat.draft") ?? ""; } catch { return ""; } },
  set text(value) { try { sessionStorage.setItem("nanochat.draft", value); } catch { /* full or forbidden */ } },
};

const done = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = request.onblocked = () => reject(request.error);
});
let database;
async function table(mode) {
  if (!database) {
    const opening = indexedDB.open("nanochat", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("chats", { keyPath: "id" });
    database = await done(opening);
  }
  return database.transaction("chats", mode).objectStore("chats");
}

const otherTabs = globalThis.BroadcastChannel && new BroadcastChannel("nanochat");
export function onChangeElsewhere(react) { if (otherTabs) otherTabs.onmessage = react; }

/** Newest first. */
export async function allChats() {
  return (await done((await table("readonly")).getAll())).sort((a, b) => b.updated - a.updated);
}
/** Store a conversation; `combine(chat, stored)` first takes into it what another tab has stored meanwhile. Both happen
 *  in one transaction, so that no tab can write in between. */
export async function putChat(chat, combine = () => {}) {
  const chats = await table("readwrite");
  const stored = await done(chats.get(chat.id));
  if (stored) combine(chat, stored);
  await done(chats.put(chat));
  otherTabs?.postMessage(chat.id);
}
export async function dropChat(id) {
  await done((await table("readwrite")).delete(id));
  otherTabs?.postMessage(id);
}
