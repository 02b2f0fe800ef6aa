"""How the next token is drawn from logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lanbot.core.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy. top_k keeps the k likeliest tokens, top_p the fewest that hold this probability."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.temperature < 0 or (self.top_k is not None and self.top_k < 1):
            raise UserError(f"{self}: out of range", "max_tokens and top_k are 1 or more, temperature 0 or more.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p = {self.top_p}: out of range", "It is above 0 and at most 1.")


def sample(logits_BV: Tensor, sampling: Sampling, draws_B: Tensor) -> Tensor:
    """(B,) ids. draws_B: a uniform number in [0, 1) for each row, so that a row's choice is its own."""
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
    draws = draws_B.clamp(max=1 - 2**-23)  # nearer to 1, rounding may step onto a token of no probability
    chosen = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)
    chosen = chosen.clamp(max=probabilities.shape[-1] - 1)
    return (chosen if ids is None else ids.gather(-1, chosen))[:, 0]
