"""From documents and conversations to rows of tokens. No token is lost, and no document attends to another.

A row is T tokens. `documents` numbers the documents of a row: attention stays within one number. A target is the next
token of the row; a weight multiplies the target's loss.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Tokens = np.ndarray | list[int]


@dataclass(frozen=True)
class Batch:
    """All (rows, T). ids, targets, documents: int64. weights: float32."""

    ids: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    documents: np.ndarray
    trees: bool = False
    """Whether the documents are parts of trees (models/shared_prefix.py, Trees)."""

    def rows(self, index: slice) -> "Batch":
        return Batch(self.ids[index], self.targets[index], self.weights[index], self.documents[index], self.trees)

    def scaled(self, factor: float) -> "Batch":
        """The same batch with its weights multiplied."""
        return replace(self, weights=self.weights * np.float32(factor))

    def __len__(self) -> int:
        return len(self.ids)


def make_batch(tokens: np.ndarray, weights: np.ndarray, bos: int) -> Batch:
    """A batch of rows of T + 1 tokens; each document begins with `bos`. weights are those of the tokens.

    The last token of a row is only a target, the first only an input. All arrays are contiguous copies.
    """
    ids = np.array(tokens[:, :-1], dtype=np.int64)
    targets = np.array(tokens[:, 1:], dtype=np.int64)
    return Batch(ids, targets, np.array(weights[:, 1:], dtype=np.float32), (ids == bos).cumsum(axis=1))


def pack_stream(documents: Iterator[Tokens], rows: int, T: int, left_over: list[int]) -> np.ndarray | None:
    """The next (rows, T + 1) of a stream of documents, or None at its end (an incomplete batch is dropped).

    Rows overlap by one token: the last of a row is the first of the next, so that each token of the stream is a target
    exactly once. `left_over` holds the unused end of the last document read; it is changed in place.
    """
    need = rows * T + 1
    pieces, have = [np.array(left_over, dtype=np.int64)], len(left_over)
    while have < need and (document := next(documents, None)) is not None:
        pieces.append(np.asarray(document))
        have += len(document)
    flat = np.concatenate(pieces, dtype=np.int64)
    left_over[:] = flat[need - 1 if have >= need else 0 :].tolist()
    return sliding_window_view(flat[:need], T + 1)[::T] if have >= need else None


def best_fit(waiting: list[tuple[int, int]], room: int) -> int | None:
    """The number of the longest item that fits into `room`, the lowest if several do; None if none does.

    waiting: (length, -number) of the items, sorted.
    """
    i = bisect_right(waiting, (room, 0))
    return -waiting[i - 1][1] if i else None
