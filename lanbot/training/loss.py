"""The one loss: a weighted sum of next-token negative log-likelihoods, without ever holding all logits."""

from typing import Any

import torch
from torch import Tensor

CHUNK = 256
"""Tokens whose logits are in memory at one time: on a CPU they should stay in its cache."""
GPU_CHUNK = 4_096


class _WeightedNLL(torch.autograd.Function):
    """The gradient of a chunk is computed with its logits, while they are there (as in Liger-Kernel's fused
    linear cross-entropy, Hsu et al. 2024), so memory is CHUNK x V, and logits are computed once."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, needed: bool
    ) -> tuple[Tensor, Tensor]:
        matrix = head.to(hidden.dtype)
        nll = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if needed else None
        grad_head = torch.zeros_like(head) if needed else None
        chunk = CHUNK if hidden.device.type == "cpu" else GPU_CHUNK
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = (hidden[part] @ matrix.T).float()
            logits.sub_(logits.amax(-1, keepdim=True))
            picked = logits.gather(-1, targets[part, None])
            total = logits.exp_().sum(-1, keepdim=True)
            nll[part] = (total.log() - picked)[:, 0]
            if grad_hidden is not None and grad_head is not None:
                grad = logits.div_(total)
                grad[torch.arange(len(grad), device=grad.device), targets[part]] -= 1.0
                grad = grad.mul_(weights[part, None]).to(hidden.dtype)
                grad_hidden[part] = grad @ matrix
                grad_head += (grad.T @ hidden[part]).to(head.dtype)
        if grad_hidden is not None and grad_head is not None:
            ctx.save_for_backward(grad_hidden, grad_head)
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_head = ctx.saved_tensors
        return grad_hidden * grad_loss.to(grad_hidden.dtype), grad_head * grad_loss, None, None, None


def weighted_nll(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(the sum over tokens of weight x -log p(target), the -log p of each token without gradient).

    hidden: (..., dim). head: (V, dim). targets: (...) int64. weights: (...) fp32, of either sign.
    With weights 1/N this is the mean cross-entropy of N tokens; with advantage/N it is the policy gradient.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    needed = torch.is_grad_enabled() and (hidden.requires_grad or head.requires_grad)
    loss, nll = _WeightedNLL.apply(flat, head, targets.reshape(-1), weights.reshape(-1), needed)
    return loss, nll.view(targets.shape)
