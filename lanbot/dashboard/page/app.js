// The page: what is chosen, and the clock that asks for what is new.

import { get } from "./api.js";
import { Courses } from "./courses.js";
import { comparedTable, details } from "./details.js";
import { $, announce, el } from "./dom.js";
import { CLOCKS } from "./figures.js";
import { Table } from "./runs.js";

const EVERY = 2000, READING = 300, HIDDEN = 15000; // ms between two looks
const FIRST = 5; // runs that are shown unless others are chosen

const state = { clock: "seconds", phase: "", log: false, smooth: 0, range: null, shown: new Set(), which: "" };
let runs = [];
let timer = 0;
let looking = false;
let again = false;
let began = false;
const met = new Set(); // names of runs that were there at some time

const courses = new Courses(state, {
  cursor: (x) => courses.charts.forEach((chart) => chart.show(x)),
  zoom: (from, to) => {
    if (to <= from) return;
    state.range = from <= 0 && to >= courses.end ? null : [from, Math.min(to, courses.end)];
    changed();
  },
  whole: () => {
    if (!state.range) return;
    state.range = null;
    announce("Zoomed out");
    changed();
  },
});
const table = new Table($("rows"), (name, ticked) => {
  if (ticked) state.shown.add(name);
  else state.shown.delete(name);
  changed();
});

// -- what is chosen, kept in the address

function remember() {
  const { clock, phase, log, smooth, shown, which } = state;
  const kept = new URLSearchParams({ clock, phase, log: log ? "1" : "", smooth: smooth ? String(smooth) : "", which });
  for (const name of shown) kept.append("run", name);
  history.replaceState(null, "", `#${kept}`);
}

function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  if (kept.get("clock") in CLOCKS) state.clock = kept.get("clock");
  state.phase = kept.get("phase") ?? "";
  state.log = kept.get("log") === "1";
  state.smooth = Math.min(0.1, Math.max(0, Number(kept.get("smooth")) || 0));
  state.which = kept.get("which") ?? "";
  if (kept.has("run")) state.shown = new Set(kept.getAll("run"));
}

function firstShown() {
  const time = (run) => Math.max(0, ...Object.values(run.versions).map((version) => Number(version.split(".")[2])));
  const order = [...runs].sort((a, b) => (b.status === "running") - (a.status === "running") || time(b) - time(a));
  return new Set(order.slice(0, FIRST).map((run) => run.name));
}

function radios(place, name, choices, chosen, choose) {
  const said = JSON.stringify([choices, chosen]);
  if (place.dataset.said === said) return;
  place.dataset.said = said;
  const focused = place.contains(document.activeElement);
  place.querySelectorAll("label").forEach((label) => label.remove());
  for (const [value, text] of choices) {
    const input = el("input", { type: "radio", name, value, checked: value === chosen, onchange: () => choose(value) });
    place.append(el("label", {}, input, text));
    if (focused && value === chosen) input.focus();
  }
}

function controls() {
  radios($("clocks"), "clock", Object.entries(CLOCKS).map(([value, { name }]) => [value, name]), state.clock, (value) => {
    state.clock = value;
    state.range = null;
    changed();
  });
  const phases = [...new Set(runs.filter((run) => state.shown.has(run.name)).flatMap((run) => Object.keys(run.versions)))];
  if (!phases.includes(state.phase)) state.phase = "";
  const choices = phases.length > 1 ? [["", "all"], ...phases.map((phase) => [phase, phase])] : [["", phases[0] ?? "all"]];
  radios($("phases"), "phase", choices, state.phase, (value) => {
    state.phase = value;
    state.range = null;
    changed();
  });
  $("log").checked = state.log;
  $("smooth").value = 200 * state.smooth;
  $("smooth-shown").value = state.smooth ? `${(100 * state.smooth).toFixed(1)}%` : "none";
  $("whole").hidden = !state.range;
}

$("log").addEventListener("change", () => { state.log = $("log").checked; redraw(); });
$("smooth").addEventListener("input", () => { state.smooth = $("smooth").value / 200; redraw(); });
$("whole").addEventListener("click", () => { state.range = null; changed(); });
$("controls").addEventListener("submit", (event) => event.preventDefault());
$("which").addEventListener("change", () => { state.which = $("which").value; remember(); showDetails(); });
$("more").addEventListener("toggle", redraw);

