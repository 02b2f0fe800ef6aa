"""A metrics.jsonl that is read while it grows: at once where it is small, in the background where it is large."""

import os
import queue
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from lanbot.dashboard.columns import parse
from lanbot.dashboard.course import Course

AT_ONCE = 8 << 20
"""Bytes that are read while somebody waits for them; the time of some tenths of a second."""
PIECE = 8 << 20
SAMPLES = 2_000
"""Lines, evenly over a large file, of which its first curve is."""
LINE = 4_096
"""Bytes, in which a line is looked for."""
MARK = 4_096
"""Bytes before the place up to which a file was read, by which it is known to be the same file still."""


class MetricsFile:
    """Follows the file, also where it is replaced by a shorter one: a run that goes on from a checkpoint does that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self.course, self.at, self._identity, self._mark = Course(), 0, (0, 0), b""
        self._sample: Course | None = None

    def read(self, most: int = PIECE) -> bool:
        """Reads up to `most` bytes more. Returns whether nothing is left but a line that is still being written."""
        with self._lock:
            return self._read(most)

    def curves(self, background: "Background", *how: Any) -> dict[str, Any]:
        """Course.curves of what is read, with `read`, the share of the file that it is made of, and `lines`.

        Of a large file that has not been read it is that of a sample of its lines, `sampled`, while the rest is read in
        the background.
        """
        with self._lock:
            left = self._left()
            done = left <= AT_ONCE and self._read(2 * AT_ONCE)
            if done:
                self._sample = None
            else:
                background.add(self)
                self._sample = self._sample or self._sampled()
            course = self._sample or self.course
            share = 1.0 if done else self.at / max(1, self.at + left)
            lines = len(course.steps) + len(course.measured)
            found = course.curves(*how)
        return found | {"read": round(share, 3), "sampled": not done, "lines": lines, "bad": course.bad}

    def _left(self) -> int:
        """Bytes that have not been read; all of them if it is another file now."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) != self._identity or status.st_size < self.at:
                    same = False
                else:
                    same = os.pread(file.fileno(), len(self._mark), self.at - len(self._mark)) == self._mark
        except OSError:  # not there yet, or deleted
            self._forget()
            return 0
        if not same:
            self._forget()
            self._identity = (status.st_dev, status.st_ino)
        return status.st_size - self.at

    def _read(self, most: int) -> bool:
        left = self._left()
        if not left:
            return True
        try:
            with self.path.open("rb") as file:
                file.seek(self.at)
                data = file.read(min(left, most))
        except OSError:
            return False
        end = data.rfind(b"\n") + 1
        if not end:
            if len(data) < most:
                return True  # a line that is not whole yet
            end = len(data)  # no line is as long as that
        self.course.add(*parse(data[:end]))
        self.at += end
        self._mark = (self._mark + data[max(0, end - MARK) : end])[-MARK:]
        return len(data) == left

    def _sampled(self) -> Course:
        """Of lines that stand evenly over the file, the first and the last ones among them."""
        course, lines = Course(), []
        try:
            with self.path.open("rb") as file:
                descriptor, size = file.fileno(), os.fstat(file.fileno()).st_size
                for i in range(SAMPLES):
                    place = round(i / (SAMPLES - 1) * max(0, size - LINE))
                    cut = os.pread(descriptor, LINE, place)
                    whole = cut[: cut.rfind(b"\n") + 1]
                    if place:
                        whole = whole.partition(b"\n")[2]
                    lines.append(whole if i == SAMPLES - 1 else whole[: whole.find(b"\n") + 1])
        except OSError:
            return course
        course.add(*parse(b"".join(lines)))
        return course


class Background:
    """One thread that reads large files to their end, a piece of each in turn."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[MetricsFile] = queue.SimpleQueue()
        self._known: set[MetricsFile] = set()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def add(self, file: MetricsFile) -> None:
        with self._lock:
            if file not in self._known:
                self._known.add(file)
                self._waiting.put(file)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            file = self._waiting.get()
            more = False
            with suppress(Exception):  # of one file, which is tried again when it is asked for: the others go on
                more = not file.read()
            if more:
                self._waiting.put(file)
            else:
                with self._lock:
                    self._known.discard(file)
