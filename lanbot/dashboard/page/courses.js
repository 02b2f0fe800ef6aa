// The courses of the runs that are shown: asked for where they changed, and joined to the lines of charts.

import { get } from "./api.js";
import { Chart } from "./chart.js";
import { CLOCKS } from "./figures.js";

export const CHARTS = [
  { id: "loss", title: "Loss", unit: "nats per token" },
  { id: "bpb", dots: "val_bpb", title: "Bits per byte", unit: "bits" },
  { id: "reward", title: "Reward", unit: "mean of a step" },
  { id: "core", dots: "core", title: "CORE", unit: "centered accuracy" },
  { id: "utilisation", title: "Utilisation", unit: "of the fastest matrix product measured", share: true, floor: 0 },
  { id: "tokens_per_second", title: "Speed", unit: "tokens per second", floor: 0 },
  { id: "grad_norm", title: "Gradient norm", unit: "", more: true },
  { id: "lr_scale", title: "Learning rate", unit: "of the peak", more: true, floor: 0 },
  { id: "wait_seconds", title: "Waiting for data", unit: "seconds per step", more: true, floor: 0 },
  { id: "correct", title: "Right answers", unit: "without bonuses and penalties", more: true, share: true },
  { id: "entropy", title: "Entropy", unit: "nats per sampled token", more: true, floor: 0 },
  { id: "kl", title: "KL to the first model", unit: "nats", more: true },
  { id: "clipped", title: "Clipped", unit: "of the tokens", more: true, share: true, floor: 0 },
  { id: "dropped_groups", title: "Groups left out", unit: "all rewards equal", more: true, share: true, floor: 0 },
  { id: "mean_tokens", title: "Length of an answer", unit: "tokens", more: true, floor: 0 },
  { id: "calls", title: "Calls", unit: "per answer", more: true, floor: 0 },
  { id: "logprob_gap", title: "Log probability gap", unit: "sampler against trainer, nats", more: true, floor: 0 },
];
const DASHES = ["", "dashed", "dotted"];
const POINTS = 600;
const SHARE = 20; // a course that grows is asked for at most for one part in so many of the time
const MARKED = new Set(["loss", "grad_norm", "reward"]);

export const colourOf = (run) => `p${((run.colour + 1) % 6) + 1}`;
export const dashOf = (run) => DASHES[Math.floor(run.colour / 6) % 3];

export class Courses {
  // state: { clock, phase ("" for all, one after the other), log, smooth, range (null for the whole), shown (a Set) }.
  constructor(state, on) {
    this.state = state;
    this.on = on;
    this.charts = new Map();
    this.courses = new Map(); // run, phase, clock, range -> { version, course }
    this.ends = new Map(); // run, phase, clock -> the last place
    this.runs = [];
  }

  get shown() { return this.runs.filter((run) => this.state.shown.has(run.name)); }

  phasesOf(run) {
    return Object.keys(run.versions).filter((phase) => !this.state.phase || phase === this.state.phase);
  }

  endOf(run, phase) { return this.ends.get(`${run.name}\n${phase}\n${this.state.clock}`) ?? 0; }

  // Where a phase of a run begins.
  startOf(run, phase) {
    if (this.state.phase) return 0;
    let start = 0;
    for (const one of Object.keys(run.versions)) {
      if (one === phase) break;
      start += this.endOf(run, one);
    }
    return start;
  }

  get end() {
    const ends = this.shown.map((run) => this.phasesOf(run).reduce((sum, phase) => sum + this.endOf(run, phase), 0));
    return Math.max(0, ...ends);
  }

  key(run, phase, range = this.state.range) { return [run.name, phase, this.state.clock, range ?? ""].join("\n"); }

  // What is known of a phase's course: where it is not yet asked for as closely, its whole.
  course(run, phase) { return (this.courses.get(this.key(run, phase)) ?? this.courses.get(this.key(run, phase, null)))?.course; }

  // Whether there is a course that is to be drawn and was not yet given.
  get waiting() {
    return this.shown.some((run) => this.phasesOf(run).some((phase) => !this.course(run, phase)));
  }

