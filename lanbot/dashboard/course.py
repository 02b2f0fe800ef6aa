"""The course of a phase: its steps and measurements in order, and curves of them that are as wide as a screen."""

from itertools import pairwise
from typing import Any

import numpy as np

from lanbot.dashboard.columns import CLOCKS, MEASURED, VALUES, Columns

Points = dict[str, list[float]]


class Rows:
    """Columns that grow, ordered by step."""

    def __init__(self) -> None:
        self.size = 0
        self._columns: Columns = {}

    def __len__(self) -> int:
        return self.size

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name][: self.size]

    def append(self, new: Columns) -> None:
        count = len(new["step"])
        for name in new:
            if name not in self._columns:
                self._columns[name] = np.full(self.size, np.nan, np.float64 if name in CLOCKS else np.float32)
        for name, column in self._columns.items():
            if len(column) < self.size + count:  # double, so that a line at a time costs little
                grown = np.full(max(2 * len(column), self.size + count, 1_024), np.nan, column.dtype)
                grown[: self.size] = column[: self.size]
                self._columns[name] = column = grown
            column[self.size : self.size + count] = new.get(name, np.nan)
        self.size += count

    def cut(self, step: float) -> None:
        """Forgets this step and what came after it."""
        self.size = int(np.searchsorted(self["step"], step)) if self.size else 0


class Course:
    """All lines of a metrics.jsonl, in which a run that went back to a checkpoint repeats its steps: the later ones
    count."""

    def __init__(self) -> None:
        self.steps, self.measured = Rows(), Rows()
        self.bad = 0
        """Lines that could not be read."""

    def add(self, columns: Columns, bad: int = 0) -> None:
        self.bad += bad
        step = columns["step"]
        if not len(step):
            return
        between = np.zeros(len(step), bool)
        for name in MEASURED:
            if name in columns:
                between |= np.isfinite(columns[name])
        # a step follows a lower one, and a measurement may follow its own step: elsewhere the run went back
        before = np.concatenate([[self._last()], step[:-1]])
        back = (step < before) | ((step == before) & ~between)
        starts = [0, *np.flatnonzero(back), len(step)]
        for start, end in pairwise(starts):
            if start < end:
                if back[start]:
                    self.steps.cut(step[start])
                    self.measured.cut(step[start])
                piece = {name: column[start:end] for name, column in columns.items()}
                of = between[start:end]
                for rows, chosen in ((self.steps, ~of), (self.measured, of)):
                    if chosen.all():
                        rows.append(piece)
                    elif chosen.any():
                        rows.append({name: column[chosen] for name, column in piece.items()})

    def _last(self) -> float:
        return max((float(rows["step"][-1]) for rows in (self.steps, self.measured) if len(rows)), default=-np.inf)

    def curves(
        self, clock: str, flops: float | None, points: int, start: float | None = None, end: float | None = None
    ) -> dict[str, Any]:
        """Every value against a clock (of CLOCKS, or flops) from `start` to `end`, in at most `points` pieces.

        flops: those of a token; None: not known, then nothing is drawn against them. end: of the whole course.
        skipped, spikes: the places of updates that were skipped as they were not finite, and of spikes of the loss.
        """
        clocks = {id(rows): _clock(rows, clock, flops) for rows in (self.steps, self.measured)}
        ends = [float(x[-1]) for x in clocks.values() if x is not None and len(x) and np.isfinite(x[-1])]
        found: dict[str, Any] = {"end": max(ends, default=0.0), "curves": {}, "dots": {}}
        first, last = 0.0 if start is None else start, found["end"] if end is None else end
        for rows, names, kind in ((self.steps, VALUES, "curves"), (self.measured, MEASURED, "dots")):
            x = clocks[id(rows)]
            if x is not None:
                made = {name: thin(x, rows[name], first, last, points) for name in names if name in rows}
                found[kind] = {name: one for name, one in made.items() if one["x"]}
        marks = clocks[id(self.steps)]
        found["skipped"], found["spikes"] = [], []
        if marks is not None:
            if "skipped" in self.steps:
                more = np.diff(np.nan_to_num(self.steps["skipped"]), prepend=0) > 0
                found["skipped"] = _places(marks[more], first, last, points)
            if "spike" in self.steps:
                found["spikes"] = _places(marks[self.steps["spike"] == 1], first, last, points)
        return found


def thin(x: np.ndarray, y: np.ndarray, start: float, end: float, points: int) -> Points:
    """A curve between `start` and `end`, with a piece more at each side so that its line reaches the edges.

    Up to twice as many values as `points` are kept as they are: x and mean. More are cut into that many pieces of equal
    width: of each the mean x, and mean, least (low), greatest (high) and number (count) of its values, so no spike is
    lost. What is not a finite number is left out. x must not decrease.
    """
    finite = np.isfinite(y) & np.isfinite(x)
    if not finite.all():
        x, y = x[finite], y[finite]
    first = max(0, int(np.searchsorted(x, start, "left")) - 1)
    last = min(len(x), int(np.searchsorted(x, end, "right")) + 1)
    x, y = x[first:last], y[first:last].astype(np.float64)
    if len(x) <= 2 * points or end <= start:
        return {"x": _rounded(x, 10), "mean": _rounded(y)}
    piece = np.clip(np.floor((x - start) / (end - start) * points), 0, points - 1)
    piece = np.where(x < start, -1, np.where(x > end, points, piece))
    starts = np.concatenate([[0], np.flatnonzero(np.diff(piece)) + 1])
    count = np.diff(np.concatenate([starts, [len(x)]]))
    return {
        "x": _rounded(np.add.reduceat(x, starts) / count, 10),
        "mean": _rounded(np.add.reduceat(y, starts) / count),
        "low": _rounded(np.minimum.reduceat(y, starts)),
        "high": _rounded(np.maximum.reduceat(y, starts)),
        "count": count.tolist(),
    }


def _clock(rows: Rows, clock: str, flops: float | None) -> np.ndarray | None:
    """Never decreasing, even if a damaged file says so; None if the lines do not have it."""
    name = "tokens" if clock == "flops" else clock
    if name not in rows or (clock == "flops" and flops is None):
        return None
    with np.errstate(over="ignore"):
        x = rows[name] * (flops if clock == "flops" and flops is not None else 1)
    return np.fmax.accumulate(np.where(np.isfinite(x), x, np.nan))


def _places(x: np.ndarray, start: float, end: float, points: int) -> list[float]:
    """Those within, at most one of each piece."""
    x = x[(x >= start) & (x <= end)]
    if len(x) > points and end > start:
        _, first = np.unique(np.floor((x - start) / (end - start) * points), return_index=True)
        x = x[first]
    return _rounded(x, 10)


def _rounded(values: np.ndarray, digits: int = 6) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values.tolist()]
