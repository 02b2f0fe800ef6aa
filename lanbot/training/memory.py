"""The memory that training a model needs, and the micro-batch that fits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lanbot.core import hardware
from lanbot.distributed.fsdp import held_bytes, must_shard
from lanbot.distributed.runtime import Runtime
from lanbot.models import compile
from lanbot.models.attention import PLAIN_ATTENTION, has_flash
from lanbot.models.config import ModelConfig
from lanbot.models.lora import LoRA
from lanbot.models.loss import CHUNK, KEPT_BYTES

MICRO_BATCH_TOKENS = {"cpu": 8_192, "cuda": 32_768, "mps": 8_192}
"""More than this at a time no longer makes the products faster."""

USABLE = {"cpu": 0.5, "cuda": 0.9, "mps": 0.5}
"""The share of `total` that training may plan with. The rest of a GPU is for contexts, NCCL and fragmentation."""


@dataclass(frozen=True)
class Method:
    """How a phase trains, as far as memory depends on it. lora: None: all weights. checkpointing: of activations.
    copies: of the weights in the compute dtype, besides those that are trained: RL generates with one, and its KL term
    refers to another. answers: sampled in a step of RL, at the same time where there is room."""

    lora: LoRA | None = None
    checkpointing: bool = False
    copies: int = 0
    answers: int = 0

    @classmethod
    def of(cls, settings: Any) -> "Method":
        """By a phase's section of the recipe."""
        lora = None
        if rank := getattr(settings, "lora_rank", 0):
            s = settings
            lora = LoRA(rank, s.lora_alpha, s.lora_targets, s.lora_embeddings, s.lora_layers)
        reference = bool(getattr(settings, "kl", 0)) and lora is None  # with adapters the frozen weights serve
        answers = settings.prompts * settings.group_size if hasattr(settings, "group_size") else 0
        return cls(lora, settings.activation_checkpointing, bool(answers) + reference, answers)


FULL = Method()


@dataclass(frozen=True)
class State:
    """Bytes of one rank. gathered: of a sharded model, what is whole for a moment. copies: see Method."""

    weights: int
    gradients: int
    optimizer: int
    gathered: int = 0
    copies: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.gathered + self.copies


