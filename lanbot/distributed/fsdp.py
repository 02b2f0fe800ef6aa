"""FSDP2 for models whose training state does not fit one device: every parameter is sharded by rows over the ranks.

Blocks are gathered one by one, in the compute dtype, as forward and backward reach them; the root (embedding, last
norm, head) in fp32, once a pass. The root stays gathered from its forward to the end of its backward, so that the
loss can read all of `lm_head.weight`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lanbot.core import hardware
from lanbot.distributed.runtime import Runtime
from lanbot.distributed.single_device import Orthogonalise, PendingUpdate, SingleDevice, as_rows, norm_over_ranks
from lanbot.models.config import ModelConfig
from lanbot.models.lora import LoRA, merge
from lanbot.models.transformer import Transformer

if TYPE_CHECKING:
    from lanbot.models.stored import Rows


def shard(model: Transformer, mesh: DeviceMesh) -> None:
    """Shards the model's parameters in place. All ranks must hold the same full weights before."""
    compute = None if model.dtype == torch.float32 else model.dtype  # a matrix is cast to it anyway
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    for block in model.layers:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # gradients are summed: the loss is normalised over all ranks
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def shard_if_needed(model: Transformer, runtime: Runtime) -> None:
    """`shard`, where several ranks train a model that does not fit each of them, and it is not sharded yet."""
    if runtime.mesh is None or is_sharded(model):
        return
    if must_shard(model.config, runtime.size, None, model.lora, model.dtype):
        shard(model, runtime.mesh)


