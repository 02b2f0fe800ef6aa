"""The kinds of text file: which of them a path names, and the chunks of documents in each, from any chunk on."""

import glob
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from lanbot.core import jsonl
from lanbot.core.console import main_rank, say
from lanbot.core.errors import UserError

JSON = (".json", ".json.gz", ".json.zst")
KINDS = ((".parquet",), (".jsonl", ".jsonl.gz", ".jsonl.zst"), (".txt",), JSON)
EXTENSIONS = tuple(extension for kind in KINDS for extension in kind)
CHUNK_DOCUMENTS = 256
PIECE_CHARS = 100_000
"""A longer .txt file is read in pieces of this size, cut at line ends: each is a document."""
SAMPLES, SAMPLE_BYTES = 16, 4_096
"""Of a file, by which it is recognised."""
ENCODING_SAMPLE = 1 << 20


class Chunk(list[str]):
    """Documents; `bad` rows among them were left out, of which the first is `problem`."""

    bad = 0
    problem = ""

    def left_out(self, problems: list[str]) -> "Chunk":
        self.bad, self.problem = len(problems), problems[0] if problems else ""
        return self


Chunks = Callable[[int], Iterator[Chunk]]
"""The chunks of a file from the n-th on."""


def find(source: str) -> list[Path]:
    """The files of a path (file, folder or glob), sorted. Hidden ones in a folder (.x, ._x, below .x/) are left out.

    Of a folder, .json files count only if it has no others: most are about the data. Raises UserError if none is left.
    """
    path, hidden = Path(source), 0
    if path.is_dir():
        inside = [p for p in path.rglob("*") if p.name.endswith(EXTENSIONS) and p.is_file()]
        shown = [p for p in inside if not is_hidden(p.relative_to(path))]
        found, hidden = [p for p in shown if not p.name.endswith(JSON)] or shown, len(inside) - len(shown)
    elif path.is_file():
        found = [path]
    else:
        matches = [Path(p) for p in glob.glob(source, recursive=True)]
        found = [p for p in matches if p.is_file()]
        for folder in (p for p in matches if p.is_dir() and p.name.endswith(EXTENSIONS)):
            found += find(str(folder))
    if hidden and main_rank():
        say(f"{source}: {hidden:,} hidden {'file is' if hidden == 1 else 'files are'} left out")
    if not found:
        raise UserError(f"{source}: no text there", f"Name a file, folder or glob of {', '.join(EXTENSIONS)}.")
    return sorted(set(found))


