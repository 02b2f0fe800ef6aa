"""Contamination: items of evaluation tasks whose question is in the data that a recipe trains on.

An item counts if any N words of its question in a row are in the training data (as Brown et al. 2020 measure it).
Words are runs of letters and digits in lower case: spaces, punctuation and layout do not matter.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from time import monotonic
from typing import Any

import numpy as np

from lanbot.chat.messages import spoken
from lanbot.config.recipe import Recipe
from lanbot.core.console import duration, say, table, track
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.data.corpus import open_corpus
from lanbot.tasks.mixture import Mixture
from lanbot.tasks.registry import find_task, make_task
from lanbot.tasks.task import Task, TaskContext

N = 13
COMMON = 5
"""What stands in more items of a task than this is no item's own: instructions, usual choices, shared passages."""
BASE_CHARS = 100_000_000
"""As much of the base corpus is looked through, unless told otherwise: some ten seconds on one core."""
CHARS_A_TOKEN = 6
"""No tokenizer of ours gets more of a corpus into a token: what base cannot have read is not looked through."""
FILE = "contamination.json"

BATCH_CHARS = 1 << 22
END = "\0"
"""Between texts: no n words in a row reach over it."""
_WORD = re.compile(r"[^\W_]+|\0")
_CHOICE = re.compile(r"^- (.*) = ([A-J])$", re.MULTILINE)
"""A choice as multiple_choice writes it."""

Found = dict[str, Any]
"""plan: what was checked, as `plan` says it. words: of each part of the training data, how many were looked through.
tasks: {task: {items: how many were checked, contaminated: their rows, sources: {part of the training data: {items: how
many of them are there, example: {item: a row, words: n words of it}}}}}."""


def real(tasks: Iterable[str]) -> list[str]:
    """Those of the tasks whose rows LanBot does not make itself."""
    return [task for task in tasks if find_task(task)[0].real]


def plan(recipe: Recipe, tasks: Sequence[str], base_chars: int | None = None) -> dict[str, Any]:
    """What `check` looks at, as JSON: as long as it stays the same, so does what is found.

    recipe: resolved. base_chars: of the base corpus; as many as base reads, at most BASE_CHARS, if left out.
    """
    base = recipe.base
    if base_chars is None:
        base_chars = min(BASE_CHARS, CHARS_A_TOKEN * (base.tokens or 0))
    if base.data.startswith("builtin:"):
        base_chars = 0
    training = [
        [phase, part.task, part.rows, part.skip_bad_rows]
        for phase in ("mid", "sft", "rl")
        for part in getattr(recipe, phase).mixture
        if real([part.task])
    ]
    corpus = [base.data, base_chars, base.skip_bad_rows] if base_chars else []
    return {
        "n": N,
        "common": COMMON,
        "seed": recipe.seed,
        "tasks": real(tasks),
        "training": training,
        "base": corpus,
    }


def check(recipe: Recipe, tasks: Sequence[str], base_chars: int | None = None, options: Options | None = None) -> Found:
    """Looks for the items of `tasks` (those that are real) in all that the recipe trains on.

    Parts of mixtures that LanBot makes itself are passed over. Takes a resolved recipe; raises UserError.
    """
    options = options or Options.from_environment()
    began, planned = monotonic(), plan(recipe, tasks, base_chars)
    names: list[str] = planned["tasks"]
    evaluated = [make_task(name, "test", TaskContext(recipe.identity, options=options)) for name in names]
    owners, texts = [], []  # of each item: its (number of the task, row), its texts
    for k, task in enumerate(evaluated):
        for row in track(range(len(task)), f"contamination: reading {names[k]}", len(task)):
            if (asked := question(task, row)) is not None:
                owners.append((k, row))
                texts.append(asked)
    index = Index(texts, [k for k, _ in owners])
    found: dict[str, dict[int, str]] = {}
    read: dict[str, int] = {}
    for source, said in (*_conversations(recipe, options), ("base", _corpus(recipe, planned["base"], options))):
        for batch in _batches(said):
            words, hits = index.find(batch)
            read[source] = read.get(source, 0) + words
            found[source] = hits | found.get(source, {})
    seconds, words = monotonic() - began, sum(read.values())
    say(f"contamination: {words:,} words in {duration(seconds)}, {words / max(seconds, 1e-9):,.0f} words/s")
    return {
        "plan": planned,
        "words": read,
        "tasks": {name: _of_task(k, owners, found) for k, name in enumerate(names)},
    }


