"""The policy gradient's batch: sampled answers, weighted by their advantages."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from lanbot.data.packing import Batch


class Sampled(Protocol):
    """What the engine generated after a prompt (inference/engine.py, Completion)."""

    prompt: list[int]
    ids: list[int]
    sampled: list[int]
    logprobs: list[float]


def policy_batch(turns: Sequence[tuple[Sampled, float]], bos: int) -> Batch:
    """(answer, advantage) as a batch whose weighted NLL is minus the policy gradient's objective, not yet normalised.

    A token's weight is its answer's advantage if the model sampled it, and 0 in prompts and forced outputs.
    """
    width = max((len(turn.prompt) + len(turn.ids) for turn, _ in turns), default=2)
    tokens = np.full((len(turns), width), bos, dtype=np.int64)
    weights = np.zeros((len(turns), width), dtype=np.float32)
    for row, (turn, advantage) in enumerate(turns):
        start, end = len(turn.prompt), len(turn.prompt) + len(turn.ids)
        tokens[row, :end] = turn.prompt + turn.ids
        weights[row, start:end] = np.multiply(turn.sampled, advantage)
    documents = np.zeros_like(tokens[:, :-1])  # padding is at the end, so no token attends to it
    return Batch(tokens[:, :-1], tokens[:, 1:], weights[:, 1:], documents)


def logprob_gaps(turns: Sequence[Sampled], nll: Tensor | None) -> list[float]:
    """|log p of the engine - log p of the trainer| of each sampled token; rounding errors if on-policy."""
    if nll is None:
        return []
    gaps = []
    for turn, row in zip(turns, nll.cpu().tolist(), strict=True):
        trained = row[len(turn.prompt) - 1 :]
        for sampler, loss, sampled in zip(turn.logprobs, trained, turn.sampled, strict=False):
            if sampled:
                gaps.append(abs(sampler + loss))
    return gaps
