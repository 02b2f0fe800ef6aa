// A chart: lines with the band of their least and greatest values, dots, marks, a cursor. Drawn with the report's classes.

import { el } from "./dom.js";
import { count, figure, logTicks, percent, ticks } from "./figures.js";

const HEIGHT = { wide: 214, narrow: 184 };
const LEFT = 50, RIGHT = 10, BOTTOM = 26;
const NEAR = 0.03; // of the width, within which a value is one at the cursor
const DRAG = 6; // pixels, from which a press is a choice of a part

const made = (name, attributes, ...children) => {
  const one = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
  one.append(...children);
  return one;
};

// The index of the point that is nearest to x.
export function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - xs[low - 1] < xs[low] - x ? low - 1 : low;
}

// The mean of the steps around each point, half of `width` to each side.
export function smoothed({ x, mean, count: weights }, width) {
  if (!width) return mean;
  const found = new Array(x.length);
  let from = 0, to = 0, weight = 0, sum = 0;
  for (let i = 0; i < x.length; i++) {
    for (; to < x.length && x[to] <= x[i] + width / 2; to++) {
      weight += weights?.[to] ?? 1;
      sum += mean[to] * (weights?.[to] ?? 1);
    }
    for (; x[from] < x[i] - width / 2; from++) {
      weight -= weights?.[from] ?? 1;
      sum -= mean[from] * (weights?.[from] ?? 1);
    }
    found[i] = sum / weight;
  }
  return found;
}

export class Chart {
  // on: cursor(x or null), zoom(from, to) and whole(), of all charts.
  constructor({ title, unit, share = false, floor }, on) {
    Object.assign(this, { title, unit, share, floor, on, at: null, view: null });
    this.plot = el("div", { class: "plot", role: "slider", tabIndex: 0, "aria-label": title, "aria-orientation": "horizontal" });
    this.keys = el("p", { class: "keys" });
    this.root = el("figure", {}, el("h3", {}, title, el("small", {}, unit)), this.plot, el("figcaption", {}, this.keys));
    this.listen();
    new ResizeObserver(() => this.render()).observe(this.plot);
  }

  // view: lines [{ name, css, dash, sampled, pieces [{ x, mean, low, high, count }], dots, skipped, spikes }], clock,
  // from, to, log, smooth (share of the width), spans [{ name, start }].
  draw(view) {
    this.view = view;
    this.render();
  }

  get width() { return this.plot.clientWidth; }
  get top() { return this.view.spans.length ? 26 : 12; } // the names of phases stand there
  get height() { return (this.width < 420 ? HEIGHT.narrow : HEIGHT.wide) + this.top; }
  x(value) { return LEFT + (this.width - LEFT - RIGHT) * (value - this.view.from) / (this.view.to - this.view.from || 1); }
  back(pixel) {
    const share = (pixel - LEFT) / (this.width - LEFT - RIGHT);
    return this.view.from + Math.min(1, Math.max(0, share)) * (this.view.to - this.view.from);
  }

  y(value) {
    const of = this.log ? Math.log : (one) => one;
    const [low, high] = this.range;
    const bottom = this.height - BOTTOM;
    const share = (of(value) - of(low)) / (of(high) - of(low) || 1);
    return Math.min(bottom + 50, Math.max(this.top - 50, bottom - (bottom - this.top) * share));
  }

  write(value) { return this.share ? percent(value) : figure(value); }

  // What is drawn, smoothed, with the range of its values.
  prepare() {
    const { lines, from, to, log, smooth } = this.view;
    let low = Infinity, high = -Infinity, least = Infinity;
    const take = (x, ...values) => {
      if (x < from || x > to) return;
      for (const value of values) {
        if (value < low) low = value;
        if (value > high) high = value;
        if (value > 0 && value < least) least = value;
      }
    };
    this.drawn = lines.map((line) => {
      const pieces = line.pieces.map((piece) => ({ ...piece, raw: piece.mean, mean: smoothed(piece, smooth * (to - from)) }));
      for (const piece of pieces) {
        for (let i = 0; i < piece.x.length; i++) take(piece.x[i], piece.raw[i], piece.low?.[i] ?? piece.raw[i], piece.high?.[i] ?? piece.raw[i]);
      }
      line.dots?.x.forEach((x, i) => take(x, line.dots.mean[i]));
      return { ...line, pieces };
    });
    if (low > high) [low, high, least] = [0, 1, Infinity];
    this.log = log && least < Infinity;
    if (this.log) this.range = [Math.max(low, least) / 1.05, Math.max(high, least) * 1.05];
    else {
      if (low === high) [low, high] = low ? [low - Math.abs(low) / 10, high + Math.abs(high) / 10] : [-1, 1];
      const bottom = this.floor !== undefined ? Math.min(this.floor, low) : low;
      const { step } = ticks(bottom, high, 5);
      this.range = [Math.floor(bottom / step + 1e-9) * step, Math.max(Math.ceil(high / step - 1e-9), Math.floor(bottom / step + 1e-9) + 1) * step];
    }
  }

