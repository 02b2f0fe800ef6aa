"""How gradients, optimiser state and weights lie over the ranks of a run.

Three layouts with one face, of which MuonAdamW knows nothing else:

- `SingleDevice`: one process. Everything is here, nothing is sent, nothing is copied.
- `Zero2`: every rank holds all weights; gradients and optimiser state are dealt out (stage 2 of ZeRO, Rajbhandari et
  al. 2020). Whole matrices go round the ranks, so that each orthogonalises its share; embedding and head are cut by
  rows; vectors, which weigh nothing, are everywhere. Gradients travel while the backward pass goes on.
- `FSDP`: FSDP2 has cut every parameter by rows. To be orthogonalised, the momentum-updated gradient of a matrix
  goes to one rank, and what comes of it goes back.

A part is what a rank updates of a parameter: all of it, or some rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard

Orthogonalise = Callable[[Tensor], Tensor]
"""(N, rows, columns) -> the same shape."""

# torch 2.13 renamed them
_reduce_scatter: Callable[..., Any] = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


def layout(model: nn.Module, matrices: list[list[str]], mesh: DeviceMesh | None) -> "SingleDevice":
    """How `model` lies over the ranks.

    matrices: the names of those that are orthogonalised, in groups of one shape.
    """
    if mesh is None:
        return SingleDevice(model, matrices)
    return FSDP(model, matrices, mesh) if isinstance(model, FSDPModule) else Zero2(model, matrices, mesh)


class SingleDevice:
    """One process."""

    def __init__(self, model: nn.Module, matrices: list[list[str]]) -> None:
        self.parameters = dict(model.named_parameters())
        self.matrices = matrices

    def part(self, name: str) -> Tensor | None:
        """What this rank keeps optimiser state for, sharing its memory with the parameter; None: nothing of it."""
        return self.parameters[name].detach()

    def expect(self) -> None:
        """The next backward pass is the last of this step: gradients may be sent as they come."""

    def gradients(self) -> dict[str, Tensor]:
        """The gradient of every part, summed over ranks. A rank without rows counts as zeros."""
        return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in self.parameters.items()}

    def norm(self, gradients: dict[str, Tensor]) -> Tensor:
        """Of the whole gradient, in fp32."""
        return torch.nn.utils.get_total_norm(gradients.values(), foreach=True)

    def orthogonalised(
        self, names: list[str], updates: list[Tensor], function: Orthogonalise, dtype: torch.dtype
    ) -> "Arriving":
        """function applied in `dtype` to the matrices of one shape. updates: of those with a part here, in order.

        What comes out belongs to `to_change(names)`, and may still be on its way.
        """
        return Arriving(list(function(torch.stack(updates).to(dtype)).unbind()))

    def to_change(self, names: list[str]) -> list[Tensor]:
        """Where the results of `orthogonalised` are to be added."""
        return [self.parameters[name].detach() for name in names]

    def publish(self, names: list[str]) -> None:
        """The parts of these have changed: all who hold the parameter shall know."""

    def stored(self, name: str, tensor: Tensor) -> Tensor:
        """State of a part as torch.distributed.checkpoint saves it and reads it at any world size."""
        return tensor


@dataclass
class Arriving:
    """Tensors on their way: `get` waits for them."""

    tensors: list[Tensor]
    work: dist.Work | None = None
    sent: Tensor | None = None

    def get(self) -> list[Tensor]:
        if self.work is not None:
            self.work.wait()
        return self.tensors


@dataclass
class _Round:
    """Gradients that are sent at once. missing: those whose backward has not come yet."""

    names: list[str]
    missing: set[str] = field(default_factory=set)
    work: dist.Work | None = None
    sent: Tensor | None = None
    received: Tensor | None = None


class Zero2(SingleDevice):
    """All weights everywhere, gradients and state dealt out. Deterministic: each rank sends in the same order."""

    def __init__(self, model: nn.Module, matrices: list[list[str]], mesh: DeviceMesh) -> None:
        super().__init__(model, matrices)
        self.mesh, self.rank, self.size = mesh, mesh.get_rank(), mesh.size()
        self.owner = {name: i % self.size for names in matrices for i, name in enumerate(names)}
        self.vectors = [name for name, p in self.parameters.items() if p.ndim < 2]
        rounds = [names[i : i + self.size] for names in matrices for i in range(0, len(names), self.size)]
        rounds += [[name] for name, p in self.parameters.items() if p.ndim == 2 and name not in self.owner]
        rounds += [self.vectors] if self.vectors else []
        # the backward pass comes to the first layer last, so a round is ready when the first of its layers is
        place = {name: i for i, name in enumerate(self.parameters)}
        rounds.sort(key=lambda names: -min(place[name] for name in names))
        self.rounds = [_Round(names) for names in rounds]
        self.next = 0
        for round_ in self.rounds:
            for name in round_.names:
                self.parameters[name].register_post_accumulate_grad_hook(self._hook(round_, name))

    def _hook(self, round_: _Round, name: str) -> Callable[[Tensor], None]:
        def arrived(_: Tensor) -> None:
            if name in round_.missing:
                round_.missing.remove(name)
                while self.next < len(self.rounds) and self.expecting and not self.rounds[self.next].missing:
                    self._send()

        return arrived

    expecting = False

    def expect(self) -> None:
        self.expecting = True
        for round_ in self.rounds:
            round_.missing = set(round_.names)

    @torch.no_grad()
    def _send(self) -> None:
        """Sends the next round's gradients, each to its owner."""
        round_ = self.rounds[self.next]
        self.next += 1
        parameters = [self.parameters[name] for name in round_.names]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        if round_.names == self.vectors:
            round_.sent = round_.received = torch.cat(gradients)
            round_.work = dist.all_reduce(round_.sent, async_op=True)
        else:
            if round_.names[0] in self.owner:
                empty = [torch.zeros_like(gradients[0])] * (self.size - len(gradients))
                round_.sent = torch.cat(gradients + empty)
            else:
                round_.sent = _padded(gradients[0], self.size)
            shape = (round_.sent.shape[0] // self.size, round_.sent.shape[1])
            round_.received = round_.sent.new_empty(shape)
            round_.work = _reduce_scatter(round_.received, round_.sent, async_op=True)
        for parameter in parameters:
            parameter.grad = None

    def gradients(self) -> dict[str, Tensor]:
        while self.next < len(self.rounds):
            self._send()
        self.next, self.expecting = 0, False
        found: dict[str, Tensor] = {}
        for round_ in self.rounds:
            assert round_.work is not None and round_.received is not None
            round_.work.wait()
            received = round_.received
            if round_.names == self.vectors:
                sizes = [self.parameters[name].numel() for name in round_.names]
                found |= zip(round_.names, received.split(sizes), strict=True)
            elif round_.names[0] not in self.owner:
                part = self.part(round_.names[0])
                assert part is not None
                found[round_.names[0]] = received[: len(part)]
            elif self.rank < len(round_.names):
                found[round_.names[self.rank]] = received
            round_.work = round_.sent = round_.received = None
        return found

    def part(self, name: str) -> Tensor | None:
        parameter = self.parameters[name].detach()
        if name in self.owner:
            return parameter if self.owner[name] == self.rank else None
        if parameter.ndim < 2:
            return parameter
        each = -(-len(parameter) // self.size)
        return parameter[self.rank * each : (self.rank + 1) * each]

    def norm(self, gradients: dict[str, Tensor]) -> Tensor:
        mine = [g for name, g in gradients.items() if self.rank == 0 or name not in self.vectors]
        return _norm_over_ranks(mine, next(iter(self.parameters.values())).device)

    def orthogonalised(
        self, names: list[str], updates: list[Tensor], function: Orthogonalise, dtype: torch.dtype
    ) -> Arriving:
        rounds = -(-len(names) // self.size)
        rows, columns = self.parameters[names[0]].shape
        sent = torch.zeros(rounds, rows, columns, dtype=dtype, device=self.parameters[names[0]].device)
        if updates:  # else there are more ranks than matrices
            sent[: len(updates)] = function(torch.stack(updates).to(dtype))
        received = sent.new_empty(self.size * rounds, rows, columns)
        work = _all_gather(received, sent, async_op=True)
        by_rank = received.view(self.size, rounds, rows, columns)
        return Arriving([by_rank[i % self.size, i // self.size] for i in range(len(names))], work, sent)

    def publish(self, names: list[str]) -> None:
        sending = []
        for name in names:
            parameter = self.parameters[name].detach()
            if parameter.ndim < 2:
                continue
            each, mine = -(-len(parameter) // self.size), self.part(name)
            assert mine is not None
            mine = F.pad(mine, (0, 0, 0, each - len(mine))).clone()
            exact = len(parameter) == each * self.size
            received = parameter if exact else parameter.new_empty(each * self.size, parameter.shape[1])
            sending.append((parameter, received, mine, _all_gather(received, mine, async_op=True)))
        for parameter, received, _, work in sending:
            work.wait()
            if received is not parameter:
                parameter.copy_(received[: len(parameter)])

    def stored(self, name: str, tensor: Tensor) -> Tensor:
        if name in self.owner or tensor.ndim < 2:
            return tensor
        return _as_rows(tensor, self.parameters[name], self.mesh)


class FSDP(SingleDevice):
    """FSDP2 has cut every parameter by rows, and has summed the gradients when backward is over."""

    def __init__(self, model: nn.Module, matrices: list[list[str]], mesh: DeviceMesh) -> None:
        super().__init__(model, matrices)
        self.mesh, self.rank, self.size = mesh, mesh.get_rank(), mesh.size()

    def part(self, name: str) -> Tensor | None:
        parameter = self.parameters[name].detach()
        assert isinstance(parameter, DTensor)
        return parameter.to_local()

    def gradients(self) -> dict[str, Tensor]:
        found = {}
        for name, parameter in self.parameters.items():
            gradient = parameter.grad
            if gradient is None:
                found[name] = torch.zeros_like(self._local(name))
            else:
                assert isinstance(gradient, DTensor)
                found[name] = gradient.to_local()
        return found

    def norm(self, gradients: dict[str, Tensor]) -> Tensor:
        return _norm_over_ranks(list(gradients.values()), self._local(next(iter(self.parameters))).device)

    def orthogonalised(
        self, names: list[str], updates: list[Tensor], function: Orthogonalise, dtype: torch.dtype
    ) -> Arriving:
        """Each rank sends its rows of every matrix to that matrix' owner (all-to-all), and gets its rows back."""
        rows, columns = self.parameters[names[0]].shape
        each, rounds = -(-rows // self.size), -(-len(names) // self.size)
        even = F.pad(
            torch.stack(updates).to(dtype), (0, 0, 0, each - len(updates[0]), 0, rounds * self.size - len(names))
        )
        sent = even.view(rounds, self.size, each, columns).transpose(0, 1).contiguous()  # [owner, round]
        received = torch.empty_like(sent)  # [rank that has the rows, round]
        dist.all_to_all_single(received, sent)
        whole = received.transpose(0, 1).reshape(rounds, self.size * each, columns)[:, :rows]
        done = F.pad(function(whole), (0, 0, 0, self.size * each - rows))
        sent = done.view(rounds, self.size, each, columns).transpose(0, 1).contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        mine = received.transpose(0, 1).reshape(rounds * self.size, each, columns)
        return Arriving([m[: len(u)] for m, u in zip(mine, updates, strict=False)])

    def to_change(self, names: list[str]) -> list[Tensor]:
        return [self._local(name) for name in names]

    def stored(self, name: str, tensor: Tensor) -> Tensor:
        return _as_rows(tensor, self.parameters[name], self.mesh)

    def _local(self, name: str) -> Tensor:
        part = self.part(name)
        assert part is not None
        return part


def _padded(tensor: Tensor, ranks: int) -> Tensor:
    """With rows of zeros at the end, so that every rank gets as many."""
    missing = -len(tensor) % ranks
    return F.pad(tensor, (0, 0, 0, missing)) if missing else tensor


def _norm_over_ranks(mine: list[Tensor], device: torch.device) -> Tensor:
    norms = torch._foreach_norm(mine) if mine else [torch.zeros((), device=device)]
    square = torch.stack(list(norms)).float().square().sum()
    dist.all_reduce(square)
    return square.sqrt()


def _as_rows(tensor: Tensor, parameter: Tensor, mesh: DeviceMesh) -> Tensor:
    """This rank's rows of something of a parameter's shape, as what they are: a shard of it."""
    stride = torch.empty(parameter.shape, device="meta").stride()
    return DTensor.from_local(tensor, mesh, [Shard(0)], run_check=False, shape=parameter.shape, stride=stride)