// -- what is drawn

function redraw() {
  controls();
  remember();
  const drawn = courses.draw($("charts"), $("more-charts"));
  $("no-curves").hidden = drawn > 0;
  $("more").hidden = !$("more-charts").querySelector("figure:not([hidden])");
  const reading = courses.reading;
  $("reading").hidden = !reading.length;
  if ($("reading").textContent !== reading.join("; ")) $("reading").textContent = reading.join("; ");
  told("data-ready", "first curve", drawn > 0);
  told("data-complete", "whole curve", drawn > 0 && !courses.sampled);
}

// For tests and measurements: on the page's element, and in the browser's clock.
function told(attribute, mark, is) {
  const page = document.documentElement;
  if (is && !page.hasAttribute(attribute)) requestAnimationFrame(() => performance.mark(mark));
  page.toggleAttribute(attribute, is);
}

function lead(folder) {
  if (!runs.length) return folder ? `No runs in ${folder}/ yet: lanbot run RECIPE makes one.` : "The runs are no longer there.";
  const counts = new Map();
  for (const { status } of runs) counts.set(status, (counts.get(status) ?? 0) + 1);
  return [...counts].map(([status, count]) => `${count} ${status}`).join(", ");
}

// Evaluations change rarely: they are asked for when a phase has begun or ended.
const seen = {};

async function showScores() {
  const chosen = runs.filter((run) => state.shown.has(run.name) && Object.values(run.phases).includes("done"));
  const said = JSON.stringify(chosen.map((run) => [run.name, run.phases]));
  if (seen.scores === said) return;
  seen.scores = said;
  const found = await Promise.all(chosen.map(async (run) => ({ run, found: await get("api/run", { run: run.name }).catch(() => null) })));
  const scored = found.filter((one) => one.found && Object.keys(one.found.evals).length);
  $("scores").hidden = scored.length < 2;
  if (scored.length > 1) $("compared").replaceChildren(comparedTable(scored));
}

async function showDetails() {
  const names = runs.map((run) => run.name);
  if (!names.includes(state.which)) state.which = names.find((name) => state.shown.has(name)) ?? names[0] ?? "";
  if (seen.names !== JSON.stringify(names)) {
    seen.names = JSON.stringify(names);
    $("which").replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  }
  $("which").value = state.which;
  const run = runs.find((one) => one.name === state.which);
  $("one").hidden = !run;
  const said = JSON.stringify([run?.name, run?.phases, run?.problem]);
  if (!run || seen.details === said) return;
  seen.details = said;
  try {
    const found = await get("api/run", { run: run.name });
    if (seen.details === said) $("details").replaceChildren(...details(run, found));
  } catch (error) {
    $("details").replaceChildren(el("p", { class: "note" }, error.message));
  }
}

// -- looking

async function look() {
  if (looking) { again = true; return; }
  looking = true;
  clearTimeout(timer);
  try {
    const found = await get("api/runs");
    runs = found.runs;
    if (!began && runs.length) { // an old bookmark may name runs that are gone
      began = true;
      if (!runs.some((run) => state.shown.has(run.name))) state.shown = firstShown();
    } else if (began) {
      for (const { name, status } of runs) if (status === "running" && !met.has(name)) state.shown.add(name);
    }
    runs.forEach(({ name }) => met.add(name));
    $("lead").textContent = lead(found.folder);
    table.update(runs, state.shown);
    controls();
    let due = 0;
    await courses.update(runs, () => { due ||= requestAnimationFrame(() => { due = 0; redraw(); }); });
    redraw();
    await Promise.all([showScores(), showDetails()]);
    $("trouble").hidden = true;
  } catch (error) {
    $("trouble").textContent = error.message;
    $("trouble").hidden = false;
    if (!("status" in error)) console.error(error);
  }
  looking = false;
  const wait = again ? 0 : courses.sampled ? READING : document.hidden ? HIDDEN : EVERY;
  again = false;
  timer = setTimeout(look, wait);
}

// Something else is chosen: drawn at once as far as it is known, and asked for.
function changed() {
  redraw();
  look();
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
recall();
look();
