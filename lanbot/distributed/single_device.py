"""The layout interface of MuonAdamW: how gradients, optimiser state and weights are distributed. One process here."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

Orthogonalise = Callable[[Tensor], Tensor]
"""(N, rows, columns) -> the same shape."""


class SingleDevice:
    """One process, without communication. Base class of the other layouts."""

    def __init__(self, model: nn.Module, matrices: list[list[str]]) -> None:
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.matrices = matrices

    def shard(self, name: str) -> Tensor | None:
        """The part of a parameter that this rank updates, as a view: all of it, some rows, or None."""
        return self.parameters[name].detach()

    def prepare_for_backward(self) -> None:
        """Called before the last backward pass of a step: gradients may be sent as they become ready."""

    def gradients(self) -> dict[str, Tensor]:
        """The gradient of each shard, summed over ranks. A rank without rows contributes zeros."""
        return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in self.parameters.items()}

    def norm(self, gradients: dict[str, Tensor]) -> Tensor:
        """The global gradient norm, in fp32."""
        foreach = not next(iter(gradients.values())).is_meta
        return torch.nn.utils.get_total_norm(gradients.values(), foreach=foreach)

    def orthogonalise(
        self, names: list[str], updates: list[Tensor], function: Orthogonalise, dtype: torch.dtype
    ) -> "PendingUpdate":
        """function applied in `dtype` to the matrices of one shape. updates: of those with a shard here, in order.

        The result is to be added to `targets(names)`; communication may still be in progress.
        """
        return PendingUpdate(list(function(torch.stack(updates).to(dtype)).unbind()))

    def targets(self, names: list[str]) -> list[Tensor]:
        """The tensors that the results of `orthogonalise` are added to."""
        return [self.parameters[name].detach() for name in names]

    def all_gather(self, names: list[str]) -> None:
        """All-gathers the updated shards of these parameters, where every rank holds all weights."""

    def to_checkpoint(self, name: str, tensor: Tensor) -> Tensor:
        """The state of a shard in the form that torch.distributed.checkpoint loads at any world size."""
        return tensor


@dataclass
class PendingUpdate:
    """Tensors whose communication is in progress: `get` waits for it."""

    tensors: list[Tensor]
    work: dist.Work | None = None
    sent: Tensor | None = None

    def get(self) -> list[Tensor]:
        if self.work is not None:
            self.work.wait()
        return self.tensors


def norm_over_ranks(mine: list[Tensor], device: torch.device) -> Tensor:
    norms = torch._foreach_norm(mine) if mine else [torch.zeros((), device=device)]
    square = torch.stack(list(norms)).float().square().sum()
    dist.all_reduce(square)
    return square.sqrt()


def as_rows(tensor: Tensor, parameter: Tensor, mesh: DeviceMesh) -> Tensor:
    """This rank's rows of a tensor of the parameter's shape, as a DTensor sharded by rows."""
    stride = torch.empty(parameter.shape, device="meta").stride()
    return DTensor.from_local(tensor, mesh, [Shard(0)], run_check=False, shape=parameter.shape, stride=stride)
