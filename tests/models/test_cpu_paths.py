"""What the model computes its own way on a CPU: values and gradients are those of the plain formulas."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from lanbot.models import attention, transformer
from lanbot.models.attention import attend, document_mask
from lanbot.models.config import ModelConfig
from lanbot.models.transformer import RMSNorm, Transformer, rotate, rotation

MakeModel = Callable[..., Transformer]
CPU = torch.device("cpu")
CLOSE = {torch.float64: 1e-6, torch.float32: 2e-5, torch.bfloat16: 3e-2}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
EXACT = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def config(head_dim: int, **more: Any) -> ModelConfig:
    return ModelConfig(64, 32, 1, 2, 2, head_dim, 64, 32, **more)


def some(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype).requires_grad_()


def gradients(value: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Of a loss in which every element of `value` has a weight of its own."""
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return list(torch.autograd.grad((value.double() * weights).sum(), inputs))


def alike(ours: Tensor, plain: Tensor, *inputs: Tensor) -> None:
    close = CLOSE[inputs[0].dtype]
    assert ours.dtype == plain.dtype and ours.shape == plain.shape
    assert_close(ours, plain, atol=close, rtol=close)
    for mine, theirs in zip(gradients(ours, *inputs), gradients(plain, *inputs), strict=True):
        assert mine.dtype == theirs.dtype
        assert_close(mine, theirs, atol=close * max(1.0, float(theirs.abs().max())), rtol=close)


# -- RMSNorm -----------------------------------------------------------------------------------------------


def plain_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Zhang and Sennrich 2019: x over the root of its mean square."""
    exact = x.double()
    return (exact / (exact.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()).to(x.dtype)


@DTYPES
@pytest.mark.parametrize("shape", [(2, 5, 24), (3, 4, 6, 8), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("eps", [1e-6, 1e-1])
def test_the_norm_and_its_gradients(dtype: torch.dtype, shape: tuple[int, ...], eps: float) -> None:
    norm = RMSNorm(shape[-1], config(8, norm_eps=eps))
    with torch.no_grad():
        norm.weight.copy_(some(shape[-1], seed=1))
    x = some(*shape, dtype=dtype)
    ours = norm(x)
    assert type(ours.grad_fn).__name__ == "FusedRMSNormBackward", "another path was looked at"
    alike(ours, plain_norm(x, norm.weight, eps), x, norm.weight)
    with torch.no_grad():
        assert_close(norm(x), ours, atol=CLOSE[dtype], rtol=CLOSE[dtype])


@DTYPES
def test_a_norm_without_weights_and_its_gradient(dtype: torch.dtype) -> None:
    norm, x = RMSNorm(24, config(8, family="nanochat")), some(2, 5, 24, dtype=dtype)
    assert not list(norm.parameters())
    alike(norm(x), plain_norm(x, torch.ones(24), 1e-6), x)


def test_the_norm_of_zeros_is_zero_and_its_gradient_is_finite() -> None:
    norm, x = RMSNorm(8, config(8)), torch.zeros(2, 3, 8, requires_grad=True)
    assert not norm(x).any()
    assert all(gradient.isfinite().all() for gradient in gradients(norm(x), x, norm.weight))


def test_the_norm_of_large_values_does_not_overflow_in_bf16() -> None:
    norm, x = RMSNorm(8, config(8)), some(2, 3, 8, dtype=torch.float64)
    large = (x.detach() * 1e18).bfloat16().requires_grad_()
    assert_close(norm(large).double(), plain_norm(x, norm.weight, 0.0), atol=3e-2, rtol=3e-2)


# -- rotate ------------------------------------------------------------------------------------------------


def plain_rotation(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Su et al. 2021: pairs (i, i + D/2) are complex numbers, turned by position * theta^(-2i/D)."""
    half = x.shape[-1] // 2
    angles = positions.double()[..., None, None] * theta ** -(torch.arange(half).double() / half)
    turned = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.polar(
        torch.ones_like(angles), angles
    )
    return torch.cat((turned.real, turned.imag), -1).to(x.dtype)


@DTYPES
@pytest.mark.parametrize("positions", [torch.arange(7), torch.tensor([[3, 4, 5, 6, 7, 8, 9], [0, 1, 2, 3, 4, 5, 6]])])
def test_the_rotation_and_its_gradient(dtype: torch.dtype, positions: Tensor) -> None:
    x = some(2, 7, 3, 8, dtype=dtype)
    cos, sin = rotation(positions, config(8, rope_theta=100.0), dtype)
    assert cos.shape == sin.shape == (*positions.shape, 1, 8) and cos.dtype == dtype
    alike(rotate(x, cos, sin), plain_rotation(x, positions, 100.0), x)


def test_the_reverse_rotation_turns_by_the_negative_angles() -> None:
    x, positions = some(2, 7, 3, 8), torch.arange(7)
    turned = rotate(x, *rotation(positions, config(8, family="nanochat"), torch.float32))
    alike(turned, plain_rotation(x, -positions, 10_000.0), x)


