"""What the machine has: memory free and in use, whether an error says that it ran out, the matmul ceiling."""

import contextlib
import gc
import os
import resource
import sys
import time
from functools import cache
from pathlib import Path

import torch


def total() -> int:
    """Bytes of memory of this process's device. The micro-batch depends on it, as it does not change between runs."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(physical, _cgroup("memory.max") or physical) // _ranks_here()


def available() -> int:
    """Bytes of memory that this process may still take on its device."""
    if torch.cuda.is_available():
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + cached
    free = _kibibytes("/proc/meminfo", "MemAvailable:") or total()
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit and used:  # the page cache counts as used there, but gives way
        free = min(free, limit - used + (_cgroup("memory.stat", "inactive_file") or 0))
    return max(0, free) // _ranks_here()


def for_cache() -> int:
    """Bytes of memory that keys and values may take while answers are generated."""
    return total() // 4


def _ranks_here() -> int:
    """How many processes of a run share this machine's memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _kibibytes(file: str, field: str) -> int:
    """Bytes that a file of /proc gives for a field, 0 where the system has no such file."""
    with contextlib.suppress(OSError):
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1_024
    return 0


def _cgroup(file: str, field: str = "") -> int | None:
    """A number of this process's control group, None where there is none or no limit."""
    try:
        text = (Path("/sys/fs/cgroup") / file).read_text(encoding="utf-8")
        values = dict(line.split() for line in text.splitlines()) if field else {"": text.strip()}
        return int(values[field])
    except (OSError, ValueError, KeyError):
        return None


def exhausted(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device: not every allocator has a type for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    onednn = ("could not create a primitive", "could not create a memory object")  # its words on a full address space
    phrases = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", *onednn)
    return isinstance(error, RuntimeError) and any(words in str(error) for words in phrases)


def release() -> None:
    """Frees what a phase left behind: reference cycles, and the blocks that the CUDA allocator caches."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reset_peak() -> None:
    """Restarts the measurement of the peak, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak() -> int:
    """The most bytes held since `reset_peak` (since the process began, where that cannot reset)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _kibibytes("/proc/self/status", "VmHWM:") or (used if sys.platform == "darwin" else used * 1_024)


@cache
def matmul_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """The best matmul FLOP/s that this process reaches, measured once: the reference of utilisation."""
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
    n = 8_192 if device.type == "cuda" else 2_048
    x = torch.randn(n, n, dtype=dtype, device=device)
    out = torch.empty_like(x)
    best = 0.0
    for _ in range(6):
        wait()
        start = time.perf_counter()
        torch.mm(x, x, out=out)
        wait()
        best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best
