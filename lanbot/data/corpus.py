"""A corpus: an endless stream of documents in a seeded order, resumable at any document.

A corpus is a list of files, each a sequence of chunks, each a list of documents. Files are shuffled in each epoch,
documents within their chunk. One chunk is in memory at a time. Files of the hub are downloaded when they are read, and
a few ahead.
"""

import hashlib
import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from lanbot.core.console import main_rank, say
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.data import download, hub
from lanbot.data.download import Remote
from lanbot.data.file_formats import (
    CHUNK_DOCUMENTS,
    EXTENSIONS,
    KINDS,
    Chunk,
    Chunks,
    find,
    is_hidden,
    reader,
    sampled_digest,
)
from lanbot.data.hub import Source
from lanbot.synthetic import world

HUB_CORPORA = {
    # 100B tokens of it, shuffled, in 1,823 shards: shard_00000.parquet to shard_01822.parquet, which is validation
    "HuggingFaceFW/fineweb-edu": Source(
        "karpathy/fineweb-edu-100b-shuffle", "shard_*.parquet", "pretrain/mix_edu", "odc-by"
    ),
    # unverified: written without access to the hub
    "karpathy/climbmix-400b-shuffle": Source(
        "karpathy/climbmix-400b-shuffle", "shard_*.parquet", "karpathy/climbmix-400b-shuffle"
    ),
}
"""Data sets whose files we know, or that another data set has in a better order."""

TRAIN = re.compile(r"(^|[/._-])train[/._-]")
"""In the name of a file of the train split."""
HELD_OUT = re.compile(
    r"(^|/)(W)([._-][^/]*)?(/|$)|[._-](W)(\.\w+)*$".replace("W", "validation|valid|val|dev|test|eval"), re.I
)
"""In the name of a file, or of its folder, of a split that is never trained on."""
VALIDATION = re.compile("val|dev", re.I)
"""What is validated on, of those."""


@dataclass
class Position:
    """The next document: file, chunk and document number in the order of this epoch."""

    epoch: int = 0
    file: int = 0
    chunk: int = 0
    document: int = 0
    bad: int = 0
    """Bad rows skipped so far."""


class Corpus:
    """files: (name, chunks) pairs. The order of documents depends on `seed` alone; None: the order of the files.

    on_open: called with the numbers of the file that is opened and of those that come next.
    digests: of the contents, where they are known.
    """

    def __init__(
        self,
        files: list[tuple[str, Chunks]],
        seed: int | None,
        on_open: Callable[[Sequence[int]], None] = lambda files: None,
        digests: Callable[[], Sequence[str]] = list,
    ) -> None:
        self.files, self.seed, self.on_open, self.digests = files, seed, on_open, digests
        self.warned = not main_rank()

    @cached_property
    def fingerprint(self) -> str:
        """Of names and contents: other files have another order, or other documents."""
        content = "\n".join([*(name for name, _ in self.files), *self.digests()])
        return f"{len(self.files)} files ({hashlib.sha256(content.encode()).hexdigest()[:8]})"

    def documents(self, position: Position) -> Iterator[str]:
        """Endless. `position` is advanced: after a document is yielded it is that of the next."""
        reach = 1  # doubled with each file: who reads little downloads little
        while True:
            order = list(range(len(self.files)))
            self._shuffle(order, f"{position.epoch}")
            whole, read = position == Position(position.epoch, bad=position.bad), 0
            while position.file < len(order):
                self.on_open(order[position.file : position.file + 1 + reach])
                reach = min(2 * reach, download.PARALLEL)
                name, chunks = self.files[order[position.file]]
                for chunk in chunks(position.chunk):
                    if position.document == 0:  # otherwise it was counted before the stop
                        position.bad += chunk.bad
                        self._warn(chunk)
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

    def _warn(self, chunk: Chunk) -> None:
        if chunk.bad and not self.warned:
            self.warned = True
            say(f"{chunk.problem}: skipped, as are all such rows of the corpus; the log counts them")

    def once(self) -> Iterator[str]:
        """Every document of the corpus, once."""
        position = Position()
        for document in self.documents(position):
            if position.epoch:
                return
            yield document


def open_corpus(
    source: str, seed: int, skip_bad_rows: bool = False, options: Options | None = None, column: str = ""
) -> tuple[Corpus, Corpus]:
    """(train, validation) of a source. Validation is the files of a split of that name (HELD_OUT); else the last file,
    or the last chunk of a single one. column: of the text; found by its name if left out.

    source: hf:OWNER/NAME, hf:OWNER/NAME/FOLDER (either may end in @REVISION), a path (file, folder or glob), or
    builtin:world. Of the hub only the listing is downloaded here, unless it is a single file.
    Raises UserError if there is no text.
    """
    if source.startswith("builtin:"):
        if source != "builtin:world":
            raise UserError(f"base.data = {source!r}: no such built-in corpus", "There is builtin:world.")
        return Corpus([("train", _world_chunks("train"))], seed), Corpus([("test", _world_chunks("test"))], None)
    options = options or Options.from_environment()
    if source.startswith("hf:") and options.mirror:
        hub_id, known, inside = _hub_source(source)
        source = str(hub.find(hub_id, known.mirror if known else "/".join([hub_id, *inside]), options.mirror))
    remotes: list[Remote] = []
    if source.startswith("hf:"):
        listed = _hub_files(source, options)
        names, remotes = [PurePath(name) for name in listed], list(listed.values())
        paths = [remote.path for remote in remotes]
    else:
        paths = find(source)
        base = source if Path(source).is_dir() else os.path.commonpath([path.parent for path in paths])
        names = [path.relative_to(base) for path in paths]
    train, validation = _splits(source, names)

    def file(i: int) -> tuple[str, Chunks]:
        read = reader(paths[i], skip_bad_rows, column)

        def chunks(start: int) -> Iterator[Chunk]:
            download.get(remotes[i : i + 1], options)
            return read(start)

        return paths[i].name, chunks

    def digests() -> list[str]:
        return [remotes[i].digest if remotes else sampled_digest(paths[i]) for i in train]

    if not validation:
        return _split(paths[train[0]], file(train[0]), seed, digests)

    def ahead(numbers: Sequence[int]) -> None:
        download.ahead([remotes[train[n]] for n in numbers if remotes], options)

    return Corpus([file(i) for i in train], seed, ahead, digests), Corpus([file(i) for i in validation], None)


