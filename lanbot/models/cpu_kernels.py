"""Autograd functions for CPUs without a compiler: faster than what autograd makes of the plain formulas, and the same
numbers. A GPU runs the plain formulas, which torch.compile fuses."""

from typing import Any

import torch
from torch import Tensor


def use_cpu_kernels(x: Tensor) -> bool:
    """Whether x is on a CPU and not being compiled."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


class MatMul(torch.autograd.Function):
    """x @ weight.T, with the matrix laid out as a CPU multiplies a tenth faster, in forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        weight = weight.to(x.dtype)
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return x @ weight.T.contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        grad_x = grad @ weight if wanted[0] else None
        return grad_x, grad.flatten(0, -2).T @ x.flatten(0, -2) if wanted[1] else None


class AdaptedMatMul(torch.autograd.Function):
    """x W^T + scale (x A^T) B^T of a frozen W: see models/lora.py."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        weight, a, b = weight.to(x.dtype), a.to(x.dtype), (b * scale).to(x.dtype)
        flat = x.flatten(0, -2)
        low = flat @ a.T
        ctx.save_for_backward(flat, low, weight, a, b)
        ctx.scale = scale
        return (flat @ weight.T.contiguous()).addmm_(low, b.T).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None]:
        x, low, weight, a, b = ctx.saved_tensors
        flat = grad.flatten(0, -2)
        grad_low = flat @ b
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (flat @ weight).addmm_(grad_low, a).unflatten(0, grad.shape[:-1])
        return grad_x, None, grad_low.T @ x, (flat.T @ low).mul_(ctx.scale), None


class FusedRMSNorm(torch.autograd.Function):
    """The CPU has no fused kernel: autograd through F.rms_norm's pieces takes half as long again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact).square_()
        scale = square.div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        normed, weight = x * scale, weight.to(x.dtype)
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        normed, scale, weight = ctx.saved_tensors
        product = (grad * normed).flatten(0, -2)
        grad_weight = None
        if ctx.needs_input_grad[1]:  # accumulates in fp32, and is ten times faster than a sum
            grad_weight = (product.new_ones(1, len(product)) @ product)[0]
        mean = (product @ weight).view_as(scale).div_(weight.shape[0])
        return torch.addcmul(grad * weight, normed, mean, value=-1).mul_(scale), grad_weight, None


class Rotate(torch.autograd.Function):
    """x rotated by its positions' angles. The backward rotates the gradient back, so x need not be kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return torch.addcmul(grad * cos, grad.roll(grad.shape[-1] // 2, -1), sin, value=-1), None, None
