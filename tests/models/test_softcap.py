"""The loss of a family with capped logits is autograd's of the plain formula."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from lanbot.models import loss
from lanbot.models.loss import Candidates, weighted_nll

CHUNK = loss.CHUNK["cpu"]
V, DIM, SOFTCAP = 97, 16, 15.0


def inputs(tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits of which some are far over the cap and most are below it."""
    generator = torch.Generator().manual_seed(0)
    hidden = 2.5 * torch.randn(tokens, DIM, generator=generator)
    head = torch.randn(V, DIM, generator=generator)
    assert (hidden @ head.T).abs().max() > SOFTCAP
    targets = torch.randint(V, (tokens,), generator=generator)
    weights = torch.randn(tokens, generator=generator)
    return hidden.requires_grad_(), head.requires_grad_(), targets, weights


def plain(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    logits = SOFTCAP * torch.tanh(hidden.double() @ head.double().T / SOFTCAP)
    nll = F.cross_entropy(logits, targets, reduction="none")
    return (nll * weights.double()).sum(), nll


@pytest.mark.parametrize("tokens", [1, CHUNK, 2 * CHUNK + 77])
def test_value_and_gradients(tokens: int) -> None:
    hidden, head, targets, weights = inputs(tokens)
    value, nll = weighted_nll(hidden, head, targets, weights, softcap=SOFTCAP)
    expected, expected_nll = plain(hidden, head, targets, weights)
    assert_close(value.double(), expected, atol=1e-3, rtol=1e-5)
    assert_close(nll.double(), expected_nll.detach(), atol=1e-4, rtol=1e-5)
    got = torch.autograd.grad(3 * value, (hidden, head))
    want = torch.autograd.grad(3 * expected, (hidden, head))
    assert_close(got[0], want[0], atol=1e-4, rtol=1e-4)
    assert_close(got[1], want[1], atol=1e-3, rtol=1e-4)
    uncapped = torch.autograd.grad(3 * weighted_nll(hidden, head, targets, weights)[0], (hidden, head))
    assert (uncapped[1] - want[1]).norm() > 0.1 * want[1].norm(), "the cap does nothing here"


def test_bf16_products_are_near() -> None:
    hidden, head, targets, weights = inputs(CHUNK + 50)
    low = hidden.detach().bfloat16().requires_grad_()
    value, nll = weighted_nll(low, head, targets, weights / len(weights), softcap=SOFTCAP)
    expected, expected_nll = plain(hidden, head, targets, weights / len(weights))
    assert nll.dtype == torch.float32
    assert_close(nll.double(), expected_nll.detach(), atol=0.2, rtol=0.02)
    got = torch.autograd.grad(value, (low, head))
    want = torch.autograd.grad(expected, (hidden, head))
    assert (got[0].dtype, got[1].dtype) == (torch.bfloat16, torch.float32)
    for ours, theirs in zip(got, want, strict=True):
        assert (ours.float() - theirs).norm() < 0.03 * theirs.norm()


def test_without_gradient_the_value_is_the_same() -> None:
    hidden, head, targets, weights = inputs(CHUNK + 3)
    with torch.no_grad():
        value, nll = weighted_nll(hidden, head, targets, weights, softcap=SOFTCAP)
    with_gradient, same = weighted_nll(hidden, head, targets, weights, softcap=SOFTCAP)
    assert_close(value, with_gradient.detach(), atol=1e-3, rtol=1e-5)
    assert_close(nll, same, atol=1e-4, rtol=1e-4)


def test_large_logits_stay_finite() -> None:
    hidden, head, targets, weights = inputs(20)
    value, nll = weighted_nll(hidden * 1e4, head, targets, weights, softcap=SOFTCAP)
    value.backward()
    assert nll.isfinite().all() and nll.max() <= 2 * SOFTCAP + torch.tensor(float(V)).log()
    assert head.grad is not None and head.grad.isfinite().all()


def test_of_sampled_tokens_the_cap_comes_before_their_weights() -> None:
    hidden, head, targets, weights = inputs(40)
    ids = torch.unique(torch.cat([targets, torch.arange(0, V, 3)]))
    log_weights = torch.linspace(0.0, 2.0, len(ids))
    value, _ = weighted_nll(hidden, head, targets, weights, Candidates(ids, log_weights), SOFTCAP)
    logits = SOFTCAP * torch.tanh(hidden @ head[ids].T / SOFTCAP) + log_weights
    nll = F.cross_entropy(logits, torch.searchsorted(ids, targets), reduction="none")
    expected = (nll * weights).sum()
    assert_close(value, expected, atol=1e-3, rtol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(value, (hidden, head)), torch.autograd.grad(expected, (hidden, head)), strict=True
    ):
        assert_close(ours, theirs, atol=1e-3, rtol=1e-4)
