"""What the machine has and what a model needs of it: memory, the micro-batch that fits, the matmul ceiling."""

import contextlib
import os
import resource
import sys
import time
from pathlib import Path

import torch

from lanbot.console import size
from lanbot.errors import UserError
from lanbot.model.attention import PLAIN_ATTENTION, has_flash
from lanbot.model.config import ModelConfig
from lanbot.training import compile
from lanbot.training.loss import CHUNK, KEPT_BYTES
from lanbot.training.parallel import world

MICRO_BATCH_TOKENS = {"cpu": 8_192, "cuda": 65_536, "mps": 8_192}
"""More than this at a time no longer makes the products faster."""

USABLE = {"cpu": 0.5, "cuda": 0.9, "mps": 0.5}
"""The share of `total` that training may plan with. A GPU is ours, but for its context and what fragments."""


def total() -> int:
    """Bytes of memory of this process's device: what decides the micro-batch, since it is the same tomorrow."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(physical, _cgroup("memory.max") or physical) // _ranks_here()


def available() -> int:
    """Bytes of memory that this process may still take on its device."""
    if torch.cuda.is_available():
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + cached
    free = total()
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1_024
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit and used:  # the page cache counts as used there, but gives way
        free = min(free, limit - used + (_cgroup("memory.stat", "inactive_file") or 0))
    return max(0, free) // _ranks_here()


def _ranks_here() -> int:
    """How many processes of a run share this machine's memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _cgroup(file: str, field: str = "") -> int | None:
    """A number of this process's control group, None where there is none or no limit."""
    try:
        text = (Path("/sys/fs/cgroup") / file).read_text()
        values = dict(line.split() for line in text.splitlines()) if field else {"": text.strip()}
        return int(values[field])
    except (OSError, ValueError, KeyError):
        return None


def state_bytes(config: ModelConfig, ranks: int = 1) -> int:
    """Of one rank: masters, gradients and its share of the optimiser's state, all fp32 (4 bytes a matrix parameter with
    Muon, 8 for each of the others). Of a model that `must_shard`: its share of all, a block and the embeddings."""
    embeddings = config.vocab_size * config.dim * (1 if config.tie_embeddings else 2)
    matrices = config.params() - embeddings
    if must_shard(config, ranks):
        return (12 * matrices + 16 * embeddings) // ranks + 8 * matrices // config.n_layers + 8 * embeddings
    return 8 * config.params() + (4 * matrices + 8 * embeddings) // ranks


def must_shard(config: ModelConfig, ranks: int) -> bool:
    """Whether several ranks must share out weights and gradients too: whole, they would take half of a device."""
    return ranks > 1 and 8 * config.params() > total() // 2


def activation_bytes(config: ModelConfig, rows: int, T: int) -> int:
    """What a forward pass keeps for its backward, on this device. Off CUDA counted as fp32: an upper estimate."""
    if torch.cuda.is_available():
        place = world()
        flash = has_flash(place.device, place.dtype, config.head_dim)
        compiled = compile.enabled(place.device) and place.dtype != torch.float32
        return cuda_activation_bytes(config, rows, T, place.dtype, compiled, flash)
    heads = config.head_dim * (3 * config.n_heads + 4 * config.n_kv_heads)
    per_token = config.n_layers * (8 * config.dim + heads + 4 * config.mlp_dim) + 4 * config.dim
    mask = rows * T * T * 5
    plain = not torch.cuda.is_available() and T <= PLAIN_ATTENTION
    scores = 4 * (config.n_layers + 2) * config.n_heads * rows * T * T if plain else 0
    return 4 * rows * T * per_token + mask + scores + 3 * 4 * 256 * config.vocab_size


def cuda_activation_bytes(
    config: ModelConfig, rows: int, T: int, dtype: torch.dtype = torch.bfloat16, compiled: bool = True,
    flash: bool = True,
) -> int:  # fmt: skip
    """What a forward pass keeps for its backward on a GPU, with the matrices' casts and what the loss works in.

    Of each layer: its input, what comes of the first half, both normed; queries and keys before and after norm and
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


def micro_batch(config: ModelConfig, T: int) -> int:
    """How many rows of T tokens one forward pass may have: as many as are of use, and fit; at least one."""
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    room = total() * USABLE[device] - state_bytes(config, world().size)
    rows = max(1, MICRO_BATCH_TOKENS[device] // T)
    while rows > 1 and activation_bytes(config, rows, T) > room:
        rows = (rows + 1) // 2
    return rows


def check(config: ModelConfig, T: int, what: str) -> None:
    """Raises UserError if `what` (a phase) cannot fit into the memory of this machine, before anything is made."""
    need = state_bytes(config, world().size) + activation_bytes(config, 1, T)
    have = available()
    if need > have:
        raise UserError(
            f"{what} needs about {size(need)} of memory for {config.params():,} parameters, but {size(have)} are free",
            f"Lower model.depth (it is {config.n_layers}), tokenizer.vocab_size or {what}.sequence.",
        )


ONEDNN_SAYS = ("could not create a primitive", "could not create a memory object")
"""It gives no reason; on a limited address space this was it."""


def exhausted(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device: not every allocator has a type for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", *ONEDNN_SAYS)
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


def reset_peak() -> None:
    """Begins to measure the peak anew, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most bytes held since `reset_peak` (since the process began, where that cannot reset)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1_024
    except OSError:
        pass
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1_024


_ceilings: dict[tuple[str, torch.dtype], float] = {}


def matmul_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """The best matmul FLOP/s that this process reaches, measured once: the limit that utilisation is against."""
    key = (device.type, dtype)
    if key not in _ceilings:
        n = 8_192 if device.type == "cuda" else 2_048
        x = torch.randn(n, n, dtype=dtype, device=device)
        out = torch.empty_like(x)
        best = 0.0
        for _ in range(6):
            _synchronise(device)
            start = time.perf_counter()
            torch.mm(x, x, out=out)
            _synchronise(device)
            best = max(best, 2 * n**3 / (time.perf_counter() - start))
        _ceilings[key] = best
    return _ceilings[key]


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
