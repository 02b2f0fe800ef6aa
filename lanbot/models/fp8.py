"""Matrix products in 8 bits: values in e4m3, gradients in e5m2 (Micikevicius et al. 2022, FP8 Formats for Deep
Learning), each tensor scaled by its current largest value. Accumulation is in 16 bits or more.

The backward keeps the 8-bit values. Only the matrices of the layers: the head's gradients vary too much in size.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lanbot.core.errors import UserError
from lanbot.models.transformer import Linear

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16
"""Each side of a matrix must be a multiple of it."""


def enable(model: nn.Module, device: torch.device, key: str) -> None:
    """Replaces the linear layers of the blocks by ones that train in fp8. key: the recipe's key, for messages.

    Raises UserError if the device cannot, or the sides of a matrix are not multiples of MULTIPLE.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"a {device.type.upper()}"
        raise UserError(
            f"{key} = true, but this device ({name}) has no fp8 matrix products",
            f"Set {key} = false; fp8 needs an NVIDIA GPU of capability 8.9 or more (Ada, Hopper, Blackwell).",
        )
    for name, module in list(model.named_modules()):
        if name.startswith("layers.") and isinstance(module, Linear):
            rows, columns = module.weight.shape
            if rows % MULTIPLE or columns % MULTIPLE:
                raise UserError(
                    f"{key} = true, but {name} is {rows:,} x {columns:,}: fp8 needs multiples of {MULTIPLE}",
                    f"Set {key} = false, or change model.dim, model.mlp_dim or model.head_dim.",
                )
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Float8Linear.of(module))


class Float8Linear(Linear):
    """Trains in fp8 where the number of tokens, a side of the gradient's product, is a multiple of MULTIPLE. Without
    gradients it computes as Linear does."""

    @classmethod
    def of(cls, linear: Linear) -> "Float8Linear":
        """With the parameters of `linear` themselves."""
        with torch.device("meta"):
            made = cls(linear.in_features, linear.out_features, bias=linear.bias is not None)
        made.weight, made.bias = linear.weight, linear.bias
        return made

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or x.shape[:-1].numel() % MULTIPLE:
            return super().forward(x)
        y = product(x, self.weight)
        return y if self.bias is None else y + self.bias.to(x.dtype)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., columns) @ weight.T of (rows, columns), in x's dtype; the weight's gradient is in the weight's."""
    return _Product.apply(x.flatten(0, -2), weight).unflatten(0, x.shape[:-1])


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(x / scale in 8 bits, scale): the largest of x becomes the largest of the dtype. NaN stays NaN."""
    largest = torch.finfo(dtype).max
    scale = x.abs().amax().float().clamp(min=1e-30) / largest
    return (x.float() / scale).clamp(-largest, largest).to(dtype), scale


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x8, x_scale = quantise(x, E4M3)
        weight8, weight_scale = quantise(weight, E4M3)
        ctx.save_for_backward(x8, x_scale, weight8, weight_scale)
        ctx.weight_dtype = weight.dtype
        return _mm(x8, weight8.T, x_scale, weight_scale, x.dtype, fast=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x8, x_scale, weight8, weight_scale = ctx.saved_tensors
        grad8, scale = quantise(grad, E5M2)
        grad_x = _mm(grad8, _columns(weight8), scale, weight_scale, grad.dtype)
        grad_weight = _mm(grad8.T.contiguous(), _columns(x8), scale, x_scale, ctx.weight_dtype)
        return grad_x, grad_weight


def _mm(a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, dtype: torch.dtype, fast: bool = False) -> Tensor:
    """a by rows, b by columns: the one layout that Hopper has. fast: sums of 14 bits, which a forward stands."""
    return torch._scaled_mm(a, b, scale_a=a_scale, scale_b=b_scale, out_dtype=dtype, use_fast_accum=fast)


def _columns(matrix: Tensor) -> Tensor:
    """The same matrix, laid out by columns."""
    return matrix.T.contiguous().T
