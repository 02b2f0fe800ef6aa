"""Output for people: progress, tables, sizes and durations."""

import io
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any, TypeVar

T = TypeVar("T")

_HIDDEN = (0xAD, 0x61C, 0x200B, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF)
CONTROLS: dict[int, int | str] = {
    **{c: 0x2400 + c for c in range(32) if chr(c) not in "\n\t"},
    **dict.fromkeys(range(0x7F, 0xA0), 0x2421),
    **{c: f"[U+{c:04X}]" for c in (*_HIDDEN, *range(0xFFF9, 0xFFFC), *range(0xE0000, 0xE0080))},
}
"""Control characters, and characters that hide or reorder text, with the visible signs that replace them."""

FIRST_SECONDS = 2.0
"""Work that takes less shows no progress."""
LOG_SECONDS, TTY_SECONDS = 10.0, 0.1
"""Between two lines of progress in a log, and between two updates of a terminal's line."""


class Progress:
    """A line of progress: `label | 12 of 40 rows | other figures | 3.1 rows/s | 9s left`.

    A terminal's line is rewritten in place; a log gets a plain line every ten seconds. Only the main rank writes.
    unit: "bytes" are shown as KiB and so on; "%" shows the share of the total and no rate. first: what was done
    earlier and does not count for the rate.
    """

    def __init__(self, label: str, total: float | None = None, unit: str = "items", first: float = 0) -> None:
        self.label, self.total, self.unit, self.first = label, total, unit, first
        self.rewrites = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.started = time.monotonic()
        self.due = self.started + FIRST_SECONDS if main_rank() else math.inf
        self.open = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def show(self, done: float, *figures: str) -> None:
        """Writes the line if one is due; call it as often as you like."""
        if time.monotonic() >= self.due:
            self.text(self.line(done, *figures))

    def text(self, line: str) -> None:
        """Writes a line of the caller's own, if one is due."""
        now = time.monotonic()
        if now >= self.due:
            self.due = now + (TTY_SECONDS if self.rewrites else LOG_SECONDS)
            self._write(line)

    def line(self, done: float, *figures: str) -> str:
        rate = (done - self.first) / max(time.monotonic() - self.started, 1e-9)
        left = f"{duration((self.total - done) / rate)} left" if self.total and rate > 0 else ""
        if self.unit == "%":
            parts = [f"{self.label:<5}{done / (self.total or 1):>6.1%}", *figures, left]
        else:
            total = f" of {self._amount(self.total)}" if self.total else ""
            unit = "" if self.unit == "bytes" else f" {self.unit}"
            parts = [self.label, f"{self._amount(done)}{total}{unit}", *figures, f"{self._amount(rate)}{unit}/s", left]
        return " | ".join(part for part in parts if part)

    def _amount(self, value: float) -> str:
        if self.unit == "bytes":
            return size(max(0, value))
        return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"

    def _write(self, line: str, end: str = "") -> None:
        if self.rewrites:
            line = "\r\x1b[2K" + line[: shutil.get_terminal_size().columns - 1]
        print(line, end=end if self.rewrites else "\n", file=sys.stderr, flush=True)
        self.open = self.rewrites and not end

    def clear(self) -> None:
        """Takes the line away, where it is rewritten in place."""
        if self.open:
            self._write("")
        self.open = False

    def close(self, summary: str = "") -> None:
        """Leaves the line as it stands, or replaces it by a summary, which is written however short the work was."""
        if summary and main_rank():
            self._write(summary, "\n")
        elif self.open:
            say()
        self.open = False


def visible(text: str) -> str:
    """Replaces control characters, which a terminal would obey, and lone surrogates, which no file can hold."""
    return text.translate(CONTROLS).encode("utf-8", "replace").decode()


def main_rank() -> bool:
    """Whether this process is the only one, or rank 0 of several."""
    return int(os.environ.get("RANK", "0")) == 0


def say(text: str = "") -> None:
    """Prints to stderr, as progress does; results go to stdout."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def no_bars() -> Iterator[None]:
    """Hides the progress bars of other libraries, which would fill a log, unless stderr is a terminal.

    Anything else written to stderr meanwhile is lost; errors are raised and loggers keep their stream.
    """
    if sys.stderr.isatty():
        yield
    else:
        with redirect_stderr(io.StringIO()):
            yield


def track(
    items: Iterable[T],
    label: str,
    total: int | None = None,
    unit: str = "items",
    size: Callable[[T], int] = lambda item: 1,
) -> Iterator[T]:
    """Yields `items`, with progress by their number or the sum of `size(item)`."""
    done = 0
    with Progress(label, total, unit) as progress:
        for item in items:
            yield item
            done += size(item)
            progress.show(done)


def duration(seconds: float) -> str:
    """9s, 3m05s, 2h07m, 3d04h."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3_600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86_400:
        return f"{seconds // 3_600}h{seconds % 3_600 // 60:02d}m"
    return f"{seconds // 86_400}d{seconds % 86_400 // 3_600:02d}h"


def hours(seconds: float) -> str:
    """45 s, 11 min, 2 h 10 min, 38 h: to the second below a minute, to the minute below ten hours."""
    if seconds < 59.5:
        return f"{max(0, round(seconds))} s"
    whole, minutes = divmod(round(seconds / 60), 60)
    if whole >= 10:
        return f"{round(seconds / 3_600):,} h"
    return " ".join(f"{count} {unit}" for count, unit in ((whole, "h"), (minutes, "min")) if count)


def dollars(amount: float) -> str:
    """$0.42, $98, $1,250: cents below ten dollars."""
    return f"${amount:,.2f}" if amount < 9.995 else f"${amount:,.0f}"


def between(low: str, high: str) -> str:
    """8 to 16 min, 2 h 10 min to 3 h 30 min, $57 to $99."""
    if low == high:
        return low
    first, last = low.split(), high.split()
    return f"{first[0]} to {high}" if len(first) == 2 and first[1:] == last[1:] else f"{low} to {high}"


def size(count: float) -> str:
    """Bytes in binary units: 512 B, 1.5 GiB."""
    if count < 1_024:
        return f"{count:.0f} B"
    power = min(3, int(math.log2(count)) // 10)
    return f"{count / 1_024**power:,.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"


def table(rows: Sequence[Sequence[Any]], header: Sequence[str], markdown: bool = False, left: int = 1) -> str:
    """An aligned table: the first `left` columns left-aligned, the others right-aligned."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(2 * markdown, *(len(row[i]) for row in cells)) for i in range(len(header))]
    sides = ["<" if i < left else ">" for i in range(len(header))]
    lines = [[f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)] for row in cells]
    if markdown:
        lines.insert(1, ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(line).rstrip() for line in lines)
