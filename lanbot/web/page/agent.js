// The run's agent: its events become the parts of an answer, its questions wait for the person, its memory is edited.

import * as api from "./api.js";
import { $, announce, el, iconButton } from "./dom.js";

const INTERRUPTED = "interruption";

// An event of a turn, into the answer. Returns the conversation's number where the event names it.
export function absorbEvent(node, row) {
  if (row.event === "streamed") streamed(node, row);
  else if (row.event === "calling") {
    const call = node.parts.find((part) => part.type === "python" && !part.begun);
    if (call) Object.assign(call, { text: row.code, begun: row.number });
    else node.parts.push({ type: "python", text: row.code, begun: row.number });
  } else if (row.event === "called") {
    const at = node.parts.findIndex((part) => part.begun === row.number);
    node.parts.splice(at < 0 ? node.parts.length : at + 1, 0, { type: "output", text: row.output });
    delete node.question;
  } else if (row.event === "replied") {
    node.usage = { prompt: row.prompt_tokens, total: row.prompt_tokens + row.tokens };
  } else if (row.event === "compacted") node.parts.push({ type: "note", text: `The context was full: ${row.how}.` });
  else if (row.event === "question") node.question = { id: row.id, tool: row.tool, text: row.text, always: row.always };
  else if (row.event === "done") {
    delete node.question;
    node.finish = row.reason === INTERRUPTED ? "stopped" : "stop";
    if (row.problem && row.reason !== INTERRUPTED) node.error = row.problem;
  }
  return row.session;
}

function streamed(node, { kind, part, text, invented }) {
  const last = node.parts.at(-1);
  if (kind === "open" && !invented && part !== "text") node.parts.push({ type: part === "output" ? "output" : "python", text: "", open: true });
  else if (kind === "close" && last?.open) delete last.open;
  else if (kind === "piece" && (last?.open || last?.type === "text")) last.text += text;
  else if (kind === "piece" && text) node.parts.push({ type: "text", text });
}

// The question about a call; reply(answer) is told what the person says.
export function questionCard(question, reply) {
  const choice = (answer, label) => el("button", { type: "button", class: answer === "no" ? "wide-button" : "quiet", onclick: () => reply(answer) }, label);
  return el("div", { class: "question", role: "group", tabIndex: -1, "aria-label": `May it call ${question.tool}?` },
    el("p", {}, el("b", {}, `May it call ${question.tool}?`)),
    el("pre", { class: "out", tabIndex: 0 }, question.text),
    el("p", { class: "note" }, "Always, until the server stops: ", el("code", {}, question.always)),
    el("div", { class: "buttons" }, choice("once", "Once"), choice("always", "Always"), choice("no", "No")));
}

// -- memory

export async function openMemory() {
  try {
    draw((await api.memory()).entries);
  } catch (error) {
    trouble(error);
  }
  $("memory-dialog").showModal();
}

function draw(entries) {
  $("memories").replaceChildren(...entries.map((entry) => {
    const field = el("input", { value: entry.text, "aria-label": `Memory ${entry.number}` });
    field.addEventListener("change", () => change({ number: entry.number, text: field.value }));
    return el("li", {}, field, iconButton("trash", `Forget ${entry.number}`, () => change({ number: entry.number })));
  }));
  if (!entries.length) $("memories").append(el("li", { class: "note" }, "It remembers nothing yet."));
  $("memory-trouble").hidden = true;
}

async function change(body) {
  try {
    draw((await api.memory(body)).entries);
    announce("Changed");
    return true;
  } catch (error) {
    trouble(error);
    return false;
  }
}

function trouble(error) {
  $("memory-trouble").textContent = error.message;
  $("memory-trouble").hidden = false;
}

export function connectMemory() {
  $("memory").addEventListener("click", openMemory);
  const add = async () => {
    if ($("new-memory").value.trim() && (await change({ text: $("new-memory").value }))) $("new-memory").value = "";
    $("new-memory").focus();
  };
  $("add-memory").addEventListener("click", add);
  $("memory-dialog").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing || event.target.tagName !== "INPUT") return;
    event.preventDefault(); // it would close the dialog
    if (event.target === $("new-memory")) add();
    else event.target.blur();
  });
}
