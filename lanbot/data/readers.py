"""The kinds of text file, each read in chunks of documents, from any chunk on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lanbot.console import say
from lanbot.data import hub
from lanbot.errors import UserError

KINDS = ((".parquet",), (".jsonl", ".jsonl.gz", ".jsonl.zst"), (".txt",))
EXTENSIONS = tuple(extension for kind in KINDS for extension in kind)
CHUNK_DOCUMENTS = 256
PIECE_CHARS = 100_000
"""A longer .txt file is read in pieces of this size, cut at line ends: each is a document."""

Chunks = Callable[[int], Iterator[list[str]]]
"""The chunks of a file from the n-th on."""


def reader(path: Path, skip_bad_rows: bool) -> Chunks:
    """Raises UserError for a kind of file that LanBot does not read, and where a file is broken when it is read."""
    if path.suffix == ".parquet":
        return lambda start: _parquet_chunks(path, start, skip_bad_rows)
    if path.name.endswith(KINDS[1]):
        return lambda start: _skip(_grouped(_jsonl_texts(path, skip_bad_rows)), start)
    if path.suffix == ".txt":
        return lambda start: _skip(_grouped(_txt_pieces(path)), start)
    raise UserError(f"{path}: not a kind of file that LanBot reads", f"It reads {', '.join(EXTENSIONS)}.")


def _parquet_chunks(path: Path, start: int, skip_bad_rows: bool) -> Iterator[list[str]]:
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "text" not in names:
                raise UserError(f"{path}: no column 'text' (it has {', '.join(names)})", "Rename the text's column.")
            for group in range(start, file.num_row_groups):
                column = file.read_row_group(group, columns=["text"])["text"]
                try:
                    texts = column.to_pylist()
                except UnicodeDecodeError:
                    texts = _decoded(column, f"{path}, row group {group}", skip_bad_rows)
                if not all(text is None or isinstance(text, str) for text in texts):
                    problem = f"{path}: its column 'text' holds no text but {column.type}"
                    raise UserError(problem, "Name a column of strings 'text'.")
                yield [text for text in texts if text]
    except (ArrowException, OSError) as error:
        problem = f"{path}: cannot be read as parquet ({error})"
        raise UserError(problem, "Fetch the file again; one in LanBot's cache is, once it is deleted.") from None


def _decoded(column: Any, where: str, skip_bad_rows: bool) -> list[str | None]:
    """The texts of a column of which some are no UTF-8."""
    texts: list[str | None] = []
    broken = 0
    for i, raw in enumerate(column.cast("large_binary").to_pylist()):
        try:
            texts.append(raw and raw.decode())
        except UnicodeDecodeError as error:
            broken += 1
            if not skip_bad_rows:
                raise UserError(f"{where}, row {i}: not UTF-8 ({error})", "Mend the row. " + hub.SKIP) from None
    say(f"{where}: {broken:,} rows skipped that are not UTF-8")
    return texts


def _jsonl_texts(path: Path, skip_bad_rows: bool) -> Iterator[str]:
    broken: list[str] = []
    for number, row in hub.read_jsonl(path, broken if skip_bad_rows else None):
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(text, str):
            problem = f"{path}, line {number}: no 'text' in the row"
            if not skip_bad_rows:
                raise UserError(problem, 'A row is {"text": "..."}. ' + hub.SKIP)
            broken.append(problem)
        elif text:
            yield text
    if broken:
        say(f"{path}: {len(broken):,} broken rows skipped; first: {broken[0]}")


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


def _grouped(texts: Iterator[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    for text in texts:
        chunk.append(text)
        if len(chunk) == CHUNK_DOCUMENTS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _skip(chunks: Iterator[Any], start: int) -> Iterator[Any]:
    for i, chunk in enumerate(chunks):
        if i >= start:
            yield chunk