def _of_task(k: int, owners: Sequence[tuple[int, int]], found: dict[str, dict[int, str]]) -> dict[str, Any]:
    rows: set[int] = set()
    sources = {}
    for source, hits in found.items():
        here = {owners[item][1]: words for item, words in sorted(hits.items()) if owners[item][0] == k}
        if here:
            row, words = next(iter(here.items()))
            sources[source] = {"items": len(here), "example": {"item": row, "words": words}}
            rows |= set(here)
    return {"items": sum(of == k for of, _ in owners), "contaminated": sorted(rows), "sources": sources}


def found_in(task: dict[str, Any]) -> str:
    """mid smoltalk 12, base 3"""
    return ", ".join(f"{source} {hits['items']:,}" for source, hits in task["sources"].items())


def summary(found: Found) -> str:
    """A table of what `check` found, with an example for each part of the training data that has some."""
    rows = [
        (name, found_in(task), f"{task['items']:,}", f"{len(task['contaminated']):,}")
        for name, task in found["tasks"].items()
    ]
    lines = [table(rows, ("task", "found in", "items", "contaminated"), left=2)]
    for name, task in found["tasks"].items():
        for source, hits in task["sources"].items():
            example = hits["example"]
            lines.append(f'{name}, item {example["item"]:,}, in {source}: "{example["words"]}"')
    return "\n".join(lines)


# -- texts -------------------------------------------------------------------------------------------------


def question(task: Task, row: int) -> list[str] | None:
    """The user's messages of an item; None if the row is broken.

    Choices follow the question, but only so many words of them that every n-gram begins in the question: "I and II
    only, I and III only" is no item's own. The reference answer is left out: "#### 42" is in every data set.
    """
    try:
        messages = task.conversation(row)["messages"][:-1]
    except UserError:
        return None  # an evaluation that asks it says so
    asked = []
    for said in (spoken(message) for message in messages if message["role"] == "user"):
        if task.kind == "choice" and (choices := _CHOICE.search(said)):
            few = _WORD.findall(_usual(said[choices.start() :], task))[: N - 1]
            said = said[: choices.start()] + " ".join(few)
        asked.append(said)
    return asked


def _usual(said: str, task: Task) -> str:
    """Multiple choice as others write it: "A. ice" for "- ice = A", and no instruction. A short question is found in
    foreign data only with its choices."""
    if task.kind != "choice":
        return said
    return _CHOICE.sub(r"\2. \1", said).removesuffix("Answer with the letter.")


def _conversations(recipe: Recipe, options: Options) -> Iterator[tuple[str, Iterator[str]]]:
    """("mid smoltalk", every message that this phase learns from or is asked), ..."""
    for phase in ("mid", "sft", "rl"):
        parts = getattr(recipe, phase).mixture
        if not real(part.task for part in parts):
            continue
        mixture = Mixture(parts, recipe.identity, None, recipe.seed, options=options)
        for k, part in enumerate(parts):
            if mixture.tasks[k].real:
                rows = np.unique(mixture.rows[mixture.which == k])
                yield f"{phase} {part.task}", _messages(mixture.tasks[k], rows, part.skip_bad_rows, phase)


def _messages(task: Task, rows: np.ndarray, skip_bad_rows: bool, phase: str) -> Iterator[str]:
    name = type(task).__name__
    for row in track(rows.tolist(), f"contamination: {phase}, {name}", len(rows), "rows"):
        try:
            messages = task.conversation(row)["messages"]
        except UserError:
            if not skip_bad_rows:
                raise
            continue
        read = messages[:-1] if phase == "rl" else messages  # rl asks and rewards: the reference is not shown
        yield from (_usual(spoken(message), task) for message in read)


def _corpus(recipe: Recipe, planned: Sequence[Any], options: Options) -> Iterator[str]:
    """The base corpus's documents in the order in which base reads them, cut off after so many characters."""
    if not planned:
        return
    data, left, skip_bad_rows = planned
    corpus, _ = open_corpus(data, recipe.seed, skip_bad_rows, options, recipe.base.data_column)
    pieces = _first(corpus.once(), left)
    yield from track(pieces, "contamination: base", left, "characters", len)


def _first(documents: Iterator[str], chars: int) -> Iterator[str]:
    for document in documents:
        yield document[:chars]
        if (chars := chars - len(document)) <= 0:
            return


