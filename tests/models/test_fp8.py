"""fp8's products against exact ones; the CPU has the operator, slowly, and the meta device its checks of layouts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lanbot.core.errors import UserError
from lanbot.models import fp8
from lanbot.models.config import ModelConfig
from lanbot.models.transformer import Transformer

MakeModel = Callable[..., Transformer]
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
SHAPE = {"dim": 64, "head_dim": 16, "mlp_dim": 96}


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")


def some(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [fp8.E4M3, fp8.E5M2])
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_eight_bits_hold_any_size(dtype: torch.dtype, size: float) -> None:
    x = (some(64, 64, seed=0) * size).float()
    q, scale = fp8.quantise(x, dtype)
    back = q.float() * scale
    assert float(q.float().abs().max()) == torch.finfo(dtype).max
    assert (back - x).abs().max() <= x.abs().max() * torch.finfo(dtype).eps
    assert (back - x).double().norm() < torch.finfo(dtype).eps / 2 * x.double().norm()


def test_zeros_stay_and_non_finite_values_propagate() -> None:
    assert not fp8.quantise(torch.zeros(4, 4), fp8.E4M3)[0].float().any()
    for bad in (torch.nan, torch.inf):
        x = some(16, 16, seed=0).float()
        x[3, 5] = bad
        assert not fp8.product(x.bfloat16(), some(16, 16, seed=1).float()).isfinite().all()


def test_values_and_gradients_are_products_of_what_was_quantised() -> None:
    x, weight = some(2, 16, 32, seed=0).bfloat16().requires_grad_(), some(48, 32, seed=1).float().requires_grad_()
    grad = some(2, 16, 48, seed=2).bfloat16()
    y = fp8.product(x, weight)
    y.backward(grad)
    assert y.shape == (2, 16, 48) and y.dtype == torch.bfloat16

    def seen(tensor: Tensor, dtype: torch.dtype) -> Tensor:
        q, scale = fp8.quantise(tensor.detach(), dtype)
        return q.double() * scale.double()

    exact = seen(x, fp8.E4M3) @ seen(weight, fp8.E4M3).T
    assert_close(y.double(), exact, atol=1e-2, rtol=1e-2)
    assert_close(x.grad.double(), seen(grad, fp8.E5M2) @ seen(weight, fp8.E4M3), atol=2e-2, rtol=1e-2)  # type: ignore[union-attr]
    by_token = seen(grad, fp8.E5M2).flatten(0, 1), seen(x, fp8.E4M3).flatten(0, 1)
    assert weight.grad is not None and weight.grad.dtype == torch.float32
    assert_close(weight.grad.double(), by_token[0].T @ by_token[1], atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("hopper")
def test_a_models_gradients_are_near_those_in_fp32(make_model: MakeModel) -> None:
    plain, eight = make_model(**SHAPE), make_model(**SHAPE)
    fp8.enable(eight, CUDA, "base.fp8")
    ids = torch.randint(448, (2, 32), generator=torch.Generator().manual_seed(1))
    weights = some(2, 32, 64, seed=3).float()
    for model in (plain, eight):
        (model(ids) * weights).sum().backward()
    compared = 0
    for (name, exact), parameter in zip(plain.named_parameters(), eight.parameters(), strict=True):
        if exact.grad is not None and exact.ndim == 2:
            assert parameter.grad is not None
            assert not torch.equal(parameter.grad, exact.grad)
            assert (parameter.grad - exact.grad).norm() < 0.3 * exact.grad.norm(), name  # e5m2 has two bits of fraction
            compared += 1
    assert compared == 15
    assert not isinstance(eight.lm_head, fp8.Float8Linear)


@pytest.mark.usefixtures("hopper")
def test_other_numbers_of_tokens_and_sampling_run_in_16_bits(make_model: MakeModel) -> None:
    plain, eight = make_model(**SHAPE), make_model(**SHAPE)
    fp8.enable(eight, CUDA, "base.fp8")
    ids = torch.randint(448, (1, 16), generator=torch.Generator().manual_seed(1))
    assert torch.equal(eight(ids[:, :15]), plain(ids[:, :15]))
    assert not torch.equal(eight(ids), plain(ids))
    with torch.no_grad():
        assert torch.equal(eight(ids), plain(ids))


@pytest.mark.usefixtures("hopper")
def test_layouts_are_those_that_a_gpu_takes() -> None:
    with torch.device("meta"):
        model = Transformer(ModelConfig(512, 64, 2, 4, 2, 16, 96, 32), torch.bfloat16)
        ids = torch.zeros(2, 16, dtype=torch.long)
    fp8.enable(model, CUDA, "base.fp8")
    model(ids).float().sum().backward()
    assert all(p.grad is not None for p in model.layers.parameters())


@pytest.mark.parametrize(
    ("device", "capability", "says"), [(CPU, (0, 0), "a CPU"), (CUDA, (8, 0), "a GPU"), (CUDA, (7, 5), "a GPU")]
)
def test_a_device_without_fp8_is_an_error(
    make_model: MakeModel, device: torch.device, capability: tuple[int, int], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    with pytest.raises(UserError, match=rf"base\.fp8 = true, but this device \({says}\)"):
        fp8.enable(make_model(**SHAPE), device, "base.fp8")


@pytest.mark.usefixtures("hopper")
def test_sides_that_do_not_suit_are_named(make_model: MakeModel) -> None:
    model = make_model(**{**SHAPE, "mlp_dim": 100})
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.gate_proj is 100 x 64"):
        fp8.enable(model, CUDA, "base.fp8")
