"""The memory that training a model needs, and the micro-batch that fits."""

from collections.abc import Callable

import torch

from lanbot.core import hardware
from lanbot.core.console import size
from lanbot.core.errors import UserError
from lanbot.distributed.fsdp import must_shard
from lanbot.distributed.runtime import Runtime
from lanbot.models import compile
from lanbot.models.attention import PLAIN_ATTENTION, has_flash
from lanbot.models.config import ModelConfig
from lanbot.models.loss import CHUNK, KEPT_BYTES

MICRO_BATCH_TOKENS = {"cpu": 8_192, "cuda": 32_768, "mps": 8_192}
"""More than this at a time no longer makes the products faster."""

USABLE = {"cpu": 0.5, "cuda": 0.9, "mps": 0.5}
"""The share of `total` that training may plan with. The rest of a GPU is for contexts, NCCL and fragmentation."""


def state_bytes(config: ModelConfig, ranks: int = 1, device_memory: float | None = None) -> int:
    """Of one rank: masters, gradients and its share of the optimiser's state, all fp32 (4 bytes a matrix parameter with
    Muon, 8 for each of the others). Of a model that `must_shard`: its share of all, a block and the embeddings.
    device_memory: bytes of a rank's device, by default this machine's."""
    embeddings = config.vocab_size * config.dim * (1 if config.tie_embeddings else 2)
    matrices = config.params() - embeddings
    if must_shard(config, ranks, device_memory):
        return (12 * matrices + 16 * embeddings) // ranks + 8 * matrices // config.n_layers + 8 * embeddings
    return 8 * config.params() + (4 * matrices + 8 * embeddings) // ranks


def activation_bytes(config: ModelConfig, rows: int, T: int, runtime: Runtime) -> int:
    """What a forward pass keeps for its backward, on this device. Off CUDA counted as fp32: an upper estimate."""
    if runtime.device.type == "cuda":
        flash = has_flash(runtime.device, runtime.dtype, config.head_dim)
        compiled = compile.enabled(runtime.device) and runtime.dtype != torch.float32
        return cuda_activation_bytes(config, rows, T, runtime.dtype, compiled, flash)
    heads = config.head_dim * (3 * config.n_heads + 4 * config.n_kv_heads)
    per_token = config.n_layers * (8 * config.dim + heads + 4 * config.mlp_dim) + 4 * config.dim
    mask = rows * T * T * 5
    scores = 4 * (config.n_layers + 2) * config.n_heads * rows * T * T if T <= PLAIN_ATTENTION else 0
    return 4 * rows * T * per_token + mask + scores + 3 * 4 * 256 * config.vocab_size


def cuda_activation_bytes(
    config: ModelConfig, rows: int, T: int, dtype: torch.dtype = torch.bfloat16, compiled: bool = True,
    flash: bool = True,
) -> int:  # fmt: skip
    """What a forward pass keeps for its backward on a GPU, with the matrices' casts and what the loss works in.

    Of each layer: its input, the output of its first half, both normed; queries and keys before and after norm and
    rotation, values, what attention gives; gate, up and their product, and as written the gate's SiLU too. A test
    counts the same on the meta device.
    """
    s, tokens, V, C = dtype.itemsize, rows * T, config.vocab_size, config.dim
    query, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    layer = s * (4 * C + 5 * query + kv + (3 if compiled else 4) * config.mlp_dim)
    layer += 4 * (2 * config.n_heads + config.n_kv_heads + 2)  # sums of exponentials, scales of the norms, in fp32
    mask = 0 if flash else (s + 1) * tokens * T
    casts = s * (config.matmul_params() - V * C)
    chunk = min(tokens, CHUNK["cuda"])
    gathered = max(chunk, min(tokens, KEPT_BYTES["cuda"] // (s * V))) * V * s
    loss = gathered + chunk * V * s + s * tokens * C + (8 + 2 * s) * V * C
    return config.n_layers * layer * tokens + 2 * s * tokens * C + mask + casts + loss


def micro_batch(config: ModelConfig, T: int, runtime: Runtime) -> int:
    """How many rows of T tokens one forward pass may have: as many as are of use, and fit; at least one."""
    device = runtime.device.type
    room = hardware.total() * USABLE[device] - state_bytes(config, runtime.size)
    return rows_that_fit(MICRO_BATCH_TOKENS[device] // T, room, lambda rows: activation_bytes(config, rows, T, runtime))


def rows_that_fit(most: int, room: float, need: Callable[[int], int]) -> int:
    """The most rows of which `need`, in bytes, is at most `room`: `most`, or a half of it and so on; at least one."""
    rows = max(1, most)
    while rows > 1 and need(rows) > room:
        rows = (rows + 1) // 2
    return rows


def check(config: ModelConfig, T: int, what: str, runtime: Runtime) -> None:
    """Raises UserError if `what` (a phase) cannot fit into the memory of this machine, before anything is made."""
    need = state_bytes(config, runtime.size) + activation_bytes(config, 1, T, runtime)
    have = hardware.available()
    if need > have:
        raise UserError(
            f"{what} needs about {size(need)} of memory for {config.params():,} parameters, but {size(have)} are free",
            f"Lower model.depth (it is {config.n_layers}), tokenizer.vocab_size or {what}.sequence.",
        )
