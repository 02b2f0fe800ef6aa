"""ZeRO stage 2 (Rajbhandari et al. 2020): sharded gradients and optimiser state, sent while the backward pass runs."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lanbot.distributed.single_device import Orthogonalise, PendingUpdate, SingleDevice, as_rows, norm_over_ranks

# torch 2.13 renamed them
_reduce_scatter: Callable[..., Any] = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


@dataclass
class _Bucket:
    """Gradients that are sent together. missing: those that the backward pass has not reached yet."""

    names: list[str]
    missing: set[str] = field(default_factory=set)
    work: dist.Work | None = None
    sent: Tensor | None = None
    received: Tensor | None = None


class Zero2(SingleDevice):
    """Every rank holds all weights; gradients and optimiser state are sharded.

    Whole matrices are assigned to ranks in turn, so that each orthogonalises its share; embedding and head are split by
    rows; vectors and adapters, which are small, are replicated. Deterministic: each rank sends its buckets in the same
    order.
    """

    def __init__(self, model: nn.Module, matrices: list[list[str]], mesh: DeviceMesh) -> None:
        super().__init__(model, matrices)
        self.mesh, self.rank, self.size = mesh, mesh.get_rank(), mesh.size()
        self.owner = {name: i % self.size for names in matrices for i, name in enumerate(names)}
        self.vectors = [name for name in self.parameters if self._replicated(name)]
        groups = [names[i : i + self.size] for names in matrices for i in range(0, len(names), self.size)]
        groups += [[name] for name in self.parameters if name not in self.owner and not self._replicated(name)]
        groups += [self.vectors] if self.vectors else []
        # the backward pass reaches the first layer last, so a bucket is ready when the first of its layers is
        place = {name: i for i, name in enumerate(self.parameters)}
        groups.sort(key=lambda names: -min(place[name] for name in names))
        self.buckets = [_Bucket(names) for names in groups]
        self.next = 0
        for bucket in self.buckets:
            for name in bucket.names:
                self.parameters[name].register_post_accumulate_grad_hook(self._hook(bucket, name))

    def _hook(self, bucket: _Bucket, name: str) -> Callable[[Tensor], None]:
        owner = weakref.ref(self)  # a parameter holds its hooks where the garbage collector sees no cycle

        def arrived(_: Tensor) -> None:
            layout = owner()
            if layout is not None and name in bucket.missing:
                bucket.missing.remove(name)
                layout._send_ready()

        return arrived

    last_backward = False

    def prepare_for_backward(self) -> None:
        self.last_backward = True
        for bucket in self.buckets:
            bucket.missing = set(bucket.names)

    def _send_ready(self) -> None:
        while self.last_backward and self.next < len(self.buckets) and not self.buckets[self.next].missing:
            self._send()

    @torch.no_grad()
    def _send(self) -> None:
        """Reduces the next bucket, each gradient to its owner."""
        bucket = self.buckets[self.next]
        self.next += 1
        parameters = [self.parameters[name] for name in bucket.names]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        if bucket.names == self.vectors:
            bucket.sent = bucket.received = torch.cat([gradient.flatten() for gradient in gradients])
            bucket.work = dist.all_reduce(bucket.sent, async_op=True)
        else:
            if bucket.names[0] in self.owner:
                empty = [torch.zeros_like(gradients[0])] * (self.size - len(gradients))
                bucket.sent = torch.cat(gradients + empty)
            else:
                bucket.sent = _padded(gradients[0], self.size)
            shape = (bucket.sent.shape[0] // self.size, bucket.sent.shape[1])
            bucket.received = bucket.sent.new_empty(shape)
            bucket.work = _reduce_scatter(bucket.received, bucket.sent, async_op=True)
        for parameter in parameters:
            parameter.grad = None

    def gradients(self) -> dict[str, Tensor]:
        while self.next < len(self.buckets):
            self._send()
        self.next, self.last_backward = 0, False
        found: dict[str, Tensor] = {}
        for bucket in self.buckets:
            assert bucket.work is not None and bucket.received is not None
            bucket.work.wait()
            received = bucket.received
            if bucket.names == self.vectors:
                vectors = [self.parameters[name] for name in bucket.names]
                parts = received.split([vector.numel() for vector in vectors])
                found |= {n: part.view(p.shape) for n, p, part in zip(bucket.names, vectors, parts, strict=True)}
            elif bucket.names[0] not in self.owner:
                part = self.shard(bucket.names[0])
                assert part is not None
                found[bucket.names[0]] = received[: len(part)]
            elif self.rank < len(bucket.names):
                found[bucket.names[self.rank]] = received
            bucket.work = bucket.sent = bucket.received = None
        return found

    def shard(self, name: str) -> Tensor | None:
        parameter = self.parameters[name].detach()
        if name in self.owner:
            return parameter if self.owner[name] == self.rank else None
        if self._replicated(name):
            return parameter
        each = -(-len(parameter) // self.size)
        return parameter[self.rank * each : (self.rank + 1) * each]

    def norm(self, gradients: dict[str, Tensor]) -> Tensor:
        mine = [g for name, g in gradients.items() if self.rank == 0 or name not in self.vectors]
        return norm_over_ranks(mine, next(iter(self.parameters.values())).device)

    def orthogonalise(
        self, names: list[str], updates: list[Tensor], function: Orthogonalise, dtype: torch.dtype
    ) -> PendingUpdate:
        rounds = -(-len(names) // self.size)
        rows, columns = self.parameters[names[0]].shape
        sent = torch.zeros(rounds, rows, columns, dtype=dtype, device=self.parameters[names[0]].device)
        if updates:  # otherwise there are more ranks than matrices
            sent[: len(updates)] = function(torch.stack(updates).to(dtype))
        received = sent.new_empty(self.size * rounds, rows, columns)
        work = _all_gather(received, sent, async_op=True)
        by_rank = received.view(self.size, rounds, rows, columns)
        return PendingUpdate([by_rank[i % self.size, i // self.size] for i in range(len(names))], work, sent)

    def all_gather(self, names: list[str]) -> None:
        sending = []
        for name in names:
            parameter = self.parameters[name].detach()
            if self._replicated(name):
                continue
            each, mine = -(-len(parameter) // self.size), self.shard(name)
            assert mine is not None
            mine = F.pad(mine, (0, 0, 0, each - len(mine))).clone()
            exact = len(parameter) == each * self.size
            received = parameter if exact else parameter.new_empty(each * self.size, parameter.shape[1])
            sending.append((parameter, received, mine, _all_gather(received, mine, async_op=True)))
        for parameter, received, _, work in sending:
            work.wait()
            if received is not parameter:
                parameter.copy_(received[: len(parameter)])

    def to_checkpoint(self, name: str, tensor: Tensor) -> Tensor:
        if name in self.owner or self._replicated(name):
            return tensor
        return as_rows(tensor, self.parameters[name], self.mesh)

    def _replicated(self, name: str) -> bool:
        """Vectors and adapters, which are small: one message for all of them."""
        return self.parameters[name].ndim < 2 or ".lora_" in name


def _padded(tensor: Tensor, ranks: int) -> Tensor:
    """With rows of zeros at the end, so that every rank has the same number."""
    missing = -len(tensor) % ranks
    return F.pad(tensor, (0, 0, 0, missing)) if missing else tensor
