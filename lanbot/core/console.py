"""What the terminal shows: one line of progress rewritten in place, or plain lines now and then in a log."""

import io
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any, TypeVar

T = TypeVar("T")

CONTROLS = {c: 0x2400 + c for c in range(32) if chr(c) not in "\n\t"} | dict.fromkeys((*range(0x7F, 0xA0),), 0x2421)
"""Control characters, which a model or a file may well hold, and the signs that stand for them."""

LOG_SECONDS = 10.0
"""Between two lines of progress where the terminal cannot rewrite one."""
TTY_SECONDS = 0.1


class Progress:
    """`show(line)` as often as you like; it is printed as often as a reader can use."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.rewrites = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.last = time.monotonic()  # a rate over the first moments is noise
        self.open = False

    def show(self, line: str, final: bool = False) -> None:
        now = time.monotonic()
        if self.quiet or (not final and now - self.last < (TTY_SECONDS if self.rewrites else LOG_SECONDS)):
            return
        self.last = now
        if self.rewrites:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write("\r\x1b[2K" + line[:width] + ("\n" if final else ""))
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()
        self.open = self.rewrites and not final

    def close(self) -> None:
        """Leaves the line as it stands."""
        if self.open:
            sys.stderr.write("\n")
            sys.stderr.flush()
            self.open = False


def visible(said: str) -> str:
    """Without what a terminal would obey, and what no file can hold (half of a surrogate pair)."""
    return said.translate(CONTROLS).encode("utf-8", "replace").decode()


def main_rank() -> bool:
    """Whether this process is the one of several that speaks for all; so is one that is alone."""
    return int(os.environ.get("RANK", "0")) == 0


def say(text: str = "") -> None:
    """A line of its own on stderr, where progress goes; results go to stdout."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def no_bars() -> Iterator[None]:
    """Where stderr is no terminal, without the progress bars of other libraries, which would fill a log. Bars write to
    the stderr that is there when they begin; so what else is written to it is lost, but errors are raised, and logs
    keep the stream they had."""
    if sys.stderr.isatty():
        yield
    else:
        with redirect_stderr(io.StringIO()):
            yield


def track(items: Iterable[T], label: str, total: int | None = None, unit: str = "items", size=None) -> Iterator[T]:  # type: ignore[no-untyped-def]
    """Passes `items` on, showing how many (or how much, by `size(item)`), the rate and the time left."""
    progress, start, done = Progress(quiet=not main_rank()), time.monotonic(), 0
    try:
        for item in items:
            yield item
            done += 1 if size is None else size(item)
            seconds = max(time.monotonic() - start, 1e-9)
            rate = done / seconds
            left = f" of {total:,} {unit} | {duration((total - done) / rate)} left" if total and rate else f" {unit}"
            progress.show(f"{label} | {done:,}{left} | {rate:,.0f} {unit}/s")
    finally:
        progress.close()


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


def size(count: float) -> str:
    """Bytes in binary units: 512 B, 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1_024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1_024
    raise AssertionError


def table(rows: Sequence[Sequence[Any]], header: Sequence[str], markdown: bool = False, left: int = 1) -> str:
    """An aligned table: the first `left` columns to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(2 * markdown, *(len(row[i]) for row in cells)) for i in range(len(header))]
    lines = [
        [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    ]
    if markdown:
        lines.insert(1, ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(line).rstrip() for line in lines)