def is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def sampled_digest(path: Path) -> str:
    """A file's size and a hash of pieces evenly spread over it: of a small file all of it."""
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with path.open("rb") as file:
            for i in range(SAMPLES):
                file.seek(max(0, size - SAMPLE_BYTES) * i // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    except OSError as error:
        raise jsonl.unreadable(path, error) from None
    return digest.hexdigest()


def reader(path: Path, skip_bad_rows: bool, column: str = "") -> Chunks:
    """column: of the text; found by its name if left out.

    Raises UserError for a kind of file that LanBot does not read, and where a file is broken when it is read.
    """
    if path.suffix == ".parquet":
        return lambda start: _parquet_chunks(path, start, skip_bad_rows, column)
    if path.name.endswith((*KINDS[1], *JSON)):
        return lambda start: islice(_jsonl_chunks(path, skip_bad_rows, column), start, None)
    if path.suffix == ".txt":
        return lambda start: islice(_txt_chunks(path), start, None)
    raise UserError(f"{path}: not a kind of file that LanBot reads", f"It reads {', '.join(EXTENSIONS)}.")


def text_column(names: Iterable[str], asked: str) -> str | None:
    """The column that was asked for; else "text", else the only one that is called Text, content or the like."""
    if asked or "text" in names:
        return (asked or "text") if (asked or "text") in names else None
    alike = [name for name in names if name.lower() in ("text", "content")]
    return alike[0] if len(alike) == 1 else None


def _parquet_chunks(path: Path, start: int, skip_bad_rows: bool, asked: str) -> Iterator[Chunk]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            name = text_column(names, asked)
            if name is None:
                problem = f"{path}: no column {asked or 'text'!r} (it has {', '.join(names) or 'none'})"
                raise UserError(problem, "Name the column of the text: base.data_column.")
            for group in range(start, file.num_row_groups):
                column = file.read_row_group(group, columns=[name])[name]
                if pa.types.is_dictionary(column.type):
                    column = column.cast(column.type.value_type)
                if column.type not in (pa.string(), pa.large_string(), pa.string_view()):
                    problem = f"{path}: its column {name!r} holds {column.type}, not text"
                    raise UserError(problem, "Name a column of strings: base.data_column.")
                yield _decoded(column, f"{path}, row group {group}", skip_bad_rows)
    except (ArrowException, OSError) as error:
        problem = f"{path}: cannot be read as parquet ({error})"
        raise UserError(problem, "Fetch the file again; if it is in LanBot's cache, delete it there.") from None


def _decoded(column: Any, where: str, skip_bad_rows: bool) -> Chunk:
    """The texts of a column without empty ones and nulls."""
    try:
        return Chunk(text for text in column.to_pylist() if text)
    except UnicodeDecodeError:
        pass
    chunk, problems = Chunk(), []
    for i, raw in enumerate(column.cast("large_binary").to_pylist()):
        try:
            if raw:
                chunk.append(raw.decode())
        except UnicodeDecodeError as error:
            problems.append(f"{where}, row {i}: not UTF-8 ({error})")
            if not skip_bad_rows:
                raise UserError(problems[0], jsonl.SKIP) from None
    return chunk.left_out(problems)


def _jsonl_chunks(path: Path, skip_bad_rows: bool, column: str) -> Iterator[Chunk]:
    broken: list[str] = []
    chunk = Chunk()
    name = column
    for place, row in jsonl.read_jsonl(path, broken if skip_bad_rows else None):
        text = None
        if isinstance(row, dict):
            name = name or text_column(row, "") or ""  # the first row's is that of all
            text = row.get(name)
        if not isinstance(text, str):
            there = isinstance(row, dict) and name in row
            what = f"no text in {name!r}" if there else f"no {name or 'text'!r} in the row"
            if not skip_bad_rows:
                remedy = 'A row is {"text": "..."}, or base.data_column names another key. ' + jsonl.SKIP
                raise UserError(f"{place}: {what}", remedy)
            broken.append(f"{place}: {what}")
        elif text:
            chunk.append(text)
        if len(chunk) == CHUNK_DOCUMENTS:
            yield chunk.left_out(broken)
            chunk = Chunk()
            broken.clear()
    if chunk or broken:
        yield chunk.left_out(broken)


def _txt_chunks(path: Path) -> Iterator[Chunk]:
    pieces = _txt_pieces(path)
    while chunk := Chunk(islice(pieces, CHUNK_DOCUMENTS)):
        yield chunk


def _txt_pieces(path: Path) -> Iterator[str]:
    piece: list[str] = []
    size = 0
    try:
        _check_encoding(path)
        with io.TextIOWrapper(jsonl.open_bytes(path), encoding="utf-8-sig", errors="replace", newline="\n") as file:
            for line in file:
                piece.append(line)
                size += len(line)
                if size >= PIECE_CHARS:
                    yield "".join(piece)
                    piece, size = [], 0
    except OSError as error:
        raise jsonl.unreadable(path, error) from None
    if "".join(piece).strip():
        yield "".join(piece)


def _check_encoding(path: Path) -> None:
    """A few broken characters are replaced; raises UserError if there are so many that it is another encoding."""
    with jsonl.open_bytes(path) as file:
        sample = file.read(ENCODING_SAMPLE)
    broken = sample.decode(errors="replace").count("\ufffd") - sample.count("\ufffd".encode())
    if broken > 10 and broken > len(sample) / 500:
        raise UserError(
            f"{path}: not UTF-8 ({broken:,} wrong characters at its start); Latin-1 or another encoding?",
            "Save it as UTF-8: iconv -f LATIN1 -t UTF-8 OLD > NEW.",
        )