  // Asks for what is new. Resolves to whether anything was.
  async update(runs, drawn = () => {}) {
    this.runs = runs;
    const wanted = this.shown.flatMap((run) => this.phasesOf(run).map((phase) => [run, phase]));
    const keys = new Set(wanted.map(([run, phase]) => this.key(run, phase)));
    const { clock, range } = this.state;
    let changed = false;
    await Promise.all(wanted.map(async ([run, phase]) => {
      const key = this.key(run, phase);
      const version = run.versions[phase];
      const known = this.courses.get(key);
      if (known?.version === version && !known.course.sampled) return;
      const began = performance.now();
      if (known && !known.course.sampled && began < known.due) return; // a long course is work for the server
      const start = this.startOf(run, phase);
      const query = { run: run.name, phase, clock, points: POINTS };
      if (range) {
        if (range[1] < start || range[0] > start + this.endOf(run, phase)) return;
        Object.assign(query, { from: range[0] - start, to: range[1] - start });
      }
      try {
        const course = await get("api/curves", query);
        const now = performance.now();
        this.courses.set(key, { version, course, due: now + SHARE * (now - began) });
        this.ends.set(`${run.name}\n${phase}\n${clock}`, course.end);
        changed = true;
        if (clock === this.state.clock) drawn();
      } catch (error) {
        if (error.status !== 404) throw error; // deleted meanwhile: the table will say so
      }
    }));
    for (const run of this.shown) for (const phase of this.phasesOf(run)) keys.add(this.key(run, phase, null));
    for (const key of this.courses.keys()) if (!keys.has(key)) this.courses.delete(key);
    return changed;
  }

  // What is drawn of a curve, a line for each run that has it.
  lines({ id, dots }) {
    const found = [];
    for (const run of this.shown) {
      const line = { name: run.name, css: colourOf(run), dash: dashOf(run), pieces: [], skipped: [], spikes: [], sampled: false };
      const measured = { x: [], mean: [] };
      for (const phase of this.phasesOf(run)) {
        const course = this.course(run, phase);
        if (!course) continue;
        const start = this.startOf(run, phase);
        const moved = (xs) => xs.map((x) => x + start);
        const curve = course.curves[id];
        const meaningless = id === "loss" && course.curves.reward; // of a policy gradient
        if (curve && !meaningless) {
          line.pieces.push({ ...curve, x: moved(curve.x) });
          line.sampled ||= course.sampled;
          if (MARKED.has(id)) line.skipped.push(...moved(course.skipped));
          if (id === "loss") line.spikes.push(...moved(course.spikes));
        }
        if (dots && course.dots[dots]) {
          measured.x.push(...moved(course.dots[dots].x));
          measured.mean.push(...course.dots[dots].mean);
        }
      }
      if (measured.x.length) line.dots = measured;
      if (line.pieces.length || line.dots) found.push(line);
    }
    return found;
  }

  // Draws everything. Returns how many charts there are.
  draw(place, more) {
    const { clock, range, log, smooth } = this.state;
    const one = this.shown.length === 1 && !this.state.phase ? this.shown[0] : null;
    const spans = one ? this.phasesOf(one).map((phase) => ({ name: phase, start: this.startOf(one, phase) })) : [];
    const [from, to] = range ?? [0, this.end || 1];
    const { waiting } = this;
    let drawn = 0;
    for (const kind of CHARTS) {
      const lines = this.lines(kind);
      let chart = this.charts.get(kind.id);
      if (!chart && lines.length) {
        chart = new Chart(kind, this.on);
        this.charts.set(kind.id, chart);
        const into = kind.more ? more : place;
        const order = CHARTS.map((one) => this.charts.get(one.id)?.root);
        const after = order.slice(order.indexOf(chart.root) + 1).find((root) => root?.parentNode === into);
        into.insertBefore(chart.root, after ?? null);
      }
      if (!chart) continue;
      if (!lines.length && waiting && !chart.root.hidden) { // as it was, so that nothing jumps
        drawn += 1;
        continue;
      }
      chart.root.hidden = !lines.length;
      drawn += lines.length > 0;
      if (lines.length) chart.draw({ lines, clock: CLOCKS[clock], from, to, log, smooth, spans });
    }
    return drawn;
  }

  // What is not yet the whole file, in words.
  get reading() {
    const found = [];
    for (const run of this.shown) {
      for (const phase of this.phasesOf(run)) {
        const course = this.course(run, phase);
        if (course?.sampled) found.push(`${run.name}, ${phase}: a sample of ${course.lines.toLocaleString("en")} lines while the file is read, ${Math.floor(100 * course.read)}% so far`);
        else if (course?.bad) found.push(`${run.name}, ${phase}: ${course.bad.toLocaleString("en")} lines could not be read and are left out`);
      }
    }
    return found;
  }

  get sampled() {
    return [...this.courses.values()].some(({ course }) => course.sampled);
  }
}
