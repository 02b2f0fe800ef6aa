"""Bigram initialisation: embedding and head learn bigram counts before the first step.

In its first minutes a small model learns little but bigrams, the rare ones hardly at all. Counting those of 100 MB of
text takes seconds. The loss of embedding, norm and head on all of that text is then a product of small matrices, and
some dozens of full-batch gradient steps on it replace some hundreds of training steps. It pays while the vocabulary is
small and training short: see config/scaling.py.
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
"""First tokens whose logits are made at one time."""
EMBEDDING_LR, HEAD_LR = 0.3, 0.22
"""Adam's, falling to nearly nothing over the steps; the head's falls with the square root of the width as well."""
BETAS = (0.8, 0.95)
HELD_TOKENS = 1 << 21
"""So many pairs are sorted and counted together."""


def count_pairs(documents: Iterable[np.ndarray], vocab_size: int) -> np.ndarray:
    """(V, V) float32: how often token b follows token a within one of the arrays."""
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
    """Trains a model's embedding and head, and nothing between them but the norm, on all pairs at once.

    counts: (V, V), from `count_pairs`. The embeddings stay `unit_embeddings`.
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
    for _ in track(range(STEPS), "base: learning from pairs", STEPS, "steps"):
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
