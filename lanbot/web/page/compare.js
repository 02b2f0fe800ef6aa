// The same question to every model, side by side. `does.keep` goes on with one of the answers as a conversation.

import { ask } from "./api.js";
import { $, announce, el } from "./dom.js";
import { fill } from "./thread.js";
import { absorb } from "./tree.js";

export class Compare {
  constructor(does) {
    this.does = does;
    this.controller = null;
  }

  // base before sft before rl: the server names the latest first.
  draw(models) {
    this.models = [...models].reverse();
    $("columns").replaceChildren(...this.models.map((model) => {
      const bubble = el("div", { class: "bubble" }, el("p", { class: "nothing" }, "Waits for a question."));
      return el("section", { class: "column", "aria-label": model.id }, el("h2", {}, short(model.id)), bubble, el("div", { class: "tools" }));
    }));
  }

  get running() {
    return this.controller !== null;
  }

  stop() {
    this.controller?.abort();
  }

  async ask(text, { settings, system }) {
    this.stop();
    const controller = (this.controller = new AbortController());
    const columns = [...$("columns").children];
    const body = { messages: [{ role: "user", content: text }], temperature: settings.temperature };
    if (system) body.messages.unshift({ role: "system", content: system });
    if (settings.top_p < 1) body.top_p = settings.top_p;
    if (settings.max_tokens !== null) body.max_tokens = settings.max_tokens;
    if (settings.seed !== null) body.seed = settings.seed;
    await Promise.all(this.models.map((model, i) => this.fillColumn(columns[i], model, text, { ...body, model: model.id }, controller.signal)));
    if (this.controller === controller) this.controller = null;
    announce("All have answered");
  }

  async fillColumn(column, model, text, body, signal) {
    const node = { role: "assistant", model: model.id, parts: [] };
    const [bubble, tools] = [column.querySelector(".bubble"), column.querySelector(".tools")];
    tools.replaceChildren();
    fill(bubble, node, true);
    let due = null;
    try {
      for await (const piece of ask(body, signal)) {
        absorb(node, piece);
        due ??= setTimeout(() => { due = null; fill(bubble, node, true); }, 50);
      }
    } catch (error) {
      if (error.name !== "AbortError") node.error = error.message;
      node.finish = "stopped";
    }
    clearTimeout(due);
    fill(bubble, node, false);
    if (node.error) {
      bubble.hidden = false;
      bubble.append(el("p", { class: "trouble", role: "alert" }, node.error));
    }
    else tools.append(el("button", { type: "button", class: "quiet", onclick: () => this.does.keep(model.id, text, node) }, "Go on with this one"));
  }
}

const short = (id) => id.split("/").at(-1);
