"""Whether a phase fits its device, and which way of training it does."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lanbot.config.recipe import FineTuning, Training
from lanbot.core import hardware
from lanbot.core.console import size
from lanbot.core.errors import UserError
from lanbot.distributed.fsdp import must_shard
from lanbot.distributed.runtime import Runtime
from lanbot.models.config import ModelConfig
from lanbot.training import memory
from lanbot.training.memory import USABLE, Method, State

RANK = 16
"""Of the adapters that `fit` gives a phase."""
MORE = (2, 4, 8, 16, 32, 64)
"""Numbers of devices that are tried where one way of training fits none of them."""


@dataclass(frozen=True)
class Plan:
    """What one rank needs. rows: of T tokens in one forward pass. sharded: weights and gradients, over the ranks."""

    method: Method
    T: int
    rows: int
    state: State
    activations: int
    cache: int
    ranks: int
    sharded: bool

    @property
    def total(self) -> int:
        return self.state.total + self.activations + self.cache

    @property
    def way(self) -> str:
        lora = self.method.lora
        parts = [f"LoRA of rank {lora.rank} on {', '.join(lora.targets)}" if lora else "all weights"]
        parts += ["activation checkpointing"] * self.method.checkpointing
        if self.ranks > 1:
            parts.append(f"{self.ranks} devices, {'all' if self.sharded else 'the optimiser'} sharded")
        return ", ".join(parts)

    @property
    def sum(self) -> str:
        state = self.state
        named = {
            "weights": state.weights, "gradients": state.gradients, "optimiser": state.optimizer,
            "gathered": state.gathered, "copies to sample with": state.copies, "keys and values": self.cache,
            "activations": self.activations,
        }  # fmt: skip
        return " + ".join(f"{name} {size(count)}" for name, count in named.items() if count) + f" = {size(self.total)}"


def plan(config: ModelConfig, T: int, settings: Training, runtime: Runtime) -> Plan:
    """How the settings of a phase train on this runtime's device."""
    method = Method.of(settings)
    rows = settings.micro_batch or memory.micro_batch(config, T, runtime, method)
    state = memory.state(config, runtime.size, None, method, runtime.dtype)
    activations = memory.activation_bytes(config, rows, T, runtime, method)
    cache = memory.cache_bytes(config, T, runtime, method)
    sharded = must_shard(config, runtime.size, None, method.lora, runtime.dtype)
    return Plan(method, T, rows, state, activations, cache, runtime.size, sharded)


def have(runtime: Runtime) -> float:
    """Bytes that training may take of this rank's device."""
    return min(hardware.total() * USABLE[runtime.device.type], hardware.available())


def ways(settings: Training, lora: bool = True, added: bool = False) -> Iterator[Training]:
    """The settings, then with activation checkpointing, then (if `lora`) the same with adapters. added: tokens were
    added to the vocabulary, so that adapters need a trained embedding and head beside them."""
    yield settings
    if not settings.activation_checkpointing:
        yield replace(settings, activation_checkpointing=True)
    if lora and isinstance(settings, FineTuning) and not settings.lora_rank:
        embeddings = settings.lora_embeddings or added
        yield from ways(replace(settings, lora_rank=RANK, lora_embeddings=embeddings, fp8=False))


def fit(
    config: ModelConfig, T: int, what: str, settings: Training, runtime: Runtime, lora: bool = True,
    added: bool = False,
) -> Training:  # fmt: skip
    """The first of the `ways` that fits, with fewer rows at a time where other programs leave too little memory. Raises
    UserError if none does. what: the phase."""
    for way in ways(settings, lora, added):
        least = plan(config, T, way, runtime)
        if least.total > have(runtime) and way.micro_batch is None:
            rows = memory.micro_batch(config, T, runtime, Method.of(way), have(runtime))
            way = replace(way, micro_batch=rows)
            least = plan(config, T, way, runtime)
        if least.total <= have(runtime):
            return way
    problem = f"{what} does not fit: {least.way} and {least.rows} x {T:,} tokens need {size(least.total)}"
    raise UserError(
        f"{problem}, of {size(int(have(runtime)))} that this device has", _remedy(config, T, what, way, runtime)
    )


def _remedy(config: ModelConfig, T: int, what: str, way: Training, runtime: Runtime) -> str:
    """way: the one that needs least."""
    shorter = T // 2
    while shorter >= 128 and plan(config, shorter, way, runtime).total > have(runtime):
        shorter //= 2
    if shorter >= 128:
        return f"Lower {what}.sequence: {shorter:,} would fit."
    for ranks in MORE:
        more = plan(config, T, way, replace(runtime, size=ranks))
        if ranks > runtime.size and more.total <= have(runtime):
            return f"Use {ranks} such devices: torchrun --nproc-per-node {ranks} (docs/multi-node.md)."
    return "Choose a smaller model."


def check(config: ModelConfig, T: int, what: str, settings: Training, runtime: Runtime) -> None:
    """Raises UserError if `what` (a phase) cannot fit into the memory of this machine, before anything is made; it
    names what would fit."""
    need, free = plan(config, T, replace(settings, micro_batch=1), runtime).total, hardware.available()
    if need <= free:
        return
    try:
        way = fit(config, T, what, settings, runtime)
        remedy = f"Add --fit: {plan(config, T, way, runtime).way} fits."
    except UserError as error:
        remedy = error.remedy or ""
    raise UserError(
        f"{what} needs about {size(need)} of memory for {config.params():,} parameters, but {size(free)} are free",
        remedy,
    )
