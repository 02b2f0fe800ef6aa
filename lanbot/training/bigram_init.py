"""Bigram initialisation: embedding and head are fitted to bigram counts before the first step.

In its first minutes a small model learns little but bigrams, and the rare ones hardly at all. Counting the bigrams of
100 MB of text takes seconds. The loss of embedding, norm and head on all of that text is then a product of small
matrices, and a few dozen full-batch gradient steps replace several hundred training steps. This pays off for small
vocabularies and short training: see config/scaling.py.
"""

from collections.abc import Iterable

import numpy as np
import torch

from lanbot.core.console import track
from lanbot.distributed.runtime import Runtime
from lanbot.models.init import unit_embeddings, write_copying
from lanbot.models.transformer import Transformer

STEPS = 60
ROWS = 512
"""First tokens of bigrams whose logits are computed at a time."""
EMBEDDING_LR, HEAD_LR = 0.3, 0.22
"""Adam's initial rates, decayed linearly to 1 / STEPS; the head's is also divided by the square root of the width."""
BETAS = (0.8, 0.95)
HELD_TOKENS = 1 << 21
"""Bigrams that are sorted and counted at a time."""


def count_bigrams(documents: Iterable[np.ndarray], vocab_size: int) -> np.ndarray:
    """(V, V) float32: how often token b follows token a within a document."""
    counts = np.zeros(vocab_size * vocab_size, dtype=np.float32)

    def add() -> None:
        pairs, times = np.unique(np.concatenate(held), return_counts=True)
        counts[pairs] += times
        held.clear()

    held: list[np.ndarray] = []
    waiting = 0
    for ids in documents:
        held.append(ids[:-1].astype(np.int64) * vocab_size + ids[1:])
        waiting += len(held[-1])
        if waiting >= HELD_TOKENS:
            add()
            waiting = 0
    if held:
        add()
    return counts.reshape(vocab_size, vocab_size)


@torch.no_grad()
def fit(model: Transformer, counts: np.ndarray, runtime: Runtime) -> None:
    """Trains a model's embedding and head, with only the norm between them, on all bigrams at once.

    counts: (V, V), from `count_bigrams`. The embeddings keep the norms of `unit_embeddings`.
    """
    total = float(counts.sum())
    if not total:
        return
    embeddings, head = model.embed_tokens.weight, model.lm_head.weight
    V, dim = embeddings.shape
    frequency = torch.from_numpy(counts.sum(1, keepdims=True) / total).to(runtime.device, runtime.dtype)
    joint = torch.from_numpy(counts).to(runtime.device, runtime.dtype).div(total)
    groups = [{"params": [embeddings], "lr": EMBEDDING_LR}, {"params": [head], "lr": HEAD_LR / dim**0.5}]
    optimizer = torch.optim.Adam(groups, betas=BETAS, eps=1e-12)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / STEPS, STEPS)
    for _ in track(range(STEPS), "base: fitting bigrams", STEPS, "steps"):
        hidden, matrix = embeddings.to(runtime.dtype), head.to(runtime.dtype)
        embeddings.grad, head.grad = torch.empty_like(embeddings), torch.zeros_like(head)
        for start in range(0, V, ROWS):
            rows = slice(start, start + ROWS)
            gradient = (hidden[rows] @ matrix.T).softmax(-1).mul_(frequency[rows]).sub_(joint[rows])
            embeddings.grad[rows] = gradient @ matrix
            head.grad += gradient.T @ hidden[rows]
        optimizer.step()
        schedule.step()
        unit_embeddings(embeddings)
    embeddings.grad = head.grad = None
    write_copying(model, frequency.float())
