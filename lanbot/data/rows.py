"""The rows of a data set, none parsed before it is read: a phase with half a million of them starts at once."""

import io
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from lanbot.core import jsonl
from lanbot.core.errors import UserError


class Rows(Sequence[Any]):
    """The rows of .parquet, .jsonl and .json files (the latter plain, .gz or .zst), one file after another, as
    dictionaries (of JSON: any value). Memory holds their text."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises UserError if a file cannot be read."""
        self.files = [_Table(path) if path.suffix == ".parquet" else _Lines(path) for path in paths]
        self.ends = list(accumulate(len(file) for file in self.files))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, i):  # type: ignore[no-untyped-def]
        """Raises UserError, with file and row, for a broken one."""
        file, k = self._at(i)
        return file.row(k)

    def where(self, i: int) -> str:
        """File and row, for a message."""
        file, k = self._at(i)
        return file.where(k)

    def _at(self, i: int) -> "tuple[_Table | _Lines, int]":
        if not 0 <= i < len(self):
            raise IndexError(i)
        n = bisect_right(self.ends, i)
        return self.files[n], i - (self.ends[n - 1] if n else 0)


class _Lines:
    """Lines end at \\n alone: U+2028 and U+0085 may stand inside a row. Empty ones are skipped, but counted."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.word = path, read(path), "line"
        if jsonl.is_array(path, self.data[: jsonl.HEAD]):
            self.data, self.word = b"\n".join(jsonl.items(path, io.BytesIO(self.data))), "item"
        self.starts, self.numbers = _starts(self.data)

    def __len__(self) -> int:
        return len(self.starts)

    def row(self, i: int) -> Any:
        start = self.starts[i]
        end = self.data.find(b"\n", start)
        try:
            return jsonl.parse(self.data[start : end if end >= 0 else None])
        except ValueError as error:
            raise UserError(f"{self.where(i)}: {error}", "Fix the row.") from None

    def where(self, i: int) -> str:
        return f"{self.path}, {self.word} {self.numbers[i]}"


def _starts(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and numbers (from 1) of the lines that are not empty; in pieces, as a flag per byte takes much memory."""
    breaks = [np.zeros(1, dtype=np.int64)]
    for first in range(0, len(data), PIECE):
        piece = np.frombuffer(data, np.uint8, min(PIECE, len(data) - first), first)
        breaks.append(np.flatnonzero(piece == ord("\n")) + first + 1)
    starts = np.concatenate(breaks)
    ends = np.append(starts[1:], len(data))
    long = ends - starts > 80
    full = np.array([long[i] or bool(data[starts[i] : ends[i]].strip()) for i in range(len(starts))], dtype=bool)
    return starts[full], np.flatnonzero(full) + 1


PIECE = 1 << 24


def read(path: Path) -> bytes:
    """All of a file, unpacked if its name ends in .gz or .zst. Raises UserError."""
    try:
        with jsonl.open_bytes(path) as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise jsonl.unreadable(path, error) from None


class _Table:
    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq
        from pyarrow.lib import ArrowException

        self.path = path
        try:
            self.table = pq.read_table(path)
        except (ArrowException, OSError) as error:
            raise UserError(f"{path}: cannot be read as parquet ({error})", "Fetch the file again.") from None
        self.columns = {name: self.table[name] for name in self.table.column_names}

    def __len__(self) -> int:
        return len(self.table)

    def row(self, i: int) -> dict[str, Any]:
        try:
            return {name: column[i].as_py() for name, column in self.columns.items()}
        except UnicodeDecodeError as error:
            raise UserError(f"{self.where(i)}: not UTF-8 ({error})", "Fix the row.") from None

    def where(self, i: int) -> str:
        return f"{self.path}, row {i + 1}"


def open_rows(paths: Sequence[Path]) -> Rows:
    """Files are opened once while they do not change: phases and evaluations share them."""
    stats = [path.stat() for path in paths if path.exists()]
    return _opened(tuple(paths), tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))


@lru_cache(maxsize=32)
def _opened(paths: tuple[Path, ...], as_they_are: tuple[tuple[int, int], ...]) -> Rows:
    return Rows(paths)
