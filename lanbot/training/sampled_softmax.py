"""A softmax over the tokens that matter to a batch: sampled softmax (Bengio & Senecal 2008, Jean et al. 2015).

In a small model half of a step is the head. But of 8,192 tokens a batch of 2,048 has some 800 for targets, and most of
the rest have next to no probability. So a step takes the most frequent tokens, the batch's targets and a few of the
others at random, each of which stands for those that were not drawn: its probability is divided by the chance of
having been (Horvitz & Thompson 1952). The softmax's sum is right on average over the draw, whatever the batch is. The
last part of training takes all tokens, or the rare ones would stay a little off.
"""

from collections.abc import Iterable

import numpy as np
import torch

from lanbot.models.loss import Candidates

AT_RANDOM = 512
"""How many of the other tokens are drawn at random, at least."""
MULTIPLE = 256
"""The candidates are a multiple of it: with a new number in each step a CPU's allocator finds no block that fits, and
an hour of training took 5.4 GiB where 1.2 will do."""
FULL_FROM = 0.85
"""The part of training after which all tokens are taken."""


class SampledSoftmax:
    """Chooses the candidates of each step: by the batch's targets, the seed and the step alone."""

    def __init__(self, counts: np.ndarray, frequent: int, seed: int, at_random: int = AT_RANDOM) -> None:
        """counts: (V,), how often each token was met in the text. frequent: how many are in every step's softmax."""
        self.vocab_size, self.seed, self.at_random = len(counts), seed, at_random
        self.frequent = np.argsort(-counts, kind="stable")[:frequent]

    def candidates(self, targets: np.ndarray, step: int, progress: float) -> Candidates | None:
        """targets: of the whole batch, all ranks'. progress: 0 to 1. None: take all tokens."""
        if progress >= FULL_FROM:
            return None
        known = np.zeros(self.vocab_size, dtype=bool)
        known[self.frequent] = known[targets.reshape(-1)] = True
        taken, others = np.flatnonzero(known), np.flatnonzero(~known)
        rounded = -(len(taken) + self.at_random) % MULTIPLE
        count = min(len(others), self.at_random + rounded)
        drawn = np.random.default_rng((self.seed, step)).choice(others, count, replace=False, shuffle=False)
        ids = np.sort(np.concatenate((taken, drawn)))
        weight = np.log(len(others) / count) if count else 0
        log_weights = np.where(known[ids], 0, weight).astype(np.float32)
        return Candidates(torch.from_numpy(ids), torch.from_numpy(log_weights))


def count_tokens(documents: Iterable[np.ndarray], vocab_size: int) -> np.ndarray:
    """(V,) float64."""
    counts = np.zeros(vocab_size)
    for ids in documents:
        counts += np.bincount(ids, minlength=vocab_size)
    return counts