def test_a_rotation_keeps_lengths_and_the_first_place_as_it_is() -> None:
    x = some(1, 9, 2, 16)
    y = rotate(x, *rotation(torch.arange(9), config(16), torch.float32))
    assert_close(y.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(y[:, 0], x[:, 0]) and not torch.allclose(y[:, 1], x[:, 1])


# -- attention ---------------------------------------------------------------------------------------------

DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2], [5, 5, 5, 5, 5, 5, 5, 5, 6]])


def plain_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    scores = q.double() @ k.double().transpose(-1, -2) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~seen, -torch.inf).exp()
    return ((weights / weights.sum(-1, keepdim=True)) @ v.double()).to(q.dtype)


def seen_by(documents: Tensor) -> Tensor:
    """(B, 1, T, T): may token i see token j?"""
    T = documents.shape[1]
    rows = [[[bool(j <= i and row[i] == row[j]) for j in range(T)] for i in range(T)] for row in documents]
    return torch.tensor(rows).unsqueeze(1)


@DTYPES
def test_a_document_mask_hides_other_documents_and_what_comes_later(dtype: torch.dtype) -> None:
    mask = document_mask(DOCUMENTS, dtype)
    assert mask.dtype == dtype and mask.shape == (2, 1, 9, 9)
    assert torch.equal(mask == 0, seen_by(DOCUMENTS)) and torch.equal(mask == -torch.inf, ~seen_by(DOCUMENTS))


@DTYPES
@pytest.mark.parametrize("plain_up_to", [512, 9, 8], ids=["plain", "plain, just", "fused"])
def test_attention_and_its_gradients(dtype: torch.dtype, plain_up_to: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "PLAIN_ATTENTION", plain_up_to)
    q, k, v = (some(2, 3, 9, 8, seed=seed, dtype=dtype) for seed in range(3))
    mask = document_mask(DOCUMENTS, dtype)
    before = mask.clone()
    alike(attend(q, k, v, mask), plain_attention(q, k, v, seen_by(DOCUMENTS)), q, k, v)
    assert torch.equal(mask, before), "every layer uses the same mask"


@EXACT
def test_attention_without_a_mask_is_causal(dtype: torch.dtype) -> None:
    q, k, v = (some(2, 3, 9, 8, seed=seed, dtype=dtype) for seed in range(3))
    one = torch.zeros(2, 9, dtype=torch.long)
    alike(attend(q, k, v, None), plain_attention(q, k, v, seen_by(one)), q, k, v)
    alike(attend(q, k, v, document_mask(one, dtype)), attend(q, k, v, None), q, k, v)


@pytest.mark.parametrize("plain_up_to", [512, 0], ids=["plain", "fused"])
def test_one_query_over_many_keys(plain_up_to: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "PLAIN_ATTENTION", plain_up_to)
    q, k, v = some(2, 3, 1, 8), some(2, 3, 6, 8, seed=1), some(2, 3, 6, 8, seed=2)
    seen = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])[:, None, None]
    mask = torch.zeros(2, 1, 1, 6).masked_fill(~seen, -torch.inf)
    with torch.no_grad():
        assert_close(attend(q, k, v, mask), plain_attention(q, k, v, seen))


# -- the whole model ---------------------------------------------------------------------------------------


def model_gradients(model: Transformer, ids: Tensor, documents: Tensor | None) -> dict[str, Tensor]:
    model.zero_grad()
    logits = model.logits(model(ids, documents))
    F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("packed", [True, False])
def test_a_models_gradients_are_those_of_torchs_own_pieces(
    make_model: MakeModel, family: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(family=family)
    ids = torch.randint(448, (2, 9), generator=torch.Generator().manual_seed(1))
    documents = DOCUMENTS if packed else None
    ours = model_gradients(model, ids, documents)
    monkeypatch.setattr(attention, "PLAIN_ATTENTION", 0)
    monkeypatch.setattr(RMSNorm, "forward", lambda self, x: F.rms_norm(x, self.weight.shape, self.weight, self.eps))
    monkeypatch.setattr(transformer, "rotate", lambda x, *_: plain_rotation(x, torch.arange(9), 10_000.0))
    theirs = model_gradients(model, ids, documents)
    assert len(ours) > 20
    for name, gradient in theirs.items():
        assert gradient.abs().max() > 1e-5, f"{name} has no gradient to compare"
        scale = float(gradient.abs().max())
        assert (ours[name] - gradient).abs().max() <= 1e-4 * scale, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_with_and_without_gradients_a_model_says_the_same(make_model: MakeModel, dtype: torch.dtype) -> None:
    model = make_model(dtype=dtype)
    ids = torch.randint(448, (2, 9), generator=torch.Generator().manual_seed(1))
    trained = model.logits(model(ids, DOCUMENTS)).detach()
    with torch.no_grad():
        assert_close(
            model.logits(model(ids, DOCUMENTS)), trained, atol=0.15 if dtype == torch.bfloat16 else 1e-4, rtol=1e-4
        )