def must_shard(
    config: ModelConfig, ranks: int, device_memory: float | None = None, lora: LoRA | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> bool:  # fmt: skip
    """Whether weights and gradients must be sharded too: in full they would take half of a device. device_memory: its
    bytes, by default this machine's. lora, dtype: the adapters, and what frozen weights are kept in."""
    return ranks > 1 and sum(held_bytes(config, lora, dtype)) > (device_memory or hardware.total()) // 2


def held_bytes(config: ModelConfig, lora: LoRA | None, dtype: torch.dtype) -> tuple[int, int]:
    """Of weights and of gradients in full. What is trained is fp32, what is frozen is in `dtype`."""
    if lora is None:
        return 4 * config.params(), 4 * config.params()
    trained = lora.trained(config)
    frozen = config.params() + lora.params(config) - trained
    return dtype.itemsize * frozen + 4 * trained, 4 * trained


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


def gathered(model: Transformer) -> Transformer:
    """The model itself if it is not sharded; otherwise a full copy in the compute dtype on every rank, adapters merged,
    to evaluate and sample with: its forward passes do not communicate. All ranks call it."""
    if not is_sharded(model):
        return model
    return _assembled(model, {name: whole.to(model.dtype) for name, whole in _whole(model)}).to(model.dtype)


def gathered_on_main(model: Transformer, main: bool) -> Transformer | None:
    """The model itself if it is neither sharded nor has adapters; otherwise, on rank 0 only, a copy on the CPU in fp32,
    adapters merged. All ranks call it."""
    if not is_sharded(model) and model.lora is None:
        return model
    held = on_main(model, main)
    return _assembled(model, held).float() if main else None


def on_main(model: Transformer, main: bool, trained_alone: bool = False) -> dict[str, Tensor]:
    """Full weights by name on the CPU, on rank 0; {} on the others. All ranks call it."""
    held = {}
    for name, whole in _whole(model, trained_alone):  # one at a time: together they may not fit the device
        if main:
            held[name] = whole.cpu()
    return held


def load_model(
    folder: Path, runtime: Runtime, prepare: Callable[[Transformer], None], lora: LoRA | None = None
) -> Transformer:
    """The model of a folder. Where it must be sharded this rank's rows of each parameter alone are read. All ranks call
    it.

    prepare(model): changes its modules and their types, before they have memory. lora: the adapters that it gives them.
    Raises UserError as weights.load_model.
    """
    from lanbot.models import weights  # benchmarks shard models where there is no safetensors

    model, stored = weights.skeleton(folder, runtime.dtype)
    prepare(model)
    if runtime.mesh is not None and must_shard(model.config, runtime.size, None, lora, runtime.dtype):
        shard(model, runtime.mesh)
    model.to_empty(device=runtime.device)
    model.tie()
    weights.fill(model, stored, _put_rows)
    return model


def load(model: Transformer, folder: Path) -> None:
    """Copies a folder's weights into a model of their shape, sharded or not. Raises UserError as weights.load_model."""
    from lanbot.models import weights

    _, stored = weights.skeleton(folder, model.dtype)
    weights.fill(model, stored, _put_rows)


@torch.no_grad()
def interpolate(model: Transformer, folder: Path, share: float) -> None:
    """Moves a model's weights back towards a folder's, where its training began: to start + share * (now - start).

    Averages of the weights before and after fine-tuning keep most of what was learned and forget less (Wortsman et al.
    2022). Adapters, which began as nothing, are multiplied.
    """
    from lanbot.models import weights

    _, stored = weights.skeleton(folder, model.dtype)
    weights.fill(model, stored, partial(_put_rows, put=lambda now, start: now.lerp_(start.to(now), 1 - share)))
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            parameter.mul_(share)


def _put_rows(parameter: Tensor, stored: "Rows", put: Callable[[Tensor, Tensor], Any] = Tensor.copy_) -> None:
    """What this rank holds of a parameter: of a sharded one a part of equal size, the last ones shorter or empty."""
    if not isinstance(parameter, DTensor):
        put(parameter, stored.read())
        return
    local, mesh = parameter.to_local(), parameter.device_mesh
    start = mesh.get_rank() * -(-len(parameter) // mesh.size())
    if len(local):
        put(local, stored.read(slice(start, start + len(local))))


@torch.no_grad()
def put(model: Transformer, values: Mapping[str, Tensor]) -> None:
    """Copies full weights by name into a model, sharded or not; what has none there is left as it is."""
    parameters = dict(model.named_parameters())
    for name, value in values.items():
        parameter = parameters[name]
        if isinstance(parameter, DTensor):  # src_data_rank=None: each rank cuts its own rows out, nothing is sent
            value = distribute_tensor(
                value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
            )
        parameter.copy_(value)


def _whole(model: Transformer, trained_alone: bool = False):  # type: ignore[no-untyped-def]
    """(name, full tensor) of each parameter in turn."""
    for name, parameter in model.named_parameters():
        if trained_alone and not parameter.requires_grad:
            continue
        value = parameter.detach()
        yield name, value.full_tensor() if isinstance(value, DTensor) else value


def _assembled(model: Transformer, values: dict[str, Tensor]) -> Transformer:
    with torch.device("meta"):
        copy = Transformer(model.config, model.dtype)
    values = merge(values, model.lora)
    if model.config.tie_embeddings:
        values = {**values, "lm_head.weight": values["embed_tokens.weight"]}
    copy.load_state_dict(values, assign=True)
    copy.tie()
    return copy.requires_grad_(False)


class FSDP(SingleDevice):
    """FSDP2 has sharded every parameter by rows, and sums the gradients in the backward pass."""

    def __init__(self, model: nn.Module, matrices: list[list[str]], mesh: DeviceMesh) -> None:
        super().__init__(model, matrices)
        self.mesh, self.rank, self.size = mesh, mesh.get_rank(), mesh.size()

    def shard(self, name: str) -> Tensor | None:
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
        return norm_over_ranks(list(gradients.values()), self._local(next(iter(self.parameters))).device)

    def orthogonalise(
        self, names: list[str], updates: list[Tensor], function: Orthogonalise, dtype: torch.dtype
    ) -> PendingUpdate:
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
        return PendingUpdate([m[: len(u)] for m, u in zip(mine, updates, strict=False)])

    def targets(self, names: list[str]) -> list[Tensor]:
        return [self._local(name) for name in names]

    def to_checkpoint(self, name: str, tensor: Tensor) -> Tensor:
        return as_rows(tensor, self.parameters[name], self.mesh)

    def _local(self, name: str) -> Tensor:
        part = self.shard(name)
        assert part is not None
        return part
