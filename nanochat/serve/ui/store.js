// Where conversations and settings are kept: conversations one record each in IndexedDB, so that two tabs do not
// overwrite each other; settings in localStorage. Both may be forbidden: then everything lasts as long as the page.

export function load(key, fallback) {
  try { return JSON.parse(localStorage.getItem(`nanochat.${key}`)) ?? fallback; } catch { return fallback; }
}
export function keep(key, value) {
  try { localStorage.setItem(`nanochat.${key}`, JSON.stringify(value)); } catch { /* full or forbidden */ }
}

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
export async function putChat(chat) {
  await done((await table("readwrite")).put(chat));
  otherTabs?.postMessage(chat.id);
}
export async function dropChat(id) {
  await done((await table("readwrite")).delete(id));
  otherTabs?.postMessage(id);
}
