"""The chunked loss is the plain cross-entropy, in value and in gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from lanbot.models import loss
from lanbot.models.loss import weighted_nll

CHUNK = loss.CHUNK["cpu"]

V, DIM = 97, 16


def inputs(tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, DIM, generator=generator)
    head = torch.randn(V, DIM, generator=generator)
    targets = torch.randint(V, (tokens,), generator=generator)
    weights = torch.randn(tokens, generator=generator)
    return hidden.requires_grad_(), head.requires_grad_(), targets, weights


def plain(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    nll = F.cross_entropy(hidden @ head.T, targets, reduction="none")
    return (nll * weights).sum(), nll


@pytest.mark.parametrize("tokens", [1, CHUNK - 1, CHUNK, 2 * CHUNK + 77])
def test_value_and_gradients_are_those_of_cross_entropy(tokens: int) -> None:
    hidden, head, targets, weights = inputs(tokens)
    assert tokens == 1 or ((weights < 0).any() and (weights > 0).any())
    loss, nll = weighted_nll(hidden, head, targets, weights)
    expected, expected_nll = plain(hidden, head, targets, weights)
    assert_close(loss, expected, atol=1e-3, rtol=1e-5)
    assert_close(nll, expected_nll.detach(), atol=1e-5, rtol=1e-5)
    assert not nll.requires_grad
    got = torch.autograd.grad(3 * loss, (hidden, head))
    want = torch.autograd.grad(3 * expected, (hidden, head))
    assert_close(got[0], want[0], atol=1e-5, rtol=1e-4)
    assert_close(got[1], want[1], atol=1e-4, rtol=1e-4)


def test_bf16_products_are_near() -> None:
    hidden, head, targets, weights = inputs(CHUNK + 50)
    low = hidden.detach().bfloat16().requires_grad_()
    loss, nll = weighted_nll(low, head, targets, weights / len(weights))
    expected, expected_nll = plain(hidden, head, targets, weights / len(weights))
    assert nll.dtype == torch.float32
    assert_close(nll, expected_nll.detach(), atol=0.15, rtol=0.02)
    got = torch.autograd.grad(loss, (low, head))
    want = torch.autograd.grad(expected, (hidden, head))
    assert (got[0].dtype, got[1].dtype) == (torch.bfloat16, torch.float32)
    for ours, theirs in zip(got, want, strict=True):
        assert (ours.float() - theirs).norm() < 0.02 * theirs.norm()


def test_rows_keep_their_shape() -> None:
    hidden, head, targets, weights = inputs(12)
    loss, nll = weighted_nll(hidden.view(3, 4, DIM), head, targets.view(3, 4), weights.view(3, 4))
    flat_loss, flat_nll = weighted_nll(hidden, head, targets, weights)
    assert torch.equal(loss, flat_loss)
    assert torch.equal(nll, flat_nll.view(3, 4))


def test_a_weight_of_zero_gives_no_gradient() -> None:
    hidden, head, targets, weights = inputs(10)
    weights[4:7] = 0
    weighted_nll(hidden, head, targets, weights)[0].backward()
    assert hidden.grad is not None
    assert (hidden.grad[4:7] == 0).all()
    assert (hidden.grad[[0, 3, 7, 9]] != 0).any(dim=-1).all()


def test_large_logits_stay_finite() -> None:
    hidden, head, targets, weights = inputs(20)
    loss, nll = weighted_nll(hidden * 1e4, head, targets, weights)
    loss.backward()
    assert nll.isfinite().all()
    assert head.grad is not None and head.grad.isfinite().all()


def test_without_gradient_the_value_is_the_same() -> None:
    hidden, head, targets, weights = inputs(CHUNK + 3)
    with torch.no_grad():
        loss, nll = weighted_nll(hidden, head, targets, weights)
    with_gradient, same_nll = weighted_nll(hidden, head, targets, weights)
    assert not loss.requires_grad and with_gradient.requires_grad
    assert_close(loss, with_gradient.detach())
    assert_close(nll, same_nll)
