"""A CPU's products in bf16 with matrices that are laid out for it once.

F.linear lays its matrix out anew at each call, which takes longer than the product of a few rows. These two operations
are those that torch.compile calls.
"""

import torch
from torch import Tensor


def supported() -> bool:
    """Whether this CPU and this build of torch multiply in bf16."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def packed(weight: Tensor) -> Tensor:
    """A matrix (outputs, inputs) for `product` alone."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, None)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """(..., inputs) -> (..., outputs), in bf16."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, None, "none", [], "")
