"""A softmax over the tokens that matter to a batch: sampled softmax (Bengio & Senecal 2008, Jean et al. 2015).

In a small model half of a step is the head. But of 8,192 tokens a batch of 2,048 has some 800 for targets, and most of
the rest have next to no probability. So a step takes the most frequent tokens, the batch's targets and a few others at
random. Each stands for those of its frequency that are not there: its probability is divided by the chance with
which it came in (Horvitz & Thompson 1952), as if targets were drawn one by one by frequency. For such batches the
softmax's sum is right on average; real ones come in topics, so for them it is an approximation. The last part of
training takes all tokens, or the rare ones would stay a little off.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

AT_RANDOM = 512
"""How many of the other tokens come in at random, about: it bounds the weight of those that do."""
FULL_FROM = 0.85
"""The part of training after which all tokens are taken."""


class Candidates(NamedTuple):
    """ids: (C,) int64, ascending, every target among them. log_weights: (C,) float32, added to their logits, but not to
    the logit of a token's own target."""

    ids: Tensor
    log_weights: Tensor


class SampledSoftmax:
    """Chooses the candidates of each step: by the batch's targets, the seed and the step alone."""

    def __init__(self, counts: np.ndarray, frequent: int, seed: int) -> None:
        """counts: (V,), how often each token was met in the text. frequent: how many are in every step's softmax."""
        self.seed = seed
        self.frequency = (counts + 1) / (counts + 1).sum()
        self.frequent = np.argsort(-counts, kind="stable")[:frequent]
        self.chance = min(1.0, AT_RANDOM / max(1, len(counts) - frequent))

    def candidates(self, targets: np.ndarray, step: int, progress: float) -> Candidates | None:
        """targets: of the whole batch, all ranks'. progress: 0 to 1. None: take all tokens."""
        if progress >= FULL_FROM:
            return None
        taken = np.random.default_rng((self.seed, step)).random(len(self.frequency)) < self.chance
        taken[self.frequent] = taken[targets.reshape(-1)] = True
        ids = taken.nonzero()[0]
        log_absent = targets.size * np.log1p(-self.frequency[ids]) + np.log1p(-min(self.chance, 1 - 1e-9))
        log_weights = -np.log(-np.expm1(log_absent))
        log_weights[np.isin(ids, self.frequent)] = 0
        return Candidates(torch.from_numpy(ids), torch.from_numpy(log_weights.astype(np.float32)))


def count_tokens(documents: Iterable[np.ndarray], vocab_size: int) -> np.ndarray:
    """(V,) float64."""
    counts = np.zeros(vocab_size)
    for ids in documents:
        counts += np.bincount(ids, minlength=vocab_size)
    return counts
