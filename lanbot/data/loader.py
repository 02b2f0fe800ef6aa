"""The loaders: batches for a phase, in an order that depends on the seed alone, resumable at any step.

A loader gives the batch of all ranks; each rank takes its rows (training/trainer.py). So the state of a loader is
the same on every rank, and a run goes on exactly at any world size.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from lanbot.data.corpus import Corpus, Position
from lanbot.data.packing import Batch, best_fit, make_batch, pack_stream
from lanbot.tokenizer import Tokenizer

Rendered = tuple[list[int], list[int]]
"""A conversation as tokens and, for each, 1 where the loss counts it."""

BUFFER = 128
"""Conversations among which best-fit packing chooses."""


class Loader(Protocol):
    def next_batch(self) -> Batch | None:
        """The next batch, None when the phase is over."""

    def progress(self) -> float:
        """The fraction of the phase that is behind, 0 to 1."""

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs, as JSON."""

    def load_state(self, state: dict[str, Any]) -> None: ...

    def notes(self) -> dict[str, int]:
        """Counts worth telling: truncated, dropped."""


class TextLoader:
    """`steps` batches of `rows` x T tokens from a corpus."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, rows: int, T: int, steps: int) -> None:
        self.corpus, self.tokenizer, self.rows, self.T, self.steps = corpus, tokenizer, rows, T, steps
        self.load_state({"step": 0, "position": {}, "left_over": []})

    def load_state(self, state: dict[str, Any]) -> None:
        self.step: int = state["step"]
        self.position = Position(**state["position"])
        self.left_over: list[int] = list(state["left_over"])
        self.stream = self._encoded()

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "position": vars(self.position).copy(), "left_over": list(self.left_over)}

    def progress(self) -> float:
        return self.step / self.steps

    def notes(self) -> dict[str, int]:
        return {"epochs": self.position.epoch}

    def next_batch(self) -> Batch | None:
        if self.step >= self.steps:
            return None
        tokens = pack_stream(self.stream, self.rows, self.T, self.left_over)
        assert tokens is not None, "a corpus is endless"
        self.step += 1
        return make_batch(tokens, np.ones(tokens.shape, np.float32), self.tokenizer.bos)

    def _encoded(self) -> Iterator[list[int]]:
        for document in self.corpus.documents(self.position):
            yield [self.tokenizer.bos, *self.tokenizer.encode(document)]


class ChatLoader:
    """All of `conversations`, each whole in one row, packed by best fit; what no conversation fills is padding.

    One longer than a row is truncated; one that has no token under loss (left) is dropped; both are counted.
    """

    def __init__(self, conversations: Sequence[Rendered], bos: int, rows: int, T: int) -> None:
        self.conversations, self.bos, self.rows, self.T = conversations, bos, rows, T
        self.load_state({"next": 0, "buffer": [], "truncated": 0, "dropped": 0})

    def load_state(self, state: dict[str, Any]) -> None:
        self.next: int = state["next"]
        self.truncated: int = state["truncated"]
        self.dropped: int = state["dropped"]
        self.buffer: list[tuple[int, Rendered]] = [(i, self._cut(*self.conversations[i])) for i in state["buffer"]]

    def state(self) -> dict[str, Any]:
        buffer = [i for i, _ in self.buffer]
        return {"next": self.next, "buffer": buffer, "truncated": self.truncated, "dropped": self.dropped}

    def progress(self) -> float:
        return (self.next - len(self.buffer)) / max(1, len(self.conversations))

    def notes(self) -> dict[str, int]:
        return {"truncated": self.truncated, "dropped": self.dropped}

    def next_batch(self) -> Batch | None:
        self._refill()
        if not self.buffer:
            return None
        tokens = np.full((self.rows, self.T + 1), self.bos, dtype=np.int64)
        weights = np.zeros((self.rows, self.T + 1), dtype=np.float32)
        for row in range(self.rows):
            used = 0
            while (i := best_fit([len(ids) for _, (ids, _) in self.buffer], self.T + 1 - used)) is not None:
                ids, mask = self.buffer.pop(i)[1]
                tokens[row, used : used + len(ids)] = ids
                weights[row, used : used + len(ids)] = mask
                used += len(ids)
                self._refill()
        return make_batch(tokens, weights, self.bos)

    def _refill(self) -> None:
        while len(self.buffer) < BUFFER and self.next < len(self.conversations):
            i, self.next = self.next, self.next + 1
            ids, mask = self.conversations[i]
            self.truncated += len(ids) > self.T + 1
            if any(mask[: self.T + 1]):
                self.buffer.append((i, self._cut(ids, mask)))
            else:
                self.dropped += 1

    def _cut(self, ids: list[int], mask: list[int]) -> Rendered:
        return ids[: self.T + 1], mask[: self.T + 1]
