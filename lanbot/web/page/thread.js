// The messages of a conversation, drawn. `does` has what their buttons do.

import { questionCard } from "./agent.js";
import { copyButton, el, icon, iconButton } from "./dom.js";
import { highlight, markdown } from "./markdown.js";
import { path, siblings, textOf } from "./tree.js";

const FINISHES = { length: "Cut off: the longest answer, or the end of the context.", stopped: "Stopped." };

export class Thread {
  constructor(list, scroller, does) {
    this.list = list;
    this.scroller = scroller;
    this.does = does;
    this.items = new Map();
    this.due = null;
    this.cost = 0; // milliseconds that drawing the last answer took
  }

  draw(conversation, running) {
    this.conversation = conversation;
    this.items.clear();
    const nodes = path(conversation);
    this.list.replaceChildren(...nodes.map((node) => this.item(node, node === running)));
  }

  item(node, running) {
    const mine = node.role === "user";
    const bubble = el("div", { class: "bubble" });
    const tools = el("div", { class: "tools" });
    const who = el("span", { class: "who" }, mine ? "You" : node.model || "Answer");
    const item = el("li", { class: mine ? "user" : "bot", "data-id": node.id }, who, bubble, tools);
    this.items.set(node.id, item);
    if (mine) bubble.append(el("p", {}, node.text));
    else fill(bubble, node, running, this.does.reply);
    if (running) item.setAttribute("aria-busy", "true");
    else tools.append(...this.tools(node, mine));
    if (node.error) item.insertBefore(this.trouble(node), tools);
    else if (FINISHES[node.finish]) item.insertBefore(el("p", { class: "note" }, FINISHES[node.finish]), tools);
    return item;
  }

  tools(node, mine) {
    const made = [copyButton("Copy", () => textOf(node))];
    if (this.conversation.agent) return made; // its files and memory do not go back
    if (mine) made.push(iconButton("edit", "Edit", () => this.edit(node)));
    else made.push(iconButton("again", "Answer again", () => this.does.again(node)));
    const all = siblings(this.conversation, node);
    if (all.length > 1) made.push(this.branches(node, all));
    return made;
  }

  branches(node, all) {
    const at = all.indexOf(node);
    const to = (step, name, label) => {
      const target = all[at + step];
      return iconButton(name, label, () => this.does.choose(target, label), { disabled: !target });
    };
    const shown = el("span", {}, `${at + 1}/${all.length}`);
    return el("span", { class: "branches", role: "group", "aria-label": `Version ${at + 1} of ${all.length}` },
      to(-1, "left", "Version before"), shown, to(1, "right", "Version after"));
  }

  trouble(node) {
    if (this.conversation.agent) return el("div", { class: "trouble", role: "alert" }, el("p", {}, node.error));
    const again = el("button", { type: "button", class: "quiet", onclick: () => this.does.again(node) }, "Try again");
    return el("div", { class: "trouble", role: "alert" }, el("p", {}, node.error), again);
  }

  // A message turns into a field; Enter asks again from there, Escape leaves it as it was.
  edit(node) {
    const item = this.items.get(node.id);
    const field = el("textarea", { value: node.text, rows: Math.min(12, node.text.split("\n").length + 1), "aria-label": "Edit the message" });
    const leave = () => {
      item.replaceWith(this.item(node, false));
      this.items.get(node.id).querySelector("[aria-label=Edit]").focus();
    };
    const save = () => (field.value.trim() ? this.does.edit(node, field.value.trim()) : leave());
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { event.stopPropagation(); leave(); }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); save(); }
    });
    const buttons = el("div", { class: "buttons" },
      el("button", { type: "button", class: "quiet", onclick: leave }, "Cancel"),
      el("button", { type: "button", class: "wide-button", onclick: save }, "Ask this instead"));
    item.replaceChildren(el("div", { class: "editing" }, field, buttons));
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  // The answer that is written has more; drawn at most once a frame, and less often where that takes long.
  update(latest) {
    this.latest = latest;
    if (this.due !== null) return;
    this.due = setTimeout(() => {
      this.due = null;
      const node = this.latest;
      const bubble = this.items.get(node.id)?.querySelector(".bubble");
      if (!bubble || !this.items.get(node.id).hasAttribute("aria-busy")) return;
      const began = performance.now();
      const near = this.nearEnd();
      fill(bubble, node, true, this.does.reply);
      if (near) this.toEnd();
      const question = bubble.querySelector(".question");
      if (question && node.question.id !== this.asked) this.does.asked(question);
      this.asked = node.question?.id;
      this.cost = performance.now() - began;
    }, Math.max(16, 4 * this.cost));
  }

  nearEnd() {
    return this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight < 80;
  }

  toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }
}

// An answer: its thought, its text, and a card for each call with what it gave back. reply: answers its question.
export function fill(bubble, node, running, reply) {
  const open = bubble.querySelector("details.thought")?.open;
  const made = [];
  if (node.reasoning) {
    made.push(el("details", { class: "thought", open }, el("summary", {}, "Thought"), markdown(node.reasoning)));
  }
  let card = null;
  for (const part of node.parts) {
    if (part.type === "text") {
      made.push(markdown(part.text));
      card = null;
    } else if (part.type === "note") {
      made.push(el("p", { class: "note" }, part.text));
    } else if (part.type === "output" && card) {
      card.append(line("gets back", "out", part.text));
      card = null;
    } else {
      card = el("div", { class: "card" }, line(part.type === "output" ? "gets back" : "calls", part.type === "output" ? "out" : "call", part.text));
      made.push(card);
    }
  }
  if (running && node.question) made.push(questionCard(node.question, (answer) => reply(node, answer)));
  if (!made.length) {
    if (running) made.push(el("p", { class: "waiting", "aria-label": "The model reads" }, el("i"), el("i"), el("i")));
    else if (!node.error) made.push(el("p", { class: "nothing" }, "(nothing)"));
  }
  bubble.replaceChildren(...made);
  bubble.hidden = !made.length;
}

function line(label, kind, text) {
  const code = el("code", {}, text);
  if (kind === "call") highlight(code, "python");
  return el("div", { class: "act" }, el("span", { class: "aside" }, label), el("pre", { class: kind, tabIndex: 0 }, code));
}
