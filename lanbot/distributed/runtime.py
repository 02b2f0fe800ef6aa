"""The processes and the device of a run. One process needs no process group and pays for none."""

import contextlib
import ctypes
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.rendezvous import rendezvous

TIMEOUT = timedelta(minutes=30)
"""How long a sum over ranks may take: a node that lost its power says nothing, and the others must not wait on."""
PATIENCE = timedelta(hours=3)
"""How long ranks wait for one that works alone: rank 0 trains the tokenizer."""


@dataclass(frozen=True)
class Runtime:
    rank: int
    size: int
    device: torch.device
    dtype: torch.dtype
    """What the model computes in; masters are fp32."""

    @property
    def main(self) -> bool:
        return self.rank == 0


_world: Runtime | None = None
_mesh: DeviceMesh | None = None
_patient: dist.ProcessGroup | None = None
"""For what is not of the device and may take its time: barriers and objects, over gloo."""


def world() -> Runtime:
    """This process's place, set up at the first call from torchrun's environment."""
    global _world, _patient
    if _world is None:
        size = int(os.environ.get("WORLD_SIZE", "1"))
        device = _device()
        if size > 1 and not dist.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            _join(backend)
            _patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        if device.type == "cpu":
            _keep_freed_memory()
        _world = Runtime(int(os.environ.get("RANK", "0")), size, device, compute_dtype(device))
    return _world


def _keep_freed_memory() -> None:
    """glibc gives large blocks back to the system as they are freed; a step would fault its activations in anew, for a
    tenth of its time. Other C libraries are left alone."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def _join(backend: str) -> None:
    """Under torchrun the store outlives a restart, and in it the addresses of the dead (pytorch issue 135712): ranks
    that started together agree on a corner of their own. How often each was restarted would not tell: nodes differ.
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


def mesh() -> DeviceMesh | None:
    """All ranks in one row, over which state is sharded; None for one process."""
    global _mesh
    place = world()
    if place.size > 1 and _mesh is None:
        _mesh = init_device_mesh(place.device.type, (place.size,))
    return _mesh


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def compute_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device has it in hardware, else fp32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _cpu_has_bf16() else torch.float32
    return torch.float32


def _cpu_has_bf16() -> bool:
    """AVX512 alone would emulate bf16 at a loss; the instructions themselves must be there."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = file.read()
    except OSError:
        return False
    return "bf16" in flags  # avx512_bf16, amx_bf16, or ARM's own


def close() -> None:
    global _world, _mesh, _patient
    if dist.is_initialized():
        dist.destroy_process_group()
    _world = _mesh = _patient = None


def sum_over_ranks(value: float) -> float:
    if world().size == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=world().device)
    dist.all_reduce(tensor)
    return tensor.item()


def sum_over_ranks_(tensor: Tensor) -> None:
    """The sum, in place and without waiting for the device."""
    if world().size > 1:
        dist.all_reduce(tensor)


def max_over_ranks(value: int) -> int:
    if world().size == 1:
        return value
    tensor = torch.tensor(value, device=world().device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def gather(items: list) -> list:
    """The items of all ranks, rank by rank, on every rank."""
    if world().size == 1:
        return items
    parts: list[list] = [[] for _ in range(world().size)]
    dist.all_gather_object(parts, items, group=_patient)
    return [item for part in parts for item in part]


def from_main(value):  # type: ignore[no-untyped-def]
    """Rank 0's value (anything that pickles), on every rank."""
    if world().size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_patient)
    return box[0]


def barrier() -> None:
    if world().size > 1:
        dist.barrier(_patient)
