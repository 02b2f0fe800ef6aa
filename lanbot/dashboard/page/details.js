// Scores, answers and rollouts: what the evaluations of a run say. Text always goes in as text.

import { get } from "./api.js";
import { el } from "./dom.js";
import { figure, known } from "./figures.js";

function table(label, header, rows) {
  const head = el("thead", {}, el("tr", {}, ...header.map((name) => el("th", { scope: "col" }, name))));
  return el("div", { class: "scroll", role: "region", "aria-label": label, tabIndex: 0 }, el("table", {}, head, el("tbody", {}, ...rows)));
}

// A name with places where a narrow column may break it.
const breakable = (name) => name.split("_").flatMap((word, i) => (i ? ["_", el("wbr"), word] : [word]));

const row = (name, cells, css = "") =>
  el("tr", { class: css }, el("th", { scope: "row" }, ...breakable(name)), ...cells.map((cell) => el("td", {}, cell ?? "")));

// 0.878 ± 0.015
function score(one, digits = 3) {
  const value = one?.score ?? one?.bits_per_byte ?? one?.core;
  if (!known(value)) return null;
  const error = known(one.stderr) ? ` ± ${one.stderr.toFixed(digits)}` : "";
  return el("span", { class: "value" }, value.toFixed(digits), error && el("small", {}, error));
}

// Of a sample of its items it says so.
function core(one) {
  const shown = score(one, 4);
  if (shown && one.limit) shown.append(el("small", {}, ` at most ${one.limit.toLocaleString("en")} items a task`));
  return shown;
}

const asked = (one) => (one ? `${one.n.toLocaleString("en")}${one.items > one.n ? ` of ${one.items.toLocaleString("en")}` : ""}` : "");

// The scores of a run's phases; one that measured nothing is left out.
export function scoresTable(found) {
  const phases = Object.keys(found.phases);
  const rows = [];
  for (const [task, by] of Object.entries(found.evals)) {
    const last = Object.values(by).at(-1);
    rows.push(row(task, [...phases.map((phase) => score(by[phase])), asked(last), last.chance?.toFixed(2)]));
    for (const [name, part] of Object.entries(last.parts ?? {})) {
      rows.push(row(name, [...phases.map((phase) => (by[phase] === last ? score(part) : null)), part.n.toLocaleString("en"), part.chance?.toFixed(2)], "part"));
    }
  }
  const more = { "held-out bits per byte": (of) => score(of.bpb) ?? figure(of.val_bpb), CORE: (of) => core(of.core) };
  for (const [name, read] of Object.entries(more)) {
    const cells = phases.map((phase) => read(found.phases[phase]));
    if (cells.some(Boolean)) rows.push(row(name, [...cells, "", ""], "total"));
  }
  for (const [phase, moments] of Object.entries(found.pass)) {
    for (const k of Object.keys(moments.after ?? moments.before ?? {})) {
      const cells = phases.map((one) => (one === phase ? score(moments.after?.[k] ?? moments.before?.[k]) : null));
      const before = moments.after && moments.before?.[k] ? ` (${moments.before[k].score.toFixed(3)} before)` : "";
      rows.push(row(`${k} of ${phase}${before}`, [...cells, asked(moments.after?.[k] ?? moments.before?.[k]), ""], "total"));
    }
  }
  return rows.length ? table("Scores by phase", ["task", ...phases, "n", "chance"], rows) : null;
}

// The last evaluated phase of several runs, side by side.
export function comparedTable(runs) {
  const tasks = [...new Set(runs.flatMap(({ found }) => Object.keys(found.evals)))];
  const last = runs.map(({ found }) => Object.keys(found.phases).at(-1));
  const rows = tasks.map((task) => row(task, runs.flatMap(({ found }, i) => {
    const one = found.evals[task]?.[last[i]];
    return [score(one), asked(one)];
  })));
  const bpb = runs.flatMap(({ found }, i) => [score(found.phases[last[i]]?.bpb) ?? figure(found.phases[last[i]]?.val_bpb), ""]);
  if (bpb.some(Boolean)) rows.push(row("held-out bits per byte", bpb, "total"));
  return table("Scores of the runs", ["task", ...runs.flatMap(({ run }, i) => [`${run.name}, ${last[i]}`, "n"])], rows);
}

function inline(blocks) {
  const names = { python: ["code", "call", "calls "], call: ["code", "call", "calls "], output: ["samp", "out", "gets back "] };
  const parts = blocks.flatMap(([kind, text], i) => {
    const [tag, css, aside] = names[kind] ?? [];
    const space = i && kind !== "output" ? [" "] : [];
    return [...space, tag ? el(tag, { class: css }, el("span", { class: "aside" }, aside), text) : text];
  });
  return parts.length ? parts : [el("span", { class: "nothing" }, "(nothing)")];
}

export function samples(found) {
  const phases = Object.keys(found.phases);
  return found.samples.map(({ prompt, answers }) =>
    el("article", { class: "changed" }, el("h4", { dir: "auto" }, ...inline(prompt)), el("dl", {},
      ...Object.entries(answers).map(([phase, blocks]) =>
        el("div", {}, el("dt", { class: `p${(phases.indexOf(phase) % 6) + 1}` }, phase), el("dd", { dir: "auto" }, ...inline(blocks)))))));
}

// RL's rollouts, a step at a time.
export function rollouts(run, phase) {
  const list = el("ol", { class: "rollouts" });
  const said = el("output");
  const range = el("input", { type: "range", min: 0, max: 0, step: 1, "aria-label": `Step of ${phase}` });
  let steps = [];
  let last = 0;
  const show = async (step) => {
    const turn = ++last;
    const found = await get("api/rollouts", { run, phase, step }).catch(() => null);
    if (turn !== last || !found) return;
    steps = found.steps;
    range.max = Math.max(0, steps.length - 1);
    range.value = steps.indexOf(found.step);
    said.textContent = found.step === null ? "none yet" : `step ${found.step.toLocaleString("en")} of ${steps.at(-1).toLocaleString("en")}`;
    range.setAttribute("aria-valuetext", said.textContent);
    list.replaceChildren(...found.rows.map((one) => el("li", {},
      el("p", { class: "question", dir: "auto" }, one.question || "(no question)"),
      el("p", { dir: "auto" }, one.answer || "(nothing)"),
      el("small", {}, [`reward ${figure(one.reward)}`, `advantage ${figure(one.advantage)}`, `${one.tokens} tokens`, `${one.calls} calls`, one.finished].join(" · ")))));
  };
  range.addEventListener("input", () => show(steps[range.value] ?? null));
  show(null).then(() => steps.length && show(steps.at(-1)));
  return el("div", {}, el("h3", {}, `Rollouts of ${phase}`), el("p", { class: "walk" }, range, said), list);
}

export function details(run, found) {
  const phases = Object.entries(found.phases).filter(([, of]) => of.description).map(([phase, of]) => `${phase} ${of.description}`);
  const scored = scoresTable(found);
  const answered = samples(found);
  return [
    ...(scored ? [el("h3", {}, "Scores by phase"), scored] : []),
    ...(answered.length ? [el("h3", {}, "The same prompts after each phase"), el("p", { class: "note" }, `${phases.join("; ")}.`), ...answered] : []),
    ...found.rollouts.map((phase) => rollouts(run.name, phase)),
    ...(scored || answered.length || found.rollouts.length ? [] : [el("p", { class: "note" }, "Nothing was evaluated yet.")]),
  ];
}
