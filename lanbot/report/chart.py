"""The geometry of line charts, which templates/chart.html.j2 draws as SVG.

A chart is drawn twice, for wide and for narrow screens, so that its text has the size of the text around it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDE, NARROW = (760, 320), (343, 280)
TOP, BOTTOM, SIDE = 44, 44, 40
STRIP = 24  # the top of the strip with the names of the phases
LETTER = 7.0  # the approximate width of a letter of the labels
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400)
"""Seconds between two ticks of the time axis."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Span:
    """A phase's place on the time axis, in seconds."""

    name: str
    css: str
    start: float
    end: float


@dataclass(frozen=True)
class Series:
    """kind: "line" or "dots". on_right: uses the right-hand axis. css: the class that gives its colour."""

    name: str
    css: str
    points: Points
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
"""The right-hand axis: the whole range, so that noise looks as small as it is."""


@dataclass(frozen=True)
class Chart:
    """left, right: labels of the value axes, with units; the right-hand one is for shares, "" for none."""

    title: str
    left: str
    right: str
    spans: Sequence[Span]
    series: Sequence[Series]
    note: str

    @property
    def summary(self) -> str:
        """The chart in words, for screen readers."""
        curves = [(one.name, one.points[0][1], one.points[-1][1]) for one in self.series if one.points]
        ranges = "; ".join(f"{name} from {first:.3g} to {last:.3g}" for name, first, last in curves)
        return f"{self.title}, against training time: {ranges}."

    def drawings(self) -> "dict[str, Drawing]":
        return {"wide": Drawing(self, *WIDE), "narrow": Drawing(self, *NARROW)}


class Drawing:
    """Coordinates of everything in a chart of this size."""

    def __init__(self, chart: Chart, width: int, height: int) -> None:
        self.width, self.height, self.strip = width, height, STRIP
        self.x0, self.x1, self.y0, self.y1 = SIDE, width - SIDE, TOP, height - BOTTOM
        self.end = max(span.end for span in chart.spans)
        self.bands = [(self.x(span.start), self.x(span.end) - self.x(span.start), span) for span in chart.spans]
        self.names = [band for band in self.bands if band[1] > LETTER * len(band[2].name)]
        self.time_label, self.time_ticks = self._time_axis()
        self.axes: list[tuple[str, bool, list[tuple[float, str]]]] = []
        """Label, whether on the right, ticks (y, text)."""
        self.curves: list[tuple[Series, Points]] = []
        left = axis([y for one in chart.series if not one.on_right for _, y in one.points])
        for on_right, label, scale in ((False, chart.left, left), (True, chart.right, SHARES if chart.right else None)):
            if scale is not None:
                ticks = [(self.y(scale, tick), f"{tick:.{scale.digits}f}") for tick in scale.ticks]
                self.axes.append((label, on_right, ticks))
                for one in chart.series:
                    if one.on_right == on_right:
                        self.curves.append((one, [(self.x(t), self.y(scale, value)) for t, value in one.points]))

    def x(self, seconds: float) -> float:
        return self.x0 + (self.x1 - self.x0) * seconds / self.end

    def y(self, scale: Axis, value: float) -> float:
        return self.y1 - (self.y1 - self.y0) * scale.share(value)

    def _time_axis(self) -> tuple[str, list[tuple[float, str]]]:
        """The unit, and the ticks as (x, text)."""
        most = (self.x1 - self.x0) / 45
        step = next((s for s in STEPS if self.end / s <= most), STEPS[-1] * math.ceil(self.end / STEPS[-1] / 10))
        unit, label = next((u, name) for u, name in ((3_600, "hours"), (60, "minutes"), (1, "seconds")) if step >= u)
        return label, [(self.x(i * step), f"{i * step / unit:g}") for i in range(int(self.end / step) + 1)]


def axis(values: Sequence[float]) -> Axis | None:
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