  render() {
    if (!this.view || !this.width) return;
    this.prepare();
    const { width, height } = this;
    const bottom = height - BOTTOM;
    const svg = made("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    const clip = `clip-${this.title.replace(/\W/g, "")}`;
    svg.append(made("clipPath", { id: clip }, made("rect", { x: LEFT - 5, y: this.top - 5, width: Math.max(1, width - LEFT - RIGHT + 10), height: bottom - this.top + 10 })));
    this.drawAxes(svg, bottom);
    const inside = made("g", { "clip-path": `url(#${clip})` });
    for (const line of this.drawn) this.drawLine(inside, line, bottom);
    this.chosen = made("rect", { class: "chosen", y: this.top, height: bottom - this.top, width: 0 });
    this.pointer = made("g", {});
    svg.append(inside, this.chosen, this.pointer);
    this.plot.replaceChildren(svg);
    this.show(this.at);
  }

  drawAxes(svg, bottom) {
    const { view, width } = this;
    const [low, high] = this.range;
    const { places, step } = this.log ? { places: logTicks(low, high), step: 0 } : ticks(low, high, 7);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const write = (y) => (high >= 10000 ? count(y) : y.toFixed(Math.min(6, digits)));
    const text = (y) => (this.share ? `${Number((100 * y).toPrecision(3))}%` : this.log ? count(y) : write(y));
    for (const y of places) {
      svg.append(made("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: this.y(y), y2: this.y(y) }));
      svg.append(made("text", { class: "end", x: LEFT - 7, y: this.y(y) + 4 }, text(y)));
    }
    view.spans.forEach((span, i) => {
      const next = view.spans[i + 1]?.start ?? Infinity;
      const [start, end] = [Math.max(view.from, span.start), Math.min(view.to, next)];
      if (end <= start) return;
      if (span.start > view.from) svg.append(made("line", { class: "between", x1: this.x(start), x2: this.x(start), y1: this.top - 12, y2: bottom }));
      if (this.x(end) - this.x(start) > 7 * span.name.length) svg.append(made("text", { class: "middle", x: (this.x(start) + this.x(end)) / 2, y: this.top - 12 }, span.name));
    });
    svg.append(made("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: bottom, y2: bottom }));
    const time = view.clock.label === "training time";
    const along = ticks(view.from, view.to, Math.max(2, Math.floor(width / 90)), time);
    const [unit, name] = !time ? [1, ""] : along.step >= 3600 ? [3600, "h"] : along.step >= 60 ? [60, "min"] : [1, "s"];
    for (const x of along.places) {
      svg.append(made("line", { class: "axis", x1: this.x(x), x2: this.x(x), y1: bottom, y2: bottom + 4 }));
      const near = this.x(x) > width - 30 ? "end" : "middle";
      const said = time ? `${Number((x / unit).toPrecision(6))} ${name}` : count(x);
      svg.append(made("text", { class: near, x: near === "end" ? width : this.x(x), y: bottom + 18 }, said));
    }
  }

  drawLine(svg, line, bottom) {
    const point = (x, y) => `${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)}`;
    const path = (xs, ys) => xs.map((x, i) => `${i ? "L" : "M"}${point(x, ys[i])}`).join("");
    for (const { x, mean, raw, low, high } of line.pieces) {
      if (low) {
        const there = x.map((one, i) => point(one, high[i]));
        const home = x.map((one, i) => point(one, low[i])).reverse();
        svg.append(made("path", { class: `spread ${line.css}`, d: `M${[...there, ...home].join("L")}Z` }));
      } else if (mean !== raw) svg.append(made("path", { class: `raw ${line.css}`, d: path(x, raw) }));
      if (x.length === 1) svg.append(made("circle", { class: `at ${line.css}`, cx: this.x(x[0]), cy: this.y(mean[0]), r: 3 }));
      else svg.append(made("path", { class: `line ${line.css} ${line.dash}`, d: path(x, mean) }));
    }
    line.dots?.x.forEach((x, i) => svg.append(made("circle", { class: `dot ${line.css}`, cx: this.x(x), cy: this.y(line.dots.mean[i]), r: 4 })));
    for (const x of line.skipped ?? []) svg.append(made("path", { class: "skip", d: `M${this.x(x)} ${bottom - 8}l4 8h-8z` }));
    for (const x of line.spikes ?? []) svg.append(made("path", { class: "skip", d: `M${this.x(x)} ${this.top + 8}l4 -8h-8z` }));
  }

  // The values at x, or the last ones.
  show(x) {
    this.at = x;
    if (!this.view || !this.pointer) return;
    const { from, to, clock } = this.view;
    const within = x !== null && x >= from && x <= to;
    const said = [];
    this.pointer.replaceChildren();
    if (within) this.pointer.append(made("line", { class: "cursor", x1: this.x(x), x2: this.x(x), y1: this.top, y2: this.height - BOTTOM }));
    const keys = this.drawn.map((line) => {
      const near = this.valueAt(line, within ? x : to);
      const found = within && near?.far > NEAR * (to - from) ? null : near; // a run that has ended before, or not yet begun
      const spread = found?.low !== undefined && found.low !== found.high ? `${this.write(found.low)} to ${this.write(found.high)}` : "";
      if (within && found) this.pointer.append(made("circle", { class: `at ${line.css}`, cx: this.x(found.x), cy: this.y(found.mean), r: 4 }));
      if (found) said.push(`${line.name} ${this.write(found.mean)}`);
      const note = [within ? spread : "", line.sampled ? "a sample" : ""].filter(Boolean).join(", ");
      const kind = line.pieces.length ? `line ${line.dash}` : "dots";
      return el("span", { class: `key ${kind} ${line.css}` }, line.name, el("b", {}, found ? this.write(found.mean) : ""), note && el("small", {}, ` ${note}`));
    });
    if (within) keys.push(el("span", {}, clock.say(x)));
    this.keys.replaceChildren(...keys);
    const place = within ? x : to;
    const values = { min: from, max: to, now: place };
    for (const [name, value] of Object.entries(values)) this.plot.setAttribute(`aria-value${name}`, Number(value.toPrecision(6)));
    this.plot.setAttribute("aria-valuetext", `${clock.say(place)}: ${said.join("; ") || "nothing"}`);
  }

  valueAt(line, x) {
    let best = null;
    const offer = (piece) => {
      if (!piece.x.length) return;
      const i = nearest(piece.x, x);
      const far = Math.abs(piece.x[i] - x);
      if (!best || far < best.far) best = { far, x: piece.x[i], mean: piece.mean[i], low: piece.low?.[i], high: piece.high?.[i] };
    };
    line.pieces.forEach(offer);
    if (!line.pieces.length && line.dots) offer(line.dots);
    return best;
  }

  listen() {
    const { plot } = this;
    let start = null;
    const place = (event) => event.clientX - plot.getBoundingClientRect().left;
    plot.addEventListener("pointerdown", (event) => {
      if (event.button || !this.view) return;
      start = place(event);
      plot.setPointerCapture(event.pointerId);
    });
    plot.addEventListener("pointermove", (event) => {
      if (!this.view) return;
      this.on.cursor(this.back(place(event)));
      if (start === null || Math.abs(place(event) - start) < DRAG) return;
      const [a, b] = [this.x(this.back(start)), this.x(this.back(place(event)))].sort((one, two) => one - two);
      this.chosen.setAttribute("x", a);
      this.chosen.setAttribute("width", b - a);
    });
    plot.addEventListener("pointerup", (event) => {
      const [from, to] = [start, place(event)];
      start = null;
      this.chosen?.setAttribute("width", 0);
      if (from !== null && Math.abs(to - from) >= DRAG) this.on.zoom(...[this.back(from), this.back(to)].sort((a, b) => a - b));
    });
    plot.addEventListener("pointercancel", () => { start = null; this.chosen?.setAttribute("width", 0); });
    plot.addEventListener("pointerleave", () => { if (start === null) this.on.cursor(null); });
    plot.addEventListener("dblclick", () => this.on.whole());
    plot.addEventListener("keydown", (event) => this.press(event));
    plot.addEventListener("blur", () => this.on.cursor(null));
  }

  press(event) {
    if (!this.view || event.altKey || event.ctrlKey || event.metaKey) return;
    const { from, to } = this.view;
    const now = this.at ?? to;
    const step = (to - from) / (event.shiftKey ? 10 : 100);
    const zoom = (factor) => this.on.zoom(Math.max(0, now - (now - from) * factor), now + (to - now) * factor);
    const keys = {
      ArrowRight: () => this.on.cursor(Math.min(to, now + step)),
      ArrowLeft: () => this.on.cursor(Math.max(from, now - step)),
      ArrowUp: () => this.on.cursor(Math.min(to, now + step)),
      ArrowDown: () => this.on.cursor(Math.max(from, now - step)),
      Home: () => this.on.cursor(from),
      End: () => this.on.cursor(to),
      "+": () => zoom(0.5),
      "-": () => zoom(2),
      Escape: () => this.on.whole(),
    };
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }
}
