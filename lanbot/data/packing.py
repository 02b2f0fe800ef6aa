"""From documents and conversations to rows of tokens. No token is lost, and no document sees another.

A row is T tokens. `documents` numbers them within a row: attention stays inside a number. A target is the next
token of the row; a weight is what the target's loss counts (0: not at all).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batch:
    """All (rows, T). ids, targets, documents: int64. weights: float32."""

    ids: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    documents: np.ndarray

    def rows(self, index: slice) -> "Batch":
        return Batch(self.ids[index], self.targets[index], self.weights[index], self.documents[index])

    def scaled(self, factor: float) -> "Batch":
        """The same batch with its weights multiplied."""
        return Batch(self.ids, self.targets, self.weights * np.float32(factor), self.documents)

    def __len__(self) -> int:
        return len(self.ids)


def make_batch(tokens: np.ndarray, weights: np.ndarray, bos: int) -> Batch:
    """A batch of rows of T + 1 tokens; each document begins with `bos`. weights are those of the tokens.

    The last token of a row is only a target; the first only an input.
    """
    ids = tokens[:, :-1]
    return Batch(ids, tokens[:, 1:], weights[:, 1:].astype(np.float32), (ids == bos).cumsum(axis=1))


def pack_stream(documents: Iterator[list[int]], rows: int, T: int, left_over: list[int]) -> np.ndarray | None:
    """The next (rows, T + 1) of a stream of documents, or None at its end (what is short of a batch is left).

    Rows follow each other without a gap and overlap by one token: the last of a row is the first of the next, so
    that each token of the stream is a target exactly once. `left_over` holds what is read and not yet used; it is
    changed in place, and is all that a resumed run needs.
    """
    need = rows * T + 1
    while len(left_over) < need:
        document = next(documents, None)
        if document is None:
            return None
        left_over.extend(document)
    flat = np.array(left_over[:need], dtype=np.int64)
    del left_over[: need - 1]
    return np.stack([flat[i * T : i * T + T + 1] for i in range(rows)])


def best_fit(lengths: list[int], room: int) -> int | None:
    """The index of the longest item that fits into `room`, the first of equals; None if none does."""
    fitting = [(length, -i) for i, length in enumerate(lengths) if length <= room]
    return -max(fitting)[1] if fitting else None
