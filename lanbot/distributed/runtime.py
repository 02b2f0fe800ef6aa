"""The processes and the device of a run. One process needs no process group."""

import contextlib
import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.rendezvous import rendezvous

TIMEOUT = timedelta(minutes=30)
"""Of a collective: a node that lost its power cannot report it, and the others must not wait forever."""
PATIENCE = timedelta(hours=3)
"""How long ranks wait for rank 0 where it works alone, as when it trains the tokenizer."""

T = TypeVar("T")


@dataclass(frozen=True)
class Runtime:
    """One process of a run: its rank, its device, and the collectives over all ranks. With one process they are free.

    `with Runtime.start() as runtime:` joins the processes that torchrun started.
    """

    rank: int
    size: int
    device: torch.device
    dtype: torch.dtype
    """What the model computes in; masters are fp32."""
    mesh: DeviceMesh | None = None
    """All ranks in one dimension, over which state is sharded; None for one process."""
    patient: dist.ProcessGroup | None = None
    """For barriers and objects: over gloo, with a long timeout."""

    @classmethod
    def start(cls) -> "Runtime":
        """Joins the other ranks as torchrun's environment says; one process without it."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls.single()
        device = _device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            _join("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        mesh = init_device_mesh(device.type, (size,))
        _prepare(device)
        return cls(int(os.environ["RANK"]), size, device, compute_dtype(device), mesh, patient)

    @classmethod
    def single(cls, device: torch.device | None = None) -> "Runtime":
        """One process, on the best device of this machine if none is given."""
        device = device or _device()
        _prepare(device)
        return cls(0, 1, device, compute_dtype(device))

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the process group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def main(self) -> bool:
        return self.rank == 0

    def sum(self, value: float) -> float:
        """Computed on the host in fp64, so that the device need not be waited for."""
        return float(self._reduced(torch.tensor(value, dtype=torch.float64), dist.ReduceOp.SUM))

    def max(self, value: int) -> int:
        return int(self._reduced(torch.tensor(value), dist.ReduceOp.MAX))

    def sum_(self, tensor: Tensor) -> None:
        """The sum over ranks, in place, on the tensor's device and without waiting for it."""
        self._reduced(tensor, dist.ReduceOp.SUM)

    def gather(self, items: list) -> list:
        """The items of all ranks, rank by rank, on every rank."""
        if self.size == 1:
            return items
        parts: list[list] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, items, group=self.patient)
        return [item for part in parts for item in part]

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value (anything that pickles), on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.patient)
        return box[0]

    def on_main(self, function: Callable[..., T], *arguments: Any) -> T:
        """Calls function on rank 0; every rank gets the result."""
        return self.broadcast(function(*arguments) if self.main else None)

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier(self.patient)

    def _reduced(self, tensor: Tensor, operation: Any) -> Tensor:
        if self.size > 1:
            dist.all_reduce(tensor, operation)
        return tensor


def _prepare(device: torch.device) -> None:
    if device.type == "cpu":
        _keep_freed_memory()
    elif device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(
            False
        )  # it builds a plan for each shape, and decoding has a new one each step


def _keep_freed_memory() -> None:
    """glibc returns freed large blocks to the system, and faulting a step's activations in again takes a tenth of its
    time. Other C libraries are left as they are."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def _join(backend: str) -> None:
    """Under torchrun the store survives a restart, with the addresses of the old processes (pytorch issue 135712):
    ranks that started together agree on a prefix. The number of restarts would not do: it differs between nodes.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        dist.init_process_group(backend, timeout=TIMEOUT)
        return
    store, rank, size = next(rendezvous("env://"))
    mine = uuid4().hex
    if rank == 0:  # answers each rank's latest call, until that is heard
        for other in range(1, size):
            while not store.check([f"heard/{mine}/{other}"]):
                store.set(f"answer/{store.get(f'call/{other}').decode()}", mine)
                time.sleep(0.01)
        corner = mine
    else:
        store.set(f"call/{rank}", mine)
        corner = store.get(f"answer/{mine}").decode()
        store.set(f"heard/{corner}/{rank}", "")
    store = dist.PrefixStore(corner, store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def compute_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device has it in hardware, otherwise fp32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _cpu_has_bf16() else torch.float32
    return torch.float32


def _cpu_has_bf16() -> bool:
    """AVX512 alone would emulate bf16 at a loss; the instructions themselves must be there."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = file.read()
    except OSError:
        return False
    return "bf16" in flags  # avx512_bf16, amx_bf16, or ARM's own
