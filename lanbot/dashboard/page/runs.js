// The table of runs.

import { colourOf, dashOf } from "./courses.js";
import { el } from "./dom.js";
import { bytes, dollars, duration, figure, known, percent } from "./figures.js";

const SIGNS = { running: "●", finished: "✓", stopped: "■", failed: "✗", damaged: "✗", waiting: "○" };

export class Table {
  // changed(name, ticked): a run is to be shown or not.
  constructor(body, changed) {
    this.body = body;
    this.changed = changed;
    this.rows = new Map();
  }

  update(runs, shown) {
    const names = new Set(runs.map((run) => run.name));
    for (const [name, row] of this.rows) {
      if (!names.has(name)) {
        row.root.remove();
        this.rows.delete(name);
      }
    }
    runs.forEach((run, i) => {
      let row = this.rows.get(run.name);
      if (!row) this.rows.set(run.name, row = this.make(run));
      if (this.body.children[i] !== row.root) this.body.insertBefore(row.root, this.body.children[i] ?? null);
      row.box.checked = shown.has(run.name);
      row.problem.textContent = run.problem ?? "";
      row.problem.hidden = !run.problem;
      row.swatch.setAttribute("class", `swatch ${colourOf(run)} ${dashOf(run)}`);
      cells(run).forEach(({ text, small = "", css = "" }, j) => {
        const said = `${text}\n${small}\n${css}`; // touched only if it changed: a selection stays
        if (row.said[j] === said) return;
        row.said[j] = said;
        row.cells[j].className = css;
        row.cells[j].replaceChildren(text, ...(small ? [el("small", {}, small)] : []));
      });
    });
  }

  make(run) {
    const box = el("input", { type: "checkbox", onchange: () => this.changed(run.name, box.checked) });
    const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    swatch.setAttribute("aria-hidden", "true");
    const line = document.createElementNS(swatch.namespaceURI, "line");
    for (const [name, value] of Object.entries({ x1: 0, x2: 20, y1: 1.5, y2: 1.5 })) line.setAttribute(name, value);
    swatch.append(line);
    const problem = el("span", { class: "problem" });
    const name = el("span", { class: "name", title: run.name }, run.name);
    const head = el("th", { scope: "row" }, el("label", {}, box, swatch, name), problem);
    const made = cells(run).map(() => el("td"));
    return { root: el("tr", {}, head, ...made), box, swatch, problem, cells: made, said: [] };
  }
}

function cells(run) {
  const whole = (n) => (known(n) ? n.toLocaleString("en") : "");
  const spent = run.money ? `${run.money.of === "plan" ? "≈" : ""}${dollars(run.money.spent)}` : "";
  const over = run.money && run.money.spent >= 0.9 * run.money.cap;
  return [
    { text: `${SIGNS[run.status] ?? ""} ${run.status}`, css: `status ${run.status}` },
    { text: run.phase ?? "", small: run.evaluating ? "evaluating" : "" },
    { text: whole(run.step), small: known(run.steps) && run.steps !== run.step ? `of ${whole(run.steps)}` : "" },
    { text: known(run.reward) ? "" : figure(run.loss) },
    { text: figure(run.val_bpb) },
    { text: figure(run.reward) },
    { text: known(run.tokens_per_second) ? whole(Math.round(run.tokens_per_second)) : "" },
    { text: percent(run.utilisation) },
    { text: bytes(run.memory ?? run.peak), small: known(run.memory) ? "now" : known(run.peak) ? "peak" : "" },
    { text: known(run.left) ? duration(run.left) : "" },
    { text: spent, small: run.money ? `of ${dollars(run.money.cap)}` : "", css: over ? "over" : "" },
  ];
}
