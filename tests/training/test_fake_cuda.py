"""What a GPU would do, on fake CUDA tensors: a CUDA build of torch has them without a GPU, and checks shapes, dtypes,
layouts and devices of each operator. A tensor holds no values there, so whatever reads one on the host raises.

Autograd's engine needs a driver: test_gpu_trace.py runs the backward pass, on the meta device.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from lanbot.core import hardware
from lanbot.data.packing import Batch
from lanbot.distributed.runtime import Runtime
from lanbot.models import attention, fp8
from lanbot.models.config import ModelConfig
from lanbot.models.loss import Candidates
from lanbot.models.transformer import Transformer
from lanbot.training.optim import MuonAdamW, Rates
from lanbot.training.step import StepResult, training_step

pytestmark = pytest.mark.skipif(
    torch.version.cuda is None, reason="fake CUDA tensors need a CUDA build of torch (a GPU is not needed)"
)

CUDA = torch.device("cuda", 0)
CONFIG = ModelConfig(65_536, 1_280, 2, 10, 5, 128, 3_456, 2_048)
"""As wide as d20, so that the loss works in several chunks; fewer layers and key heads."""
ROWS = 3


@pytest.fixture(autouse=True)
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine takes itself for one with a Hopper GPU of 80 GB. Tensors are fake."""
    monkeypatch.setenv("LANBOT_COMPILE", "0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(total_memory=80 << 30))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda _: None)
    monkeypatch.setattr(hardware, "total", lambda: 80 << 30)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(Tensor, "backward", backward)
    monkeypatch.setattr(torch, "from_numpy", from_numpy)
    monkeypatch.setattr(Tensor, "numpy", numpy)
    # single values would be computed with, as constants, on the device itself
    monkeypatch.setattr(fake_tensor, "CONSTANT_NUMEL_LIMIT", -1)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def from_numpy(array: np.ndarray, original: Callable[[np.ndarray], Tensor] = torch.from_numpy) -> Tensor:
    """A real tensor: what is on the host may be read."""
    with unset_fake_temporarily():
        return original(array)


def numpy(tensor: Tensor, original: Callable[[Tensor], np.ndarray] = Tensor.numpy) -> np.ndarray:
    with unset_fake_temporarily():
        return original(tensor)


def backward(loss: Tensor) -> None:
    """Gives every leaf of the loss's graph a gradient, and calls the hooks that wait for it."""
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        if (leaf := getattr(node, "variable", None)) is not None:
            leaf.grad = torch.zeros_like(leaf)
            for hook in (leaf._post_accumulate_grad_hooks or {}).values():
                hook(leaf)


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """Four ranks, of which this is the second; nothing is sent."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    with unset_fake_temporarily():  # by name of the CPU: no device is initialised
        mesh = init_device_mesh("cpu", (4,))
    yield mesh
    dist.destroy_process_group()


def make_model() -> Transformer:
    with CUDA:
        return Transformer(CONFIG, torch.bfloat16)


def step_of(model: Transformer, runtime: Runtime, candidates: Candidates | None = None) -> StepResult:
    """One training step, of ROWS rows of two documents, two at a time."""
    optimizer = MuonAdamW(model, Rates(0.02, 0.3, 0.002, 0.005, 0.1), runtime.dtype, runtime.mesh)
    ids = np.zeros((ROWS, CONFIG.context + 1), dtype=np.int64)
    documents = np.repeat([[0, 1]], CONFIG.context // 2, axis=1).repeat(ROWS, axis=0)
    batch = Batch(ids[:, :-1], ids[:, 1:], np.ones((ROWS, CONFIG.context), dtype=np.float32), documents)
    return training_step(model, optimizer, batch, 1.0, 1.0, 2, runtime, candidates)


def check(result: StepResult, model: Transformer) -> None:
    assert result.loss.shape == result.grad_norm.shape == result.finite.shape == ()
    assert result.nll.shape == (ROWS, CONFIG.context) and result.nll.dtype == torch.float32
    tensors = (result.loss, result.grad_norm, result.finite, result.nll, *model.parameters())
    assert {tensor.device for tensor in tensors} == {CUDA}
    assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())


def test_a_host_read_raises() -> None:
    """What the tests below rely on."""
    for read in (bool, int, float, Tensor.item, Tensor.tolist):
        with pytest.raises(RuntimeError, match=r"_local_scalar_dense|tolist"):
            read(torch.ones((), device=CUDA))


@pytest.mark.parametrize("flash", [True, False])
def test_a_training_step_waits_for_no_value(flash: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not flash:
        monkeypatch.setattr(attention, "has_flash", lambda *_: False)
    model = make_model()
    check(step_of(model, Runtime.single(CUDA)), model)


def test_a_training_step_with_a_sampled_softmax_waits_for_no_value() -> None:
    model = make_model()
    ids, log_weights = torch.from_numpy(np.arange(1_024)), torch.from_numpy(np.zeros(1_024, dtype=np.float32))
    result = step_of(model, Runtime.single(CUDA), Candidates(ids, log_weights))
    check(result, model)
    assert result.softmax == 1_024


def test_a_training_step_in_fp8_waits_for_no_value() -> None:
    model = make_model()
    fp8.enable(model, CUDA, "base.fp8")
    assert isinstance(model.layers[0].mlp.gate_proj, fp8.Float8Linear)
    check(step_of(model, Runtime.single(CUDA)), model)


def test_the_backward_of_fp8_waits_for_no_value() -> None:
    saved: list[Tensor] = []
    context = SimpleNamespace(save_for_backward=lambda *tensors: saved.extend(tensors), saved_tensors=saved)
    x, weight = torch.ones(64, 32, dtype=torch.bfloat16, device=CUDA), torch.ones(48, 32, device=CUDA)
    y = fp8._Product.forward(context, x, weight)
    grad_x, grad_weight = fp8._Product.backward(context, torch.ones_like(y))
    assert (y.shape, y.dtype, y.device) == ((64, 48), torch.bfloat16, CUDA)
    assert (grad_x.shape, grad_x.dtype, grad_x.device) == (x.shape, x.dtype, CUDA)
    assert (grad_weight.shape, grad_weight.dtype, grad_weight.device) == (weight.shape, weight.dtype, CUDA)


def test_a_training_step_with_a_sharded_optimiser_waits_for_no_value(mesh: DeviceMesh) -> None:
    model = make_model()
    check(step_of(model, Runtime(1, 4, CUDA, torch.bfloat16, mesh)), model)
