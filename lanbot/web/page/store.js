// Conversations in the browser's IndexedDB, and as JSON for other browsers. Tabs tell each other what they wrote.

import { newId } from "./dom.js";
import { DEFAULTS, newConversation, ROOT } from "./tree.js";

const NAME = "conversations";
let database = null;
const channel = "BroadcastChannel" in globalThis ? new BroadcastChannel("lanbot") : null;

export async function open() {
  database = await new Promise((resolve) => {
    const request = indexedDB.open("lanbot", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(NAME, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null); // a private window: kept until it is closed
  });
  return database !== null;
}

function work(mode, what) {
  if (!database) return Promise.resolve([]);
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(NAME, mode);
    const request = what(transaction.objectStore(NAME));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

export const all = () => work("readonly", (store) => store.getAll());
export const read = (id) => work("readonly", (store) => store.get(id));

export async function put(conversation) {
  await work("readwrite", (store) => store.put(conversation));
  channel?.postMessage(conversation.id);
}

export async function remove(id) {
  await work("readwrite", (store) => store.delete(id));
  channel?.postMessage(id);
}

// heard(id): another tab wrote or removed this conversation.
export function listen(heard) {
  if (channel) channel.onmessage = (event) => heard(event.data);
}

export function toJson(conversations) {
  return JSON.stringify({ format: "lanbot-conversations", version: 1, conversations }, null, 1);
}

// The conversations of a file, each under an identity of its own. Raises Error if the file is something else.
export function fromJson(text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    throw new Error("The file is not JSON.");
  }
  if (found?.format !== "lanbot-conversations" || !Array.isArray(found.conversations)) {
    throw new Error("The file has no conversations of LanBot's.");
  }
  return found.conversations.map(checked);
}

const string = (value) => (typeof value === "string" ? value : "");
const number = (value, low, high) => (Number.isFinite(value) && value >= low && value <= high ? value : null);

// Only what the page knows, of the kind that it expects; a message comes after the one that it answers.
function checked(given) {
  const made = { ...newConversation(string(given?.model)), title: string(given?.title), system: string(given?.system) };
  const settings = given?.settings ?? {};
  made.settings = {
    temperature: number(settings.temperature, 0, 2) ?? DEFAULTS.temperature,
    top_p: number(settings.top_p, 0.01, 1) ?? DEFAULTS.top_p,
    max_tokens: number(settings.max_tokens, 1, 1e9),
    seed: number(settings.seed, 0, Number.MAX_SAFE_INTEGER),
  };
  made.updated = number(given?.updated, 0, 8e15) ?? made.updated;
  const ids = new Map([[ROOT, ROOT]]);
  for (const node of Object.values(given?.nodes ?? {})) {
    if (!ids.has(node?.parent) || !["user", "assistant"].includes(node.role)) continue;
    const id = newId();
    ids.set(string(node.id), id);
    made.nodes[id] = { id, parent: ids.get(node.parent), created: number(node.created, 0, 8e15) ?? made.created, ...content(node) };
    made.chosen[made.nodes[id].parent] = id;
  }
  for (const [parent, child] of Object.entries(given?.chosen ?? {})) {
    const [above, below] = [ids.get(parent), ids.get(child)];
    if (made.nodes[below]?.parent === above) made.chosen[above] = below;
  }
  return made;
}

function content(node) {
  if (node.role === "user") return { role: "user", text: string(node.text) };
  const parts = Array.isArray(node.parts) ? node.parts : [];
  const made = { role: "assistant", model: string(node.model), finish: string(node.finish) };
  made.parts = parts
    .filter((part) => ["text", "python", "output"].includes(part?.type))
    .map((part) => ({ type: part.type, text: string(part.text) }));
  if (node.reasoning) made.reasoning = string(node.reasoning);
  if (node.error) made.error = string(node.error);
  if (number(node.usage?.total, 0, 1e12) !== null) made.usage = { prompt: number(node.usage.prompt, 0, 1e12), total: node.usage.total };
  return made;
}
