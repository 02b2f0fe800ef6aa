// How numbers are written, as on the terminal and in the report.

export const known = (value) => typeof value === "number" && Number.isFinite(value);

// 950, 448K, 2.36M, 1.1B; 1.2e15 beyond.
export function count(number) {
  const size = Math.abs(number);
  if (size >= 1e12) return number.toExponential(1).replace("e+", "e");
  for (const [factor, unit] of [[1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
    if (size >= factor * 0.9995) return `${Number((number / factor).toPrecision(3))}${unit}`;
  }
  return `${Number(number.toPrecision(3))}`;
}

export function figure(value) {
  if (!known(value)) return "";
  const size = Math.abs(value);
  if (size >= 10000) return count(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 3);
}

export const percent = (value) => (known(value) ? `${Math.round(100 * value)}%` : "");

// 9s, 3m05s, 2h07m, 3d04h.
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h${two(Math.floor((s % 3600) / 60))}m`;
  return `${Math.floor(s / 86400)}d${two(Math.floor((s % 86400) / 3600))}h`;
}

export function bytes(size) {
  if (!known(size)) return "";
  const power = Math.min(3, Math.max(1, Math.floor(Math.log2(Math.max(1, size)) / 10)));
  return `${(size / 1024 ** power).toFixed(1)} ${["KiB", "MiB", "GiB"][power - 1]}`;
}

export const dollars = (amount) => `$${amount.toFixed(amount < 9.995 ? 2 : 0)}`;

// What a course is drawn against: its name, the label of its axis, and a place on it in words.
export const CLOCKS = {
  seconds: { name: "time", label: "training time", say: duration },
  step: { name: "steps", label: "steps", say: (x) => `step ${Math.round(x).toLocaleString("en")}` },
  tokens: { name: "tokens", label: "tokens", say: (x) => `${count(x)} tokens` },
  flops: { name: "FLOPs", label: "FLOPs", say: (x) => `${x.toExponential(2).replace("e+", "e")} FLOPs` },
};

const TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

// About `most` places at round numbers between low and high.
export function ticks(low, high, most, times = false) {
  const spread = high - low || Math.abs(high) || 1;
  let step = times ? TIMES.find((one) => spread / one <= most) : undefined;
  if (step === undefined && times) step = 86400 * Math.ceil(spread / 86400 / most);
  if (step === undefined) {
    const power = 10 ** Math.floor(Math.log10(spread / most));
    step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => spread / one <= most + 1e-9);
  }
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return { step, places: found };
}

// 1, 2 and 5 of each power of ten, the powers alone where there are many, round numbers where there is none.
export function logTicks(low, high) {
  if (high < 8 * low) return ticks(low, high, 5).places;
  const found = [];
  const first = Math.floor(Math.log10(low));
  const last = Math.ceil(Math.log10(high));
  const factors = last - first > 4 ? [1] : last - first > 2 ? [1, 3] : [1, 2, 5];
  const every = Math.max(1, Math.ceil((last - first) / 8));
  for (let power = first; power <= last; power++) {
    if ((power - first) % every) continue;
    for (const factor of factors) {
      const one = factor * 10 ** power;
      if (one >= low * 0.999 && one <= high * 1.001) found.push(one);
    }
  }
  return found;
}
