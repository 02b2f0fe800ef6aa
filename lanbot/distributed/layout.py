"""Which of the three layouts a model has."""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule

from lanbot.distributed.fsdp import FSDP
from lanbot.distributed.single_device import SingleDevice
from lanbot.distributed.zero2 import Zero2


def layout(model: nn.Module, matrices: list[list[str]], mesh: DeviceMesh | None) -> SingleDevice:
    """matrices: the names of those that are orthogonalised, in groups of one shape. mesh: None for one process."""
    if mesh is None:
        return SingleDevice(model, matrices)
    return FSDP(model, matrices, mesh) if isinstance(model, FSDPModule) else Zero2(model, matrices, mesh)
