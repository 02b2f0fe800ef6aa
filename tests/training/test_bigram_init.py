"""Pairs are counted within documents, and embedding and head learn them."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from lanbot.distributed.runtime import Runtime
from lanbot.models.config import ModelConfig
from lanbot.models.init import init_weights
from lanbot.models.transformer import Transformer
from lanbot.training.bigram_init import count_bigrams, fit

RUNTIME = Runtime.single()


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


def test_bigrams_are_counted_within_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = some_documents(20, 5_000)
    expected = Counter((int(a), int(b)) for ids in documents for a, b in pairwise(ids))
    monkeypatch.setattr("lanbot.training.bigram_init.HELD_TOKENS", 700)
    counts = count_bigrams(documents, 20)
    assert counts.sum() == sum(expected.values())
    assert all(counts[pair] == times for pair, times in expected.items())


def fitted(monkeypatch: pytest.MonkeyPatch, V: int, counts: np.ndarray) -> Transformer:
    monkeypatch.setattr("lanbot.training.bigram_init.ROWS", 40)  # several parts, the last one smaller
    model = Transformer(ModelConfig(V, 192, 2, 3, 3, 64, 128, context=128, rope_theta=500_000.0))
    init_weights(model, torch.Generator().manual_seed(0))
    fit(model, counts, RUNTIME)
    return model


def test_embedding_and_head_learn_the_bigrams(monkeypatch: pytest.MonkeyPatch) -> None:
    V = 96
    counts = count_bigrams(some_documents(V, 20_000), V)
    model = fitted(monkeypatch, V, counts)
    with torch.no_grad():
        nll = -model.logits(model.norm(model.embed_tokens.weight)).log_softmax(-1).numpy()
    joint = counts / counts.sum()
    given = joint / joint.sum(1, keepdims=True)
    best = float(-(joint[joint > 0] * np.log(given[joint > 0])).sum())
    assert float((joint * nll).sum()) < best + 0.15 < math.log(V) - 2


@torch.no_grad()
def test_what_was_there_before_is_expected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row whose second half repeats the first, of pairs that counting says nothing about."""
    V = 96
    model = fitted(monkeypatch, V, np.full((V, V), 9.0, np.float32) + 200 * np.eye(V, k=1, dtype=np.float32))
    half = torch.randperm(V, generator=torch.Generator().manual_seed(1))[:60]
    row = torch.cat((half, half))[None]
    logits = model.logits(model(row))[0, :-1].log_softmax(-1)
    nll = -logits.gather(1, row[0, 1:, None])[:, 0]
    assert nll[60:].mean() < nll[:59].mean() - 0.5


def test_no_bigrams_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted(monkeypatch, 40, np.zeros((40, 40), np.float32))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
