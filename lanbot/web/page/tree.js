// A conversation as a tree of messages: an edit or a further answer is a sibling, and one child of each is chosen.

import { newId } from "./dom.js";

export const ROOT = "";
export const DEFAULTS = { temperature: 0.7, top_p: 1, max_tokens: null, seed: null };

export function newConversation(model = "", settings = {}) {
  const now = Date.now();
  return {
    id: newId(), title: "", created: now, updated: now, model, system: "", draft: "",
    settings: { ...DEFAULTS, ...settings }, nodes: {}, chosen: {}, agent: null, // or {session}: the agent's number of it
  };
}

export function add(conversation, parent, message) {
  const node = { id: newId(), parent, created: Date.now(), ...message };
  conversation.nodes[node.id] = node;
  conversation.chosen[parent] = node.id;
  conversation.updated = node.created;
  return node;
}

export function children(conversation, parent) {
  return Object.values(conversation.nodes).filter((node) => node.parent === parent);
}

export function siblings(conversation, node) {
  return children(conversation, node.parent);
}

export function choose(conversation, node) {
  conversation.chosen[node.parent] = node.id;
}

// The messages from the first to the last of the chosen branch.
export function path(conversation) {
  const made = [];
  for (let at = ROOT; (at = conversation.chosen[at]); ) made.push(conversation.nodes[at]);
  return made;
}

// The messages up to this one, itself included.
export function pathTo(conversation, node) {
  const made = [];
  for (let at = node; at; at = conversation.nodes[at.parent]) made.unshift(at);
  return made;
}

export function textOf(node) {
  if (node.role === "user") return node.text;
  return node.parts.filter((part) => part.type === "text").map((part) => part.text).join("");
}

export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = children(conversation, ROOT)[0];
  const words = first?.text.trim().replace(/\s+/g, " ") ?? "";
  return words.length > 60 ? `${words.slice(0, 60)}…` : words || "New conversation";
}

// A piece of the stream, into the answer.
export function absorb(node, piece) {
  const last = node.parts.at(-1);
  if (piece.text && last?.type === "text") last.text += piece.text;
  else if (piece.text) node.parts.push({ type: "text", text: piece.text });
  if (piece.part) node.parts.push(piece.part);
  if (piece.reasoning) node.reasoning = (node.reasoning ?? "") + piece.reasoning;
  if (piece.usage) node.usage = { prompt: piece.usage.prompt_tokens, total: piece.usage.total_tokens };
  if (piece.finish) node.finish = piece.finish;
}

// The body of a request that continues after this message.
export function requestAfter(conversation, node) {
  const { temperature, top_p, max_tokens, seed } = conversation.settings;
  const messages = pathTo(conversation, node).map(sent);
  if (conversation.system) messages.unshift({ role: "system", content: conversation.system });
  const body = { model: conversation.model, messages, temperature };
  if (top_p < 1) body.top_p = top_p;
  if (max_tokens !== null) body.max_tokens = max_tokens;
  if (seed !== null) body.seed = seed;
  return body;
}

function sent(node) {
  if (node.role === "user") return { role: "user", content: node.text };
  const parts = node.parts.map(({ type, text }) => ({ type, text }));
  if (parts.at(-1)?.type === "python") parts.pop(); // stopped before its output
  return parts.some((part) => part.type !== "text") ? { role: "assistant", parts } : { role: "assistant", content: textOf(node) };
}
