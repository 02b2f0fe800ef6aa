// The server's API, as far as the page needs it.

import { frames } from "./sse.js";

export class ApiError extends Error {
  constructor(message, status = 0, code = "") {
    super(message.charAt(0).toUpperCase() + message.slice(1));
    this.status = status;
    this.code = code;
  }
}

// Asks the person for a key; set by the page. Returns null if there is none.
export const asking = { key: async () => null };
let asked = null; // one question at a time, whoever waits for it

async function call(path, options = {}) {
  const given = sessionStorage.getItem("key");
  const headers = { ...options.headers, ...(given ? { Authorization: `Bearer ${given}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is it still running?");
  }
  if (response.status === 401) {
    asked ??= asking.key(given !== null).finally(() => { asked = null; });
    const key = await asked;
    if (key) {
      sessionStorage.setItem("key", key);
      return call(path, options);
    }
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const said = await response.json().then((body) => body.error ?? {}, () => ({}));
  const again = response.headers.get("Retry-After");
  const when = again && response.status === 429 ? ` Try again in ${again} s.` : "";
  return new ApiError(`${said.message ?? `The server answered ${response.status}.`}${when}`, response.status, said.code);
}

// The models by name, first the one that the server is for; a further name of a model that has its own is left out.
export async function listModels() {
  const { data } = await (await call("v1/models")).json();
  const named = new Set(data.map((model) => model.id));
  return data.filter((model) => model.root === model.id || !named.has(model.root));
}

const post = (path, body, signal) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

// Yields {text}, {reasoning}, {part}, {usage} and {finish} as they come. Raises ApiError.
export async function* ask(body, signal) {
  const response = await post("v1/chat/completions", { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  for await (const data of frames(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message, 0, chunk.error.code);
    if (chunk.usage) yield { usage: chunk.usage };
    const { delta = {}, finish_reason: finish } = chunk.choices[0] ?? {};
    if (delta.content) yield { text: delta.content };
    if (delta.reasoning) yield { reasoning: delta.reasoning };
    for (const part of delta.parts ?? []) yield { part };
    if (finish) yield { finish };
  }
  throw new ApiError("The connection broke off before the answer's end.");
}

// -- the run's agent

export async function hasAgent() {
  return (await (await call("agent")).json()).agent;
}

// Yields the events of a turn. One that was just stopped may take a moment to end.
export async function* turn(request, session, signal) {
  let response;
  for (let tries = 0; !response; tries++) {
    try {
      response = await post("agent/turns", { request, session }, signal);
    } catch (error) {
      if (error.status !== 409 || tries === 5) throw error;
      await new Promise((resolve) => setTimeout(resolve, 400));
      signal.throwIfAborted();
    }
  }
  for await (const data of frames(response.body)) {
    const row = JSON.parse(data);
    yield row;
    if (row.event === "done") return;
  }
  throw new ApiError("The connection broke off before the answer's end.");
}

export const answerQuestion = (question, answer) => post("agent/answers", { question, answer });

// What it remembers, after a change if there is one.
export async function memory(body) {
  return (await (body ? post("agent/memory", body) : call("agent/memory"))).json();
}