def _batches(texts: Iterable[str]) -> Iterator[str]:
    """Texts joined by END to some megabytes: numpy's calls cost little then."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARS:
            yield END.join(batch)
            batch, size = [], 0
    if batch:
        yield END.join(batch)


# -- n-grams -----------------------------------------------------------------------------------------------


class Index:
    """The n-grams of items, each a list of texts. An item of fewer than N words is one n-gram of all of them.

    tasks: of each item the number of its task.
    """

    def __init__(self, items: Sequence[Sequence[str]], tasks: Sequence[int]) -> None:
        self.numbers = {END: 0}
        """Of the words that items have, from 1; other words count as 0, which no n-gram holds."""
        of_length: dict[int, tuple[list[int], list[int]]] = {}
        for item, texts in enumerate(items):
            cut = [[word for word in _WORD.findall(text.lower()) if word != END] for text in texts]
            long = [words for words in cut if len(words) >= N] or [max(cut, key=len, default=[])]
            for words in long:
                if words:
                    ids, owners = of_length.setdefault(min(N, len(words)), ([], []))
                    ids += [*(self.numbers.setdefault(word, len(self.numbers)) for word in words), 0]
                    owners += [item] * (len(words) + 1)
        self.words = list(self.numbers)
        self.grams = [
            Grams.of(n, np.array(ids, np.int32), np.array(owners), np.array(tasks))
            for n, (ids, owners) in of_length.items()
        ]

    def find(self, texts: str) -> tuple[int, dict[int, str]]:
        """How many words the texts (joined by END) have, and the items of which an n-gram is there, with the first."""
        cut = _WORD.findall(texts.lower())
        ids = np.fromiter(map(self.numbers.get, cut, repeat(0)), np.int32, len(cut))
        found: dict[int, str] = {}
        for grams in self.grams:
            which = grams.find(ids)
            items, first = np.unique(grams.items[which], return_index=True)
            for item, k in zip(items.tolist(), which[first], strict=True):
                found.setdefault(item, " ".join(self.words[number] for number in grams.ids[k]))
        return len(cut) - cut.count(END), found


@dataclass
class Grams:
    """All n-grams of one n: `ids` [grams, n], the item of each, sorted by their `hashes`.

    maybe: for the highest FILTER bits of a hash, whether one of them begins so: nearly all of a text ends there.
    """

    n: int
    ids: np.ndarray
    items: np.ndarray
    hashes: np.ndarray
    maybe: np.ndarray

    @classmethod
    def of(cls, n: int, ids: np.ndarray, owners: np.ndarray, tasks: np.ndarray) -> "Grams":
        """ids: of texts' words, a 0 after each text. owners: of each word the item. tasks: of each item the task."""
        windows = np.lib.stride_tricks.sliding_window_view(ids, n)
        zeros = np.concatenate([[0], np.cumsum(ids == 0)])
        starts = np.flatnonzero(zeros[n:] == zeros[:-n])
        hashes = rolling(ids, n)[starts]
        starts, hashes = starts[order := np.argsort(hashes, kind="stable")], hashes[order]
        grams, items = windows[starts], owners[starts]
        new = np.ones(len(starts), dtype=bool)  # another n-gram than the one before
        same_hash = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
        new[same_hash] = (grams[same_hash] != grams[same_hash - 1]).any(axis=1)
        once = new.copy()  # not the same n-gram of the same item again
        once[1:] |= items[1:] != items[:-1]
        key = (np.cumsum(new) * (tasks.max() + 1) + tasks[items])[once]
        _, which, counts = np.unique(key, return_inverse=True, return_counts=True)
        kept = np.flatnonzero(once)[counts[which] <= COMMON]
        maybe = np.zeros(1 << FILTER, dtype=bool)
        maybe[hashes[kept] >> (64 - FILTER)] = True
        return cls(n, grams[kept], items[kept], hashes[kept], maybe)

    def find(self, ids: np.ndarray) -> np.ndarray:
        """The numbers of the n-grams that are in a text, in its order; one that is there twice comes twice."""
        hashes = rolling(ids, self.n)
        at = np.flatnonzero(self.maybe[hashes >> (64 - FILTER)])
        first = np.searchsorted(self.hashes, hashes[at], "left")
        count = np.searchsorted(self.hashes, hashes[at], "right") - first
        at, first = np.repeat(at, count), np.repeat(first - np.cumsum(count) + count, count)
        which = first + np.arange(len(first))
        same = (self.ids[which] == ids[at[:, None] + np.arange(self.n)]).all(axis=1)  # hashes may collide, words not
        return which[same]


FILTER = 24
_FACTOR = 0x9E3779B97F4A7C15
"""Odd, so that it has an inverse mod 2^64."""


def rolling(ids: np.ndarray, n: int) -> np.ndarray:
    """A hash of every n ids in a row, [len(ids) - n + 1]: the sum of ids[i + k] x _FACTOR^k mod 2^64, for any n in one
    pass, as a difference of two sums from the beginning."""
    windows = max(0, len(ids) - n + 1)
    powers = np.cumprod(np.full(len(ids), _FACTOR, dtype=np.uint64))
    inverse = np.cumprod(np.full(windows, pow(_FACTOR, -1, 1 << 64), dtype=np.uint64))
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(ids.astype(np.uint64) * powers)])
    return (sums[n:] - sums[:-n]) * inverse
