// What the page asks the server for. An answer that has not changed is not sent again.

const held = new Map(); // path -> { etag, value }
const MOST = 400;

export class Refused extends Error {
  constructor(message, status) {
    super(message.charAt(0).toUpperCase() + message.slice(1));
    this.status = status; // 0: the server does not answer
  }
}

export async function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined);
  const url = given.length ? `${path}?${new URLSearchParams(given)}` : path;
  const known = held.get(url);
  let response;
  try {
    response = await fetch(url, { headers: known ? { "If-None-Match": known.etag } : {} });
  } catch {
    throw new Refused("The dashboard does not answer. Is it still running?", 0);
  }
  if (response.status === 304) return known.value;
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(body.error?.message ?? `The server answered ${response.status}.`, response.status);
  held.delete(url);
  held.set(url, { etag: response.headers.get("ETag"), value: body });
  if (held.size > MOST) held.delete(held.keys().next().value);
  return body;
}
