"""Charts as inline SVG. Colours come from the page's style sheet, by the class of what is drawn.

A line chart is drawn twice, for wide and for narrow screens, so that its text has the size of the text around it.
"""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDE, NARROW = (760, 320), (343, 280)
TOP, BOTTOM, SIDE = 44, 44, 40
STRIP = 24
"""Where the strip with the phases' names begins."""
LETTER = 7.0
"""About the width of a letter of the labels."""
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400)
"""Seconds between two ticks of a time axis."""

Place = Callable[[float], float]
"""From seconds to a place on the x axis."""


@dataclass(frozen=True)
class Span:
    """A phase's place on the time axis, in seconds."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Series:
    """kind: "line" or "dots". on_right: read on the right-hand axis. css: its class, which is its colour."""

    name: str
    css: str
    points: Sequence[tuple[float, float]]
    kind: str = "line"
    on_right: bool = False


@dataclass(frozen=True)
class Axis:
    low: float
    high: float
    ticks: Sequence[float]
    digits: int

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)


SHARES = Axis(0, 1, (0, 0.2, 0.4, 0.6, 0.8, 1), 1)
"""The right-hand axis. It shows all of its range: noise should look as small as it is."""


def figure(title: str, left: str, right: str, spans: Sequence[Span], series: Sequence[Series], note: str) -> str:
    """The chart with its legend. left, right: what the value axes show, with units; the right one is for shares."""
    drawn = "".join(
        f'<div class="{css}">{_draw(title, left, right, spans, series, *size)}</div>'
        for css, size in (("wide", WIDE), ("narrow", NARROW))
    )
    keys = "".join(
        f'<span class="key {one.kind} {one.css}">{html.escape(one.name)}</span>' for one in series if one.points
    )
    return (
        f"<figure><h3>{html.escape(title)}</h3>{drawn}"
        f'<figcaption><p class="keys">{keys}</p><p>{html.escape(note)}</p></figcaption></figure>'
    )


def _draw(
    title: str, left: str, right: str, spans: Sequence[Span], series: Sequence[Series], width: int, height: int
) -> str:
    end = max(span.end for span in spans)
    axes = {
        False: _axis([y for one in series if not one.on_right for _, y in one.points]),
        True: SHARES if right else None,
    }
    inner = (SIDE, width - SIDE, TOP, height - BOTTOM)
    x0, x1, y0, y1 = inner

    def x(seconds: float) -> float:
        return x0 + (x1 - x0) * seconds / end

    parts = [_bands(spans, x, y1), _time_axis(end, x, x0, x1, y1)]
    for side, label in ((False, left), (True, right)):
        axis = axes[side]
        if axis is not None:
            parts.append(_value_axis(axis, label, side, inner))
            for one in (one for one in series if one.on_right == side):
                parts.append(_series(one, [(x(t), y1 - (y1 - y0) * axis.share(v)) for t, v in one.points]))
    summary = html.escape(_summary(title, series))
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{summary}">{"".join(parts)}</svg>'


def _series(one: Series, points: Sequence[tuple[float, float]]) -> str:
    if one.kind == "dots":
        return "".join(f'<circle class="dot {one.css}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="line {one.css}" points="{path}"/>'


def _bands(spans: Sequence[Span], x: Place, bottom: float) -> str:
    """The phases: every second one shaded, each named above where there is room."""
    parts = []
    for i, span in enumerate(spans):
        start, width = x(span.start), x(span.end) - x(span.start)
        shade = "band odd" if i % 2 else "band"
        parts.append(
            f'<rect class="{shade}" x="{start:.1f}" y="{STRIP}" width="{width:.1f}" height="{bottom - STRIP:.1f}"/>'
        )
        if width > LETTER * len(span.name):
            parts.append(
                f'<text class="name {span.name}" x="{start + width / 2:.1f}" y="{STRIP + 14}">{span.name}</text>'
            )
    return "".join(parts)


def _time_axis(end: float, x: Place, x0: float, x1: float, bottom: float) -> str:
    step = next((s for s in STEPS if end / s <= (x1 - x0) / 45), STEPS[-1] * math.ceil(end / STEPS[-1] / 10))
    unit, label = next((u, name) for u, name in ((3_600, "hours"), (60, "minutes"), (1, "seconds")) if step >= u)
    parts = [f'<line class="axis" x1="{x0}" x2="{x1}" y1="{bottom}" y2="{bottom}"/>']
    for i in range(int(end / step) + 1):
        at = x(i * step)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="middle" x="{at:.1f}" y="{bottom + 18}">{i * step / unit:g}</text>')
    parts.append(f'<text class="middle" x="{(x0 + x1) / 2:.1f}" y="{bottom + 37}">training time, {label}</text>')
    return "".join(parts)


def _value_axis(axis: Axis, label: str, on_right: bool, inner: tuple[float, float, float, float]) -> str:
    x0, x1, y0, y1 = inner
    at, css = (x1 + 7, "start") if on_right else (x0 - 7, "end")
    parts = [f'<text class="{"end" if on_right else "start"}" x="{x1 + 36 if on_right else 4}" y="13">{label}</text>']
    for tick in axis.ticks:
        y = y1 - (y1 - y0) * axis.share(tick)
        if not on_right:
            parts.append(f'<line class="grid" x1="{x0}" x2="{x1}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="{css}" x="{at}" y="{y + 4:.1f}">{tick:.{axis.digits}f}</text>')
    return "".join(parts)


def _axis(values: Sequence[float]) -> Axis | None:
    """About five ticks at 1, 2 or 5 x 10^n that hold all values between them; None without values."""
    if not values:
        return None
    low, high = min(values), max(values)
    spread = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(max(spread / 4, 1e-300)))
    step = next(power * factor for factor in (1, 2, 5, 10) if spread / (power * factor) <= 5)
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return Axis(first * step, last * step, [i * step for i in range(first, last + 1)], digits)


def _summary(title: str, series: Sequence[Series]) -> str:
    """The chart in words, for who cannot see it."""
    told = [f"{one.name} from {one.points[0][1]:.3g} to {one.points[-1][1]:.3g}" for one in series if one.points]
    return f"{title}, against training time: " + "; ".join(told) + "."


def bar(score: float, stderr: float, chance: float | None, css: str, label: str) -> str:
    """A share between 0 and 1 as a bar as wide as its place, with its error; a dotted line marks chance."""
    low, high = max(0.0, score - stderr), min(1.0, score + stderr)
    mark = "" if chance is None else f'<line class="chance" x1="{chance:.2%}" x2="{chance:.2%}" y1="0" y2="18"/>'
    caps = "".join(f'<line class="error" x1="{x:.2%}" x2="{x:.2%}" y1="5" y2="13"/>' for x in (low, high))
    return (
        f'<svg class="bar {css}" width="100%" height="18" role="img" aria-label="{html.escape(label)}">'
        f'<rect class="track" y="4" width="100%" height="10" rx="2"/>'
        f'<rect class="fill" y="4" width="{min(1.0, max(0.0, score)):.2%}" height="10" rx="2"/>'
        f'{mark}<line class="error" x1="{low:.2%}" x2="{high:.2%}" y1="9" y2="9"/>{caps}</svg>'
    )
