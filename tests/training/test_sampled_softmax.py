"""The softmax over candidates: exact over what it is given, its sum right on average about what it is not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lanbot.models.loss import Candidates, weighted_nll
from lanbot.training import sampled_softmax
from lanbot.training.sampled_softmax import SampledSoftmax, count_tokens

V, DIM, TOKENS = 300, 16, 60
COUNTS = 1e5 / np.arange(1, V + 1)
"""Zipf's, so that many tokens are in few batches."""


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled_softmax, "MULTIPLE", 8)


def batch(step: int) -> np.ndarray:
    return np.random.default_rng(step).choice(V, (2, TOKENS // 2), p=COUNTS / COUNTS.sum())


def test_loss_and_gradients_are_those_of_the_candidates_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, DIM, generator=generator).requires_grad_()
    head = torch.randn(V, DIM, generator=generator).requires_grad_()
    weights = torch.randn(TOKENS, generator=generator)
    sampled = SampledSoftmax(COUNTS, 30, seed=0, at_random=20)
    targets = batch(0).reshape(-1)
    chosen = sampled.candidates(targets, 0, 0.0)
    assert chosen is not None and 30 < len(chosen.ids) < V / 2

    logits = (hidden @ head.T)[:, chosen.ids] + chosen.log_weights
    where = torch.searchsorted(chosen.ids, torch.from_numpy(targets))
    assert (chosen.ids[where] == torch.from_numpy(targets)).all(), "every target is a candidate"
    expected = F.cross_entropy(logits, where, reduction="none")
    loss, nll = weighted_nll(hidden, head, torch.from_numpy(targets), weights, chosen)
    assert_close(nll, expected.detach(), atol=1e-5, rtol=1e-4)
    got = torch.autograd.grad(loss, (hidden, head))
    want = torch.autograd.grad((expected * weights).sum(), (hidden, head))
    assert_close(got, want, atol=1e-4, rtol=1e-4)
    absent = torch.ones(V, dtype=torch.bool).index_fill(0, chosen.ids, False)
    assert not got[1][absent].any()


def test_all_tokens_as_candidates_are_the_whole_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(TOKENS, DIM, generator=generator), torch.randn(V, DIM, generator=generator)
    targets = torch.randint(V, (TOKENS,), generator=generator)
    everything = Candidates(torch.arange(V), torch.zeros(V))
    hidden.requires_grad_()
    got = weighted_nll(hidden, head, targets, torch.ones(TOKENS), everything)
    assert_close(got, weighted_nll(hidden, head, targets, torch.ones(TOKENS)))


def test_the_sum_over_candidates_is_right_on_average_for_any_batch() -> None:
    """Also for one that is nothing but a rare topic, with logits that follow it, as text is."""
    sampled = SampledSoftmax(COUNTS, 30, seed=0, at_random=20)
    targets = np.repeat(np.arange(V - 5, V), TOKENS // 5)
    terms = np.exp(np.random.default_rng(1).normal(size=V))
    terms[V - 5 :] += 50
    sums = []
    for step in range(2_000):
        chosen = sampled.candidates(targets, step, 0.0)
        assert chosen is not None
        sums.append(terms[chosen.ids] @ chosen.log_weights.exp().double().numpy())
    error = np.std(sums) / len(sums) ** 0.5
    assert abs(np.mean(sums) - terms.sum()) < 4 * error < 0.02 * terms.sum()


def test_their_number_is_a_multiple_while_there_are_as_many() -> None:
    for step in range(20):
        for at_random in (0, 20, V):
            chosen = SampledSoftmax(COUNTS, 30, seed=0, at_random=at_random).candidates(batch(step), step, 0.0)
            assert chosen is not None
            least = len({*range(30), *batch(step).reshape(-1).tolist()}) + at_random
            assert len(chosen.ids) == min(V, -(-least // 8) * 8)
            assert len(chosen.ids.unique()) == len(chosen.ids) and chosen.log_weights.isfinite().all()


def test_candidates_follow_from_batch_seed_and_step_alone() -> None:
    sampled = SampledSoftmax(COUNTS, 30, seed=0, at_random=20)
    targets = batch(0)

    def ids(sampled: SampledSoftmax, step: int) -> list[int]:
        chosen = sampled.candidates(targets, step, 0.5)
        assert chosen is not None
        return chosen.ids.tolist()

    first = ids(sampled, 7)
    ids(sampled, 8)
    assert ids(SampledSoftmax(COUNTS, 30, seed=0, at_random=20), 7) == first
    assert ids(sampled, 8) != first and ids(SampledSoftmax(COUNTS, 30, seed=1, at_random=20), 7) != first
    assert set(range(30)) <= set(first), "the most frequent are always there"


def test_the_last_part_of_training_takes_all_tokens() -> None:
    sampled = SampledSoftmax(COUNTS, 30, seed=0, at_random=20)
    assert sampled.candidates(batch(0), 0, 0.84) is not None
    assert sampled.candidates(batch(0), 0, 0.85) is None


def test_tokens_are_counted() -> None:
    assert count_tokens(map(np.array, ([0, 2, 2], [4])), 6).tolist() == [1, 0, 2, 0, 1, 0]
