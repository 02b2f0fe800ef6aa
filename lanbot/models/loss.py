"""The loss: a weighted sum of next-token negative log-likelihoods, computed without materialising all logits."""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lanbot.models import compile

TINY = torch.finfo(torch.float32).tiny

CHUNK = {"cpu": 256, "cuda": 4_096, "mps": 1_024, "meta": 4_096}
"""Tokens whose logits are computed at a time; on a CPU they should fit its cache. meta: like a GPU."""
KEPT_BYTES = {"cpu": 1 << 25, "cuda": 1 << 30, "mps": 1 << 28, "meta": 1 << 30}
"""Gradients of logits that are collected before each matrix product: few large products are faster than many."""
FUSED_TOKENS = 1_024
"""Only chunks of a multiple of so many tokens run compiled: each size is compiled separately, and RL has many sizes."""


class Candidates(NamedTuple):
    """The tokens of a sampled softmax. ids: (C,) int64, ascending, every target among them. log_weights: (C,) float32,
    added to their logits; 0 for targets."""

    ids: Tensor
    log_weights: Tensor


class _WeightedNLL(torch.autograd.Function):
    """Computes the gradient of each chunk together with its logits (as Liger-Kernel's fused linear cross-entropy,
    Hsu et al. 2024): memory is bounded by KEPT_BYTES, and logits are computed once."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        weights: Tensor,
        shift: Tensor | None,
        softcap: float | None,
        needed: bool,
        head_needed: bool,
    ) -> tuple[Tensor, Tensor]:
        N, V, device, dtype = len(hidden), len(head), hidden.device, hidden.dtype
        matrix = head.to(dtype)
        nll = torch.empty(N, dtype=torch.float32, device=device)
        chunk = min(N, CHUNK[device.type])
        group = min(-(-N // chunk), max(1, KEPT_BYTES[device.type] // (chunk * V * dtype.itemsize))) * chunk
        grad_hidden = torch.empty_like(hidden) if needed else None
        grad_head = torch.zeros_like(head) if head_needed else None
        kept = torch.empty(group, V, dtype=dtype, device=device) if needed else None
        for first in range(0, N, group):
            last = min(first + group, N)
            for start in range(first, last, chunk):
                part = slice(start, min(start + chunk, last))
                target, weight = targets[part, None], weights[part, None]
                logits = hidden[part] @ matrix.T
                if softcap is not None:
                    slope = torch.tanh(logits / softcap)
                    logits = slope * softcap
                if shift is not None:
                    logits += shift
                if kept is None:
                    exact = logits.float()
                    nll[part] = (exact.logsumexp(-1, keepdim=True) - exact.gather(-1, target))[:, 0]
                    continue
                fused = shift is softcap is None and len(target) % FUSED_TOKENS == 0 and compile.enabled(device)
                into = kept[part.start - first : part.stop - first]
                nll[part] = (_fused() if fused else _by_softmax)(logits, target, weight, into)
                if softcap is not None:
                    into.mul_(1 - slope.square_())
            if grad_hidden is None or kept is None:
                continue
            grad = kept[: last - first]
            torch.mm(grad, matrix, out=grad_hidden[first:last])
            if grad_head is not None:
                part_hidden = hidden[first:last]
                grad_head += (
                    (part_hidden.T @ grad).T if device.type == "cpu" else grad.T @ part_hidden
                )  # the faster order on each
        if grad_hidden is not None:
            ctx.save_for_backward(grad_hidden, grad_head)
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        by_head = None if grad_head is None else grad_head * grad_loss
        return grad_hidden * grad_loss.to(grad_hidden.dtype), by_head, None, None, None, None, None, None


def _nll_and_gradient(logits: Tensor, target: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    """-log p of each target, (n,); writes weight x its gradient by the logits to `gradient`, (n, V). target, weight:
    (n, 1). Written so that torch.compile fuses it: two passes over the logits, no fp32 copy of them."""
    exact = logits.float()
    logsumexp = exact.logsumexp(-1, keepdim=True)
    hit = torch.arange(logits.shape[1], device=logits.device) == target
    gradient.copy_(((exact - logsumexp).exp() - hit.float()) * weight)
    return (logsumexp - logits.gather(-1, target).float())[:, 0]


def _by_softmax(logits: Tensor, target: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    """The same with torch's softmax, whose result has the logits' dtype, as the gradient has anyway. The target's entry
    is computed from the sum of the others, which is precise where that sum is small."""
    torch.softmax(logits, -1, out=gradient)
    picked = gradient.gather(-1, target).float()
    rows, columns = torch.arange(len(target), device=target.device), target[:, 0]  # scatter_ would copy all of it
    gradient[rows, columns] = 0.0
    others = gradient.sum(-1, keepdim=True).float()
    gradient.mul_(weight.to(gradient.dtype))[rows, columns] = (-others * weight)[:, 0].to(gradient.dtype)
    return torch.where(others < 0.5, -torch.log1p(-others.clamp(max=0.5)), -picked.clamp_min(TINY).log())[:, 0]


@cache
def _fused() -> Any:
    return compile.compiled(_nll_and_gradient)


def weighted_nll(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor,
    candidates: Candidates | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(sum over tokens of weight x -log p(target), -log p of each token without gradient; NaN if it was not computed).

    hidden: (..., dim). head: (V, dim). targets: (...) int64. weights: (...) fp32, of either sign.
    With weights 1/N this is the mean cross-entropy of N tokens; with advantage/N it is the policy gradient.
    candidates: the tokens of a sampled softmax, on the same device; None: all tokens.
    A CPU that trains leaves out the tokens of weight 0; a GPU would have to wait to know how many they are.
    """
    shift = None
    if candidates is not None:
        head = head[candidates.ids]
        targets = torch.searchsorted(candidates.ids, targets.contiguous())
        shift = candidates.log_weights.to(hidden.dtype)
    flat = hidden.reshape(-1, hidden.shape[-1])
    needed = torch.is_grad_enabled() and (hidden.requires_grad or head.requires_grad)
    head_needed = needed and head.requires_grad
    target, weight = targets.reshape(-1), weights.reshape(-1)
    under = weight.nonzero()[:, 0] if needed and flat.device.type == "cpu" else weight.new_empty(0, dtype=torch.int64)
    if not 0 < len(under) < len(flat):
        loss, nll = _WeightedNLL.apply(flat, head, target, weight, shift, softcap, needed, head_needed)
        return loss, nll.view(targets.shape)
    flat, target, weight = flat[under], target[under], weight[under]
    loss, nll = _WeightedNLL.apply(flat, head, target, weight, shift, softcap, needed, head_needed)
    return loss, nll.new_full((targets.numel(),), torch.nan).scatter_(0, under, nll).view(targets.shape)
