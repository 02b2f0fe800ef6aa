"""A corpus: a stream of documents in a seeded order that can be taken up again at any of them.

A corpus is a list of files, each a row of chunks, each a list of documents. Files come in an order drawn anew for
each epoch, documents in an order drawn anew for each chunk. Only one chunk is in memory at a time.
"""

import glob
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lanbot.console import say
from lanbot.data import hub, world
from lanbot.errors import UserError

HUB_CORPORA = {"HuggingFaceFW/fineweb-edu": "pretrain/mix_edu"}
"""Hub data set -> its folder in a mirror."""

EXTENSIONS = (".parquet", ".jsonl", ".jsonl.gz", ".txt")
CHUNK_DOCUMENTS = 256
PIECE_CHARS = 100_000
"""A longer .txt file is read in pieces of this size, cut at line ends: each is a document."""

Chunks = Callable[[int], Iterator[list[str]]]
"""The chunks of a file from the n-th on."""


@dataclass
class Position:
    """The next document: the k-th of the c-th chunk of the f-th file, in the order of this epoch."""

    epoch: int = 0
    file: int = 0
    chunk: int = 0
    document: int = 0


class Corpus:
    """files: (name, chunks) pairs. The order of documents depends on `seed` and nothing else; None: as they lie."""

    def __init__(self, files: list[tuple[str, Chunks]], seed: int | None) -> None:
        self.files, self.seed = files, seed

    def documents(self, position: Position) -> Iterator[str]:
        """Endless. `position` is moved along: after a document is yielded it stands on the next."""
        while True:
            order = list(range(len(self.files)))
            self._shuffle(order, f"{position.epoch}")
            whole, read = position == Position(position.epoch), 0
            while position.file < len(order):
                name, chunks = self.files[order[position.file]]
                for chunk in chunks(position.chunk):
                    self._shuffle(chunk, f"{position.epoch}/{name}/{position.chunk}")
                    while position.document < len(chunk):
                        position.document += 1
                        read += 1
                        yield chunk[position.document - 1]
                    position.chunk, position.document = position.chunk + 1, 0
                position.file, position.chunk, position.document = position.file + 1, 0, 0
            if whole and not read and order:
                raise UserError(f"{self.files[0][0]}: no text in it", "Check base.data: every document is empty.")
            position.epoch, position.file = position.epoch + 1, 0

    def _shuffle(self, items: list[Any], what: str) -> None:
        if self.seed is not None:
            random.Random(f"{self.seed}/{what}").shuffle(items)

    def once(self) -> Iterator[str]:
        """Every document of the corpus, once."""
        position = Position()
        for document in self.documents(position):
            if position.epoch:
                return
            yield document


def open_corpus(source: str, seed: int, skip_bad_rows: bool = False) -> tuple[Corpus, Corpus]:
    """(train, validation) of a source. Validation is the last file, or of a single file its last chunk.

    source: hf:OWNER/NAME, a path (file, folder or glob), or builtin:world.
    Raises UserError if there is nothing there, or no text in it.
    """
    if source.startswith("builtin:"):
        if source != "builtin:world":
            raise UserError(f"base.data = {source!r}: no such built-in corpus", "There is builtin:world.")
        return (
            Corpus([("train", _world_chunks("train"))], seed),
            Corpus([("test", _world_chunks("test"))], None),
        )
    paths = _paths(source)
    files: list[tuple[str, Chunks]] = [(path.name, _reader(path, skip_bad_rows)) for path in paths]
    if len(files) > 1:
        return Corpus(files[:-1], seed), Corpus(files[-1:], None)
    return _split(paths[0], files[0], seed)


def _split(path: Path, file: tuple[str, Chunks], seed: int) -> tuple[Corpus, Corpus]:
    """A single file: its last chunk is validation; a file of one chunk gives its last twentieth."""
    name, chunks = file
    count = sum(1 for _ in chunks(0))
    if count > 1:
        last = count - 1
        train: Chunks = lambda start: (c for i, c in enumerate(chunks(start), start) if i < last)  # noqa: E731
        return Corpus([(name, train)], seed), Corpus([(name, lambda start: chunks(last + start))], None)
    documents = next(chunks(0), [])
    held_out = max(1, len(documents) // 20)
    if len(documents) < 2:
        problem = "no text in it" if not documents else "one document only; none is left for validation"
        raise UserError(f"{path}: {problem}", "Give base.data more text, or a folder with a second file.")
    head, tail = documents[:-held_out], documents[-held_out:]
    return (
        Corpus([(name, lambda start: iter([list(head)][start:]))], seed),
        Corpus([(name, lambda start: iter([list(tail)][start:]))], None),
    )


def _paths(source: str) -> list[Path]:
    if source.startswith("hf:"):
        hub_id = source.removeprefix("hf:")
        path = hub.find(hub_id, HUB_CORPORA.get(hub_id, hub_id))
    else:
        path = Path(source)
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.name.endswith(EXTENSIONS)]
    elif path.is_file():
        found = [path]
    else:
        found = [Path(p) for p in glob.glob(source, recursive=True)]
    if not found:
        raise UserError(f"{source}: no text there", f"Name a file, folder or glob of {', '.join(EXTENSIONS)}.")
    return sorted(found)


# -- readers -----------------------------------------------------------------------------------------------


def _reader(path: Path, skip_bad_rows: bool) -> Chunks:
    if path.suffix == ".parquet":
        return lambda start: _parquet_chunks(path, start)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return lambda start: _skip(_grouped(_jsonl_texts(path, skip_bad_rows)), start)
    if path.suffix == ".txt":
        return lambda start: _skip(_grouped(_txt_pieces(path)), start)
    raise UserError(f"{path}: not a kind of file that LanBot reads", f"It reads {', '.join(EXTENSIONS)}.")


def _parquet_chunks(path: Path, start: int) -> Iterator[list[str]]:
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "text" not in names:
                raise UserError(f"{path}: no column 'text' (it has {', '.join(names)})", "Rename the text's column.")
            for group in range(start, file.num_row_groups):
                texts = file.read_row_group(group, columns=["text"])["text"].to_pylist()
                if not all(text is None or isinstance(text, str) for text in texts):
                    raise UserError(f"{path}: its column 'text' holds no text", "Name a column of strings 'text'.")
                yield [text for text in texts if text]
    except (ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as parquet ({error})", "Fetch the file again.") from None


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


def _world_chunks(split: str, documents: int = 1 << 20) -> Chunks:
    """The built-in world: a million documents of each split, made as they are read."""

    def chunks(start: int) -> Iterator[list[str]]:
        for first in range(start * CHUNK_DOCUMENTS, documents, CHUNK_DOCUMENTS):
            yield [world.document(split, i) for i in range(first, first + CHUNK_DOCUMENTS)]

    return chunks