def _splits(source: str, names: Sequence[PurePath]) -> tuple[list[int], list[int]]:
    """The numbers of the files to train on and to validate on; of a single one nothing is held out here."""
    held_out = [i for i, name in enumerate(names) if HELD_OUT.search(str(name)) and not TRAIN.search(str(name))]
    if len(names) == 1 or not held_out:
        last = len(names) - 1
        return list(range(max(1, last))), [last] if last else []
    train = [i for i in range(len(names)) if i not in held_out]
    if not train:
        some = ", ".join(str(names[i]) for i in held_out[:3])
        raise UserError(f"{source}: only files of held-out splits ({some})", "To train on one, name that file alone.")
    validation = [i for i in held_out if VALIDATION.search(str(names[i]))] or held_out
    if main_rank():
        others = len(held_out) - len(validation)
        say(
            f"{source}: validation is {', '.join(str(names[i]) for i in validation[:3])}"
            f"{f' and {len(validation) - 3:,} more' if len(validation) > 3 else ''}, by the name"
            f"{f'; {others:,} more held-out files are not read' if others else ''}"
        )
    return train, validation


def _split(
    path: Path, file: tuple[str, Chunks], seed: int, digests: Callable[[], Sequence[str]]
) -> tuple[Corpus, Corpus]:
    """A single file: its last chunk is validation; of a file of one chunk its last twentieth."""
    name, chunks = file
    count = sum(1 for _ in chunks(0))
    if count > 1:
        last = count - 1
        train: Chunks = lambda start: (c for i, c in enumerate(chunks(start), start) if i < last)  # noqa: E731
        return Corpus([(name, train)], seed, digests=digests), Corpus([(name, lambda i: chunks(last + i))], None)
    documents = next(chunks(0), Chunk())
    held_out = max(1, len(documents) // 20)
    if len(documents) < 2:
        problem = "no text in it" if not documents else "one document only, none for validation"
        raise UserError(f"{path}: {problem}", "Give base.data more text, or a folder with a second file.")
    head, tail = Chunk(documents[:-held_out]), Chunk(documents[-held_out:])
    head.bad, head.problem = documents.bad, documents.problem
    return (  # copies, as the corpus shuffles the chunk that it gets
        Corpus([(name, lambda start: iter([copy(head)][start:]))], seed, digests=digests),
        Corpus([(name, lambda start: iter([tail][start:]))], None),
    )


def _hub_source(source: str) -> tuple[str, Source | None, list[str]]:
    """(OWNER/NAME, its entry in HUB_CORPORA, FOLDER) of hf:OWNER/NAME/FOLDER."""
    owner, *rest = source.removeprefix("hf:").partition("@")[0].strip("/").split("/")
    hub_id, inside = "/".join([owner, *rest[:1]]), rest[1:]
    return hub_id, None if inside else HUB_CORPORA.get(hub_id), inside


def _hub_files(source: str, options: Options) -> dict[str, Remote]:
    """The files of a hub data set that are read, by path: those of its train split and of held-out ones if names
    say so, else all; of the first kind in KINDS that it has, for several are mostly the same text in several forms."""
    hub_id, known, inside = _hub_source(source)
    revision = source.partition("@")[2]
    listed = hub.listing((known.id if known else hub_id) + (f"@{revision}" if revision else ""), options)
    if known:
        names = [name for name in listed if fnmatchcase(name, known.path)]
    else:
        folder = "/".join(inside)
        here = [name for name in listed if not folder or name == folder or name.startswith(folder + "/")]
        here = [name for name in here if not is_hidden(Path(name))]
        of_kind = ([name for name in here if name.endswith(kind)] for kind in KINDS)
        names = next((found for found in of_kind if found), [])
        if any(TRAIN.search(name) for name in names):
            names = [name for name in names if TRAIN.search(name) or HELD_OUT.search(name)]
    if not names:
        raise UserError(f"{source}: no {', '.join(EXTENSIONS)} there", hub.holds(listed))
    return {name: listed[name] for name in names}


def _world_chunks(split: str) -> Chunks:
    """The built-in world: a million documents of each split, generated as they are read."""

    def chunks(start: int) -> Iterator[Chunk]:
        for first in range(start * CHUNK_DOCUMENTS, 1 << 20, CHUNK_DOCUMENTS):
            yield Chunk(world.document(split, i) for i in range(first, first + CHUNK_DOCUMENTS))

    return chunks
