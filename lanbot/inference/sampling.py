"""Drawing the next token from logits."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lanbot.core.errors import UserError

MIN_TEMPERATURE = 1e-6  # logits divided by much less overflow


@dataclass(frozen=True)
class Sampling:
    """How to sample. Raises UserError for a value out of range."""

    max_tokens: int = 256  # the longest answer, outputs of calls included
    temperature: float = 0.0  # 0 is greedy
    top_k: int | None = None  # keeps the k likeliest tokens
    top_p: float | None = None  # keeps the smallest set of tokens with at least this probability

    def __post_init__(self) -> None:
        for name in ("max_tokens", "top_k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} = {value}: out of range", f"Choose a {name} of 1 or more.")
        if self.temperature and not MIN_TEMPERATURE <= self.temperature < math.inf:
            remedy = f"Choose 0 (greedy), or a finite temperature of {MIN_TEMPERATURE} or more."
            raise UserError(f"temperature = {self.temperature}: out of range", remedy)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p = {self.top_p}: out of range", "Choose a top_p above 0 and at most 1.")


def sample(logits_BV: Tensor, sampling: Sampling, draws_B: Tensor) -> Tensor:
    """(B,) ids. draws_B: a uniform number in [0, 1) for each row, independent of the other rows."""
    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    logits, ids = logits_BV / sampling.temperature, None
    if sampling.top_k is not None or sampling.top_p is not None:
        logits, ids = logits.topk(min(sampling.top_k or logits.shape[-1], logits.shape[-1]), sorted=True)
    probabilities = logits.softmax(-1)
    if sampling.top_p is not None:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    cumulative = probabilities.cumsum(-1)
    draws = draws_B.clamp(max=1 - 2**-23)  # closer to 1, rounding may select a token of probability 0
    chosen = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)
    chosen = chosen.clamp(max=probabilities.shape[-1] - 1)
    return (chosen if ids is None else ids.gather(-1, chosen))[:, 0]