def state(
    config: ModelConfig, ranks: int = 1, device_memory: float | None = None, method: Method = FULL,
    dtype: torch.dtype = torch.bfloat16,
) -> State:  # fmt: skip
    """What one rank holds. Trained weights and gradients are fp32, frozen weights in `dtype`; the optimiser has 4 bytes
    for a matrix parameter (Muon), 8 for each of the others. Ranks share the optimiser's state, except that of adapters;
    they share everything if the model `must_shard`. device_memory: of a rank's device, by default this machine's."""
    lora, embeddings = method.lora, config.embeddings()
    matrices = config.params() - embeddings
    weights, gradients = held_bytes(config, lora, dtype)
    copies = method.copies * dtype.itemsize * config.params()
    if lora is None:
        shared, whole = 4 * matrices + 8 * embeddings, 0
        a_block, root = 8 * matrices // config.n_layers, 8 * embeddings
    else:
        whole = 8 * lora.params(config)
        shared = 8 * lora.trained(config) - whole
        a_block = 2 * dtype.itemsize * matrices // config.n_layers
        root = (8 if lora.embeddings else dtype.itemsize) * embeddings
    if must_shard(config, ranks, device_memory, lora, dtype):
        return State(weights // ranks, gradients // ranks, (shared + whole) // ranks, a_block + root, copies)
    return State(weights, gradients, shared // ranks + whole, 0, copies)


def state_bytes(
    config: ModelConfig, ranks: int = 1, device_memory: float | None = None, method: Method = FULL,
    dtype: torch.dtype = torch.bfloat16,
) -> int:  # fmt: skip
    return state(config, ranks, device_memory, method, dtype).total


def cache_bytes(config: ModelConfig, T: int, runtime: Runtime, method: Method) -> int:
    """Keys and values of one rank's answers of up to T tokens, which stay reserved while it trains."""
    itemsize = 4 if runtime.device.type == "cpu" else runtime.dtype.itemsize
    of_a_token = 2 * config.n_layers * config.n_kv_heads * config.head_dim * itemsize
    return min(-(-method.answers // runtime.size) * T * of_a_token, hardware.for_cache())


def activation_bytes(config: ModelConfig, rows: int, T: int, runtime: Runtime, method: Method = FULL) -> int:
    """What a forward pass keeps for its backward, on this device. Off CUDA counted as fp32: an upper estimate."""
    if runtime.device.type == "cuda":
        flash = has_flash(runtime.device, runtime.dtype, config.head_dim)
        compiled = compile.enabled(runtime.device) and runtime.dtype != torch.float32
        return cuda_activation_bytes(config, rows, T, runtime.dtype, compiled, flash, method)
    heads = config.head_dim * (3 * config.n_heads + 4 * config.n_kv_heads)
    trained = _layers(config, method)
    layers = 1 if method.checkpointing else trained
    per_token = layers * (8 * config.dim + heads + 4 * config.mlp_dim + _low(method)) + 4 * config.dim
    if method.checkpointing:
        per_token += trained * config.dim
    mask = rows * T * T * 5
    scores = 4 * (layers + 2) * config.n_heads * rows * T * T if T <= PLAIN_ATTENTION else 0
    return 4 * rows * T * per_token + mask + scores + 3 * 4 * 256 * config.vocab_size


def cuda_activation_bytes(
    config: ModelConfig, rows: int, T: int, dtype: torch.dtype = torch.bfloat16, compiled: bool = True,
    flash: bool = True, method: Method = FULL,
) -> int:  # fmt: skip
    """What a forward pass keeps for its backward on a GPU, with the matrices' casts and what the loss works in.

    Of each layer: its input, the output of its first half, both normed; queries and keys before and after norm and
    rotation, values, what attention gives; gate, up and their product, and as written the gate's SiLU too. A test
    counts the same on the meta device. With activation checkpointing of each layer its input, and all of one layer.
    Frozen matrices need no cast, and a frozen head no gradient.
    """
    s, tokens, V, C = dtype.itemsize, rows * T, config.vocab_size, config.dim
    query, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    layer = s * (4 * C + 5 * query + kv + (3 if compiled else 4) * config.mlp_dim + _low(method))
    layer += 4 * (2 * config.n_heads + config.n_kv_heads + 2)  # sums of exponentials, scales of the norms, in fp32
    trained = _layers(config, method)
    kept = layer + trained * s * C if method.checkpointing else trained * layer
    mask = 0 if flash else (s + 1) * tokens * T
    chunk = min(tokens, CHUNK["cuda"])
    gathered = max(chunk, min(tokens, KEPT_BYTES["cuda"] // (s * V))) * V * s
    loss = gathered + chunk * V * s + s * tokens * C
    casts = 0 if method.lora else s * (config.matmul_params() - V * C)
    casts = casts // config.n_layers if method.checkpointing else casts
    if method.lora is None or method.lora.embeddings:
        loss += (8 + 2 * s) * V * C
    return kept * tokens + 2 * s * tokens * C + mask + casts + loss


def _layers(config: ModelConfig, method: Method) -> int:
    """The layers through which the backward pass goes."""
    partly = method.lora and method.lora.layers and not method.lora.embeddings
    return min(method.lora.layers, config.n_layers) if method.lora and partly else config.n_layers


def _low(method: Method) -> int:
    """Numbers that the adapters of a layer keep of a token."""
    return method.lora.rank * len(method.lora.targets) if method.lora else 0


def micro_batch(config: ModelConfig, T: int, runtime: Runtime, method: Method = FULL, have: float | None = None) -> int:
    """How many rows of T tokens one forward pass may have: as many as are of use, and fit; at least one. have: bytes;
    None: the usable share of all, which is the same in every run."""
    most = MICRO_BATCH_TOKENS[runtime.device.type] // T
    usable = hardware.total() * USABLE[runtime.device.type] if have is None else have
    held = state_bytes(config, runtime.size, None, method, runtime.dtype) + cache_bytes(config, T, runtime, method)
    return rows_that_fit(most, usable - held, lambda rows: activation_bytes(config, rows, T, runtime, method))


def rows_that_fit(most: int, room: float, need: Callable[[int], int]) -> int:
    """The most rows of which `need`, in bytes, is at most `room`: `most`, or a half of it and so on; at least one."""
    rows = max(1, most)
    while rows > 1 and need(rows) > room:
        rows = (rows + 1) // 2
    return rows
