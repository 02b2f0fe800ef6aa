"""Drawing the next token from logits."""

import math
from collections.abc import Sequence
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
    min_p: float | None = None  # keeps the tokens with at least this share of the likeliest one's probability
    stop: tuple[str, ...] = ()  # texts that end the answer; the last token is the one that completes it
    top_logprobs: int = 0  # how many of the likeliest tokens are reported beside each sampled one

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
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UserError(f"min_p = {self.min_p}: out of range", "Choose a min_p from 0 to 1.")
        if self.top_logprobs < 0:
            raise UserError(f"top_logprobs = {self.top_logprobs}: out of range", "Choose 0 or more.")
        if "" in self.stop:
            raise UserError("stop: an empty text", "Name texts that end the answer.")


def sample(logits_BV: Tensor, sampling: Sampling, draws_B: Tensor) -> Tensor:
    """(B,) ids, of logits or log probabilities. draws_B: a uniform number in [0, 1) for each row, independent of the
    other rows."""
    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    logits, ids = logits_BV, None
    if sampling.top_k is not None or sampling.top_p is not None:
        logits, ids = logits.topk(min(sampling.top_k or logits.shape[-1], logits.shape[-1]), sorted=True)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    probabilities = logits.softmax(-1)
    if sampling.top_p is not None:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    if sampling.min_p is not None:
        likeliest = probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < sampling.min_p * likeliest, 0.0)
    cumulative = probabilities.cumsum(-1)
    draws = draws_B.clamp(max=1 - 2**-23)  # closer to 1, rounding may select a token of probability 0
    chosen = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)
    chosen = chosen.clamp(max=probabilities.shape[-1] - 1)
    return (chosen if ids is None else ids.gather(-1, chosen))[:, 0]


def sample_each(logits_BV: Tensor, samplings: Sequence[Sampling], draws_B: Tensor) -> Tensor:
    """(B,) ids, each row by its own settings. Rows of equal settings are drawn together, so that no row's numbers
    depend on the settings of another."""
    if samplings.count(samplings[0]) == len(samplings):
        return sample(logits_BV, samplings[0], draws_B)
    chosen = torch.empty(len(samplings), dtype=torch.long, device=logits_BV.device)
    for kind in dict.fromkeys(samplings):
        rows = torch.tensor([i for i, one in enumerate(samplings) if one == kind], device=logits_BV.device)
        chosen[rows] = sample(logits_BV[rows], kind, draws_B[rows])
    return chosen
