"""Scaling rules: hyperparameters from the depth. Fitted at depth 20 (561M parameters, 8xH100, one night) and depth 4
(a laptop CPU); all other depths are extrapolated."""

import math
from dataclasses import dataclass, replace

MOST_PAIRS = 1 << 25
PAIRS_VOCABULARY = 16_384
"""The largest vocabulary for a table of bigram counts, which takes 1 GiB."""
REFINING = 1 / 16
"""Factor on base's embedding and head rates after bigram initialisation, whose counts come from more text than
training will read: gradient noise would undo it. Later phases have new tokens and use the full rates."""


@dataclass(frozen=True)
class Shape:
    dim: int
    head_dim: int
    batch_tokens: int
    tokens: int
    muon_lr: float
    embedding_lr: float
    head_lr: float
    norm_lr: float
    lora_lr: float


def scale(depth: int, vocab_size: int, dim: int | None = None) -> Shape:
    """Width, batch (tokens a step), horizon (tokens) and rates for a model of `depth` layers.

    - dim is 64 a layer; heads are 64 wide, 128 from dim 1,024 on.
    - batch_tokens grows as the cube of depth, as parameters do, from 4,096 at depth 4 to 524,288 at depth 20.
    - tokens is 20 for each matrix parameter (Hoffmann et al. 2022).
    - muon_lr and norm_lr do not change with width; embedding, head and LoRA's rates fall as its square root.
    """
    dim = dim or 64 * depth
    batch_tokens = max(2_048, 2 ** round(math.log2(524_288 * (depth / 20) ** 3)))
    matmul_params = 12 * depth * dim * dim + vocab_size * dim
    width = (dim / 768) ** -0.5
    return Shape(
        dim=dim,
        head_dim=64 if dim < 1_024 else 128,
        batch_tokens=batch_tokens,
        tokens=max(1, 20 * matmul_params // batch_tokens) * batch_tokens,
        muon_lr=0.02,
        embedding_lr=round(0.2 * width, 6),
        head_lr=round(0.004 * width, 6),
        norm_lr=0.005,
        lora_lr=round(0.001 * width, 6),
    )


def pair_tokens(vocab_size: int, tokens: int) -> int:
    """Tokens for bigram initialisation: five times the training `tokens`, which takes as long as a few dozen steps; 0
    if the table of counts would be too large."""
    return min(5 * tokens, MOST_PAIRS) if vocab_size <= PAIRS_VOCABULARY else 0


def softmax_tokens(vocab_size: int, batch_tokens: int, pairs: int) -> int:
    """Number of most frequent tokens in every step's sampled softmax; 0: full softmax. With batches that are small
    relative to the vocabulary, most tokens are neither targets nor likely. Measured with a vocabulary of 8,192 after
    bigram initialisation."""
    return 1_024 if pairs and vocab_size >= 8_192 and batch_tokens <= 8_192 else 0


def refining(shape: Shape, pairs: int, tokens: int) -> Shape:
    """The shape with base's rates after bigram initialisation from `pairs` tokens. They approach the full rates where
    training reads more tokens than were counted (an extrapolation)."""
    less = min(1.0, REFINING * max(1.0, tokens / pairs)) if pairs else 1.0
    return replace(shape, embedding_lr=round(shape.embedding_lr * less, 6), head_lr=round(shape.head_lr * less, 6))
