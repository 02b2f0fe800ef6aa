"""The kinds of text file, each read in chunks of documents, from any chunk on."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from lanbot.core import jsonl
from lanbot.core.errors import UserError

KINDS = ((".parquet",), (".jsonl", ".jsonl.gz", ".jsonl.zst"), (".txt",))
EXTENSIONS = tuple(extension for kind in KINDS for extension in kind)
CHUNK_DOCUMENTS = 256
PIECE_CHARS = 100_000
"""A longer .txt file is read in pieces of this size, cut at line ends: each is a document."""


class Chunk(list[str]):
    """Documents; `bad` rows that stood among them were left out, of which the first is `problem`."""

    bad = 0
    problem = ""

    def left_out(self, problems: list[str]) -> "Chunk":
        self.bad, self.problem = len(problems), problems[0] if problems else ""
        return self


Chunks = Callable[[int], Iterator[Chunk]]
"""The chunks of a file from the n-th on."""


def reader(path: Path, skip_bad_rows: bool) -> Chunks:
    """Raises UserError for a kind of file that LanBot does not read, and where a file is broken when it is read."""
    if path.suffix == ".parquet":
        return lambda start: _parquet_chunks(path, start, skip_bad_rows)
    if path.name.endswith(KINDS[1]):
        return lambda start: islice(_jsonl_chunks(path, skip_bad_rows), start, None)
    if path.suffix == ".txt":
        return lambda start: islice(_grouped(_txt_pieces(path)), start, None)
    raise UserError(f"{path}: not a kind of file that LanBot reads", f"It reads {', '.join(EXTENSIONS)}.")


def _parquet_chunks(path: Path, start: int, skip_bad_rows: bool) -> Iterator[Chunk]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "text" not in names:
                raise UserError(f"{path}: no column 'text' (it has {', '.join(names)})", "Rename the text's column.")
            for group in range(start, file.num_row_groups):
                column = file.read_row_group(group, columns=["text"])["text"]
                if not column.type.equals(pa.string()) and not column.type.equals(pa.large_string()):
                    problem = f"{path}: its column 'text' holds no text but {column.type}"
                    raise UserError(problem, "Name a column of strings 'text'.")
                yield _decoded(column, f"{path}, row group {group}", skip_bad_rows)
    except (ArrowException, OSError) as error:
        problem = f"{path}: cannot be read as parquet ({error})"
        raise UserError(problem, "Fetch the file again; one in LanBot's cache is, once it is deleted.") from None


def _decoded(column: Any, where: str, skip_bad_rows: bool) -> Chunk:
    """The texts of a column; where there is none, or an empty one, it is passed over."""
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
                raise UserError(problems[0], "Mend the row. " + jsonl.SKIP) from None
    return chunk.left_out(problems)


def _jsonl_chunks(path: Path, skip_bad_rows: bool) -> Iterator[Chunk]:
    broken: list[str] = []
    chunk = Chunk()
    for number, row in jsonl.read_jsonl(path, broken if skip_bad_rows else None):
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(text, str):
            problem = f"{path}, line {number}: no 'text' in the row"
            if not skip_bad_rows:
                raise UserError(problem, 'A row is {"text": "..."}. ' + jsonl.SKIP)
            broken.append(problem)
        elif text:
            chunk.append(text)
        if len(chunk) == CHUNK_DOCUMENTS:
            yield chunk.left_out(broken)
            chunk = Chunk()
            broken.clear()
    if chunk or broken:
        yield chunk.left_out(broken)


def _txt_pieces(path: Path) -> Iterator[str]:
    piece: list[str] = []
    size = 0
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            for line in file:
                piece.append(line)
                size += len(line)
                if size >= PIECE_CHARS:
                    yield "".join(piece)
                    piece, size = [], 0
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})", "Check the file.") from None
    if "".join(piece).strip():
        yield "".join(piece)


def _grouped(texts: Iterator[str]) -> Iterator[Chunk]:
    while chunk := Chunk(islice(texts, CHUNK_DOCUMENTS)):
        yield chunk
