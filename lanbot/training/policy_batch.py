"""Sampled answers as rows of tokens for the policy gradient: one in a row, or those to one prompt as a tree."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from lanbot.data.packing import Batch
from lanbot.models.shared_prefix import BRANCHES

ROW = 384
"""Tokens of a row of trees, unless an answer with its prompt is longer: a CPU attends over short rows faster."""


class Sampled(Protocol):
    """What the engine generated after a prompt (inference/request.py, Completion)."""

    prompt: list[int]
    ids: list[int]
    sampled: list[int]
    logprobs: list[float]


Turns = Sequence[tuple[Sampled, float]]
"""Answers with their advantages."""


class PolicyBatch(NamedTuple):
    """Minus the weighted NLL of `batch` is the policy gradient's objective, not yet normalised. A token's weight is its
    answer's advantage if the model sampled it, and 0 in prompts and forced outputs.

    places: of each answer, the row and the column of its first token among the targets.
    """

    batch: Batch
    places: list[tuple[int, int]]


def policy_batch(turns: Turns, bos: int) -> PolicyBatch:
    """A row for each answer."""
    width = max((len(turn.prompt) + len(turn.ids) for turn, _ in turns), default=2)
    tokens = np.full((len(turns), width), bos, dtype=np.int64)
    weights = np.zeros((len(turns), width), dtype=np.float32)
    for row, (turn, advantage) in enumerate(turns):
        start, end = len(turn.prompt), len(turn.prompt) + len(turn.ids)
        tokens[row, :end] = turn.prompt + turn.ids
        weights[row, start:end] = np.multiply(turn.sampled, advantage)
    documents = np.zeros_like(tokens[:, :-1])  # padding is at the end, so no token attends to it
    batch = Batch(tokens[:, :-1], tokens[:, 1:], weights[:, 1:], documents)
    return PolicyBatch(batch, [(row, len(turn.prompt) - 1) for row, (turn, _) in enumerate(turns)])


def tree_batch(turns: Turns, bos: int) -> PolicyBatch:
    """Rows of trees: a prompt is computed once for those of its answers that share a row, not for each of them.

    The trunk is the prompt without its last token. Each branch begins with that token, because the first tokens of all
    answers are its targets.
    """
    longest = max((len(turn.prompt) - 1 + len(turn.ids) for turn, _ in turns), default=1)
    width = max(longest, min(ROW, sum(len(turn.prompt) + len(turn.ids) for turn, _ in turns)))
    rows: list[list[np.ndarray]] = []
    places = [(0, 0)] * len(turns)
    used, document, prompt = width, 0, None  # the first answer begins a row
    for i in sorted(range(len(turns)), key=lambda k: turns[k][0].prompt):  # errands alternate
        turn, advantage = turns[i]
        trunk, n = turn.prompt[:-1], len(turn.ids)
        grows = turn.prompt != prompt
        if used + len(trunk) * grows + n > width:
            rows.append([])
            used, document, grows = 0, -1, True
        if grows:
            document = (document // BRANCHES + 1) * BRANCHES
            rows[-1].append(_piece(trunk, trunk, np.zeros(len(trunk)), document))
            used += len(trunk)
        prompt, document = turn.prompt, document + 1
        rows[-1].append(
            _piece([turn.prompt[-1], *turn.ids[:-1]], turn.ids, np.multiply(turn.sampled, advantage), document)
        )
        places[i] = (len(rows) - 1, used)
        used += n
    table = np.empty((4, len(rows), width))
    table[:] = np.reshape((bos, bos, 0, width * BRANCHES), (4, 1, 1))  # padding: a trunk of its own
    for i, pieces in enumerate(rows):
        row = np.concatenate(pieces, axis=1)
        table[:, i, : row.shape[1]] = row
    ids, targets, documents = (table[k].astype(np.int64) for k in (0, 1, 3))
    return PolicyBatch(Batch(ids, targets, table[2].astype(np.float32), documents, trees=True), places)


def _piece(ids: Sequence[int], targets: Sequence[int], weights: np.ndarray, document: int) -> np.ndarray:
    """(4, tokens) in float64, which holds all of these exactly."""
    return np.array((ids, targets, weights, np.full(len(ids), document)), dtype=np.float64)


def logprob_gaps(turns: Sequence[Sampled], nll: Tensor | None, places: Sequence[tuple[int, int]]) -> list[float]:
    """|log p of the engine - log p of the trainer| of each sampled token; rounding errors if on-policy."""
    if nll is None:
        return []
    gaps, rows = [], nll.cpu().tolist()
    for turn, (row, start) in zip(turns, places, strict=True):
        for sampler, loss, sampled in zip(turn.logprobs, rows[row][start:], turn.sampled, strict=False):
            if sampled and not math.isnan(loss):  # not computed, as nothing is learned from it
                gaps.append(abs(sampler + loss))
    return gaps
