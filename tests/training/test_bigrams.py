"""Pairs are counted within documents, and embedding and head learn them."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import torch

from lanbot.model.config import ModelConfig
from lanbot.model.init import init_weights
from lanbot.model.transformer import Transformer
from lanbot.training.bigrams import count_pairs, fit
from lanbot.training.parallel import world


def some_documents(vocabulary: int, tokens: int) -> list[np.ndarray]:
    """Each token has three that may follow it, one of them most of the time."""
    draw = np.random.default_rng(0)
    following = draw.integers(vocabulary, size=(vocabulary, 3))
    documents = []
    for length in draw.integers(1, 200, size=tokens // 100):
        ids = [int(draw.integers(vocabulary))]
        while len(ids) < length:
            ids.append(int(following[ids[-1], draw.choice(3, p=(0.7, 0.2, 0.1))]))
        documents.append(np.array(ids, dtype=np.uint32))
    return documents


def test_pairs_are_counted_within_documents(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    documents = some_documents(20, 5_000)
    expected = Counter((int(a), int(b)) for ids in documents for a, b in pairwise(ids))
    monkeypatch.setattr("lanbot.training.bigrams.HELD_TOKENS", 700)
    counts = count_pairs(documents, 20)
    assert counts.sum() == sum(expected.values())
    assert all(counts[pair] == times for pair, times in expected.items())


def test_embedding_and_head_learn_the_pairs() -> None:
    V = 96
    counts = count_pairs(some_documents(V, 20_000), V)
    model = Transformer(ModelConfig(V, 64, 2, 1, 1, 64, 128, context=64))
    init_weights(model, torch.Generator().manual_seed(0))
    fit(model, counts, world())
    with torch.no_grad():
        nll = -model.logits(model.norm(model.embed_tokens.weight)).log_softmax(-1).numpy()
    joint = counts / counts.sum()
    after = float((joint * nll).sum())
    given = joint / joint.sum(1, keepdims=True)
    best = float(-(joint[joint > 0] * np.log(given[joint > 0])).sum())
    assert best < after < best + 0.15 < math.log(V) - 2
