"""The loaders: batches of a phase, in an order that depends on the seed alone, resumable at any step.

A loader makes the batch of all ranks; each rank takes its rows (training/trainer.py). So a loader's state is the same
on every rank, and a run resumes exactly at any world size.
"""

from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from lanbot.chat.formats.base import ChatFormat, Rendered
from lanbot.core.errors import UserError
from lanbot.data.corpus import Corpus, Position
from lanbot.data.packing import Batch, best_fit, make_batch, pack_stream

BUFFER = 128
"""Conversations that best-fit packing chooses from; also the most rows that one waits for."""


class Loader(Protocol):
    def next_batch(self) -> Batch | None:
        """The next batch, None when the phase is over."""

    def progress(self) -> float:
        """The fraction of the phase that is done, 0 to 1."""

    def state(self) -> dict[str, Any]:
        """The state that a resumed run needs, as JSON."""

    def load_state(self, state: dict[str, Any]) -> None: ...

    def notes(self) -> dict[str, int]:
        """Counts for the log: truncated, dropped, bad."""


def _same_data(then: str, now: str) -> None:
    if then != now:
        raise UserError(
            f"the data changed since this phase began: {then}; now {now}",
            "Restore the data (the same --mirror, the same files), or start over: lanbot runs delete RUN.",
        )


class TextLoader:
    """`steps` batches of `rows` x T tokens from a corpus.

    Its state is the position of the document in which the last batch ends, and how many of its tokens are used.
    """

    def __init__(self, corpus: Corpus, chat_format: ChatFormat, rows: int, T: int, steps: int) -> None:
        self.corpus, self.chat_format, self.rows, self.T, self.steps = corpus, chat_format, rows, T, steps
        self.load_state({"step": 0, "document": {}, "used": 0, "data": corpus.fingerprint})

    def load_state(self, state: dict[str, Any]) -> None:
        _same_data(state["data"], self.corpus.fingerprint)
        self.step: int = state["step"]
        self.document = Position(**state["document"])
        self.stream = self._encoded(replace(self.document))
        self.length = 0
        self.left_over: list[int] = []
        if state["used"]:
            self.left_over = next(self.stream)[state["used"] :].tolist()

    def state(self) -> dict[str, Any]:
        document, used = vars(self.document).copy(), self.length - len(self.left_over)
        return {"step": self.step, "document": document, "used": used, "data": self.corpus.fingerprint}

    def progress(self) -> float:
        return self.step / self.steps

    def notes(self) -> dict[str, int]:
        return {"epochs": self.document.epoch, "bad": self.document.bad}

    def next_batch(self) -> Batch | None:
        if self.step >= self.steps:
            return None
        tokens = pack_stream(self.stream, self.rows, self.T, self.left_over)
        assert tokens is not None, "a corpus is endless"
        self.step += 1
        return make_batch(tokens, np.ones(tokens.shape, np.float32), self.chat_format.bos)

    def _encoded(self, position: Position) -> Iterator[np.ndarray]:
        """The documents from `position` on; self.document is the position of the last one, self.length its length."""
        bos = np.array([self.chat_format.bos])
        begins = replace(position)
        for text in self.corpus.documents(position):
            ids = np.concatenate([bos, self.chat_format.tokenizer.encode_array(text)])
            self.document, self.length, begins = begins, len(ids), replace(position)
            yield ids


class ChatLoader:
    """All of `conversations`, each complete in one row; the rest of a row is padding.

    A row begins with the conversation that waits longest, so that none waits for more than BUFFER rows, and is filled
    with the longest that fits, repeatedly (best fit). One longer than a row is truncated; one without a token
    under loss is dropped; an empty one was a bad row: all are counted.
    """

    def __init__(
        self, conversations: Sequence[Rendered], bos: int, rows: int, T: int, bad: int = 0, data: str = ""
    ) -> None:
        """bos: the padding; a conversation may begin without it. bad: rows that were skipped before. data: a
        fingerprint of the data, which may not change."""
        self.conversations, self.bos, self.rows, self.T = conversations, bos, rows, T
        self.data = f"{len(conversations):,} conversations: {data}"
        self.load_state({"next": 0, "buffer": [], "truncated": 0, "dropped": 0, "bad": bad, "data": self.data})

    def load_state(self, state: dict[str, Any]) -> None:
        _same_data(state["data"], self.data)
        self.next: int = state["next"]
        self.truncated: int = state["truncated"]
        self.dropped: int = state["dropped"]
        self.bad: int = state["bad"]
        self.buffer: dict[int, Rendered] = {}
        """Number -> conversation, in order of arrival."""
        self.by_length: list[tuple[int, int]] = []
        for i in state["buffer"]:
            self._admit(i, *self.conversations[i])

    def state(self) -> dict[str, Any]:
        return {"next": self.next, "buffer": list(self.buffer), **self.notes(), "data": self.data}

    def progress(self) -> float:
        return (self.next - len(self.buffer)) / max(1, len(self.conversations))

    def notes(self) -> dict[str, int]:
        return {"truncated": self.truncated, "dropped": self.dropped, "bad": self.bad}

    def next_batch(self) -> Batch | None:
        self._refill()
        if not self.buffer:
            return None
        tokens = np.full((self.rows, self.T + 1), self.bos, dtype=np.int64)
        weights = np.zeros((self.rows, self.T + 1), dtype=np.float32)
        begins = np.ones((self.rows, self.T + 1), dtype=bool)  # each token of the padding is a document
        for row in range(self.rows):
            used, i = 0, next(iter(self.buffer), None)
            while i is not None:
                ids, mask = self.buffer.pop(i)
                self.by_length.remove((len(ids), -i))
                tokens[row, used : used + len(ids)] = ids
                weights[row, used : used + len(ids)] = mask
                begins[row, used + 1 : used + len(ids)] = False
                used += len(ids)
                self._refill()
                i = best_fit(self.by_length, self.T + 1 - used)
        return replace(make_batch(tokens, weights, self.bos), documents=begins[:, :-1].cumsum(axis=1))

    def _refill(self) -> None:
        while len(self.buffer) < BUFFER and self.next < len(self.conversations):
            i, self.next = self.next, self.next + 1
            ids, mask = self.conversations[i]
            self.truncated += len(ids) > self.T + 1
            if any(mask[: self.T + 1]):
                self._admit(i, ids, mask)
            elif not ids:
                self.bad += 1
            else:
                self.dropped += 1

    def _admit(self, i: int, ids: list[int], mask: list[int]) -> None:
        self.buffer[i] = Rendered(ids[: self.T + 1], mask[: self.T + 1])
        insort(self.by_length, (min(len(ids), self.T + 1), -i))
