"""Muon and AdamW: against PyTorch's own, and what orthogonalisation promises."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lanbot.models.transformer import Transformer
from lanbot.training.optim import MuonAdamW, Rates, orthogonalise

TRUE = torch.tensor(True)

MakeModel = Callable[..., Transformer]
RATES = Rates(muon=0.02, embedding=0.3, head=0.01, norm=0.005)


def give_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def rate_of(name: str) -> float:
    return RATES.embedding if "embed" in name else RATES.head if "lm_head" in name else RATES.norm


def is_matrix_of_a_layer(name: str, parameter: Tensor) -> bool:
    return "layers." in name and parameter.ndim == 2


@pytest.mark.parametrize("family", ["qwen3", "qwen2"])
def test_embeddings_head_norms_and_biases_move_as_with_adamw(make_model: MakeModel, family: str) -> None:
    ours, theirs = make_model(family=family), make_model(family=family)
    optimizer = MuonAdamW(ours, RATES, torch.float32)
    named = [(n, p) for n, p in theirs.named_parameters() if not is_matrix_of_a_layer(n, p)]
    assert len(named) >= 7
    groups = [{"params": [p], "lr": rate_of(n)} for n, p in named]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-10, weight_decay=0.0)
    for step in range(6):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        scale = (0.5, 1.0, 0.25)[step % 3]
        for group, (name, _) in zip(reference.param_groups, named, strict=True):
            group["lr"] = rate_of(name) * scale
        optimizer.step(scale, TRUE)
        reference.step()
    moved = dict(ours.named_parameters())
    for name, parameter in named:
        assert_close(moved[name], parameter, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def polar_factor(matrix: Tensor) -> Tensor:
    U, _, Vt = torch.linalg.svd(matrix, full_matrices=False)
    return U @ Vt


def test_matrices_of_the_layers_move_as_with_muon(make_model: MakeModel) -> None:
    """Against its definition, with the exact polar factor: of each head for queries, keys and values."""
    model = make_model()
    heads = {"q_proj": model.config.n_heads, "k_proj": model.config.n_kv_heads, "v_proj": model.config.n_kv_heads}
    expected = {n: p.detach().clone() for n, p in model.named_parameters() if is_matrix_of_a_layer(n, p)}
    momentum = {n: torch.zeros_like(p) for n, p in expected.items()}
    start = {n: p.clone() for n, p in expected.items()}
    optimizer = MuonAdamW(model, Rates(0.02, 0.3, 0.01, 0.005, weight_decay=0.1), torch.bfloat16)
    for step in range(4):
        give_gradients(model, step)
        for name, parameter in model.named_parameters():
            if name not in expected:
                continue
            gradient = parameter.grad
            assert gradient is not None
            momentum[name] = 0.95 * momentum[name] + 0.05 * gradient
            update = 0.95 * momentum[name] + 0.05 * gradient
            parts = heads.get(name.split(".")[-2], 1)
            update = torch.cat([polar_factor(part) for part in update.chunk(parts)])
            rate = 0.02 * max(1, parameter.shape[0] / parameter.shape[1]) ** 0.5
            expected[name] = expected[name] * (1 - 0.02 * 0.1) - rate * update
        optimizer.step(1.0, TRUE)
    assert len(expected) == 14
    for name, parameter in model.named_parameters():
        if name in expected:
            off = (parameter - expected[name]).norm() / (expected[name] - start[name]).norm()
            assert off < 0.1, name


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (32, 32)], ids=["tall", "wide", "square"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonalisation_keeps_the_directions_and_evens_the_lengths(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    U, _, Vt = torch.linalg.svd(torch.randn(3, *shape, generator=generator), full_matrices=False)
    spectrum = torch.logspace(-1, 0, min(shape)) * torch.tensor([1e-3, 1.0, 1e3])[:, None]
    result = orthogonalise((U * spectrum[:, None, :] @ Vt).to(dtype)).float()
    assert result.shape == (3, *shape)
    rotated = U.mT @ result @ Vt.mT
    lengths = rotated.diagonal(dim1=1, dim2=2)
    assert lengths.min() > 0.6 and lengths.max() < 1.3
    tolerance = 1e-3 if dtype == torch.float32 else 0.15
    assert (rotated - torch.diag_embed(lengths)).abs().max() < tolerance
    assert (result - U @ rotated @ Vt).abs().max() < tolerance


def test_a_parameter_without_gradient_stays_at_first(make_model: MakeModel) -> None:
    model, before = make_model(), make_model()
    optimizer = MuonAdamW(model, RATES, torch.float32)
    optimizer.step(1.0, TRUE)
    for (name, parameter), was in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, was), name


def test_a_scale_of_zero_changes_nothing(make_model: MakeModel) -> None:
    model, before = make_model(), make_model()
    optimizer = MuonAdamW(model, RATES, torch.float32)
    give_gradients(model, 0)
    optimizer.step(0.0, TRUE)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))


def test_zero_grad_frees_the_gradients(make_model: MakeModel) -> None:
    model = make_model()
    optimizer = MuonAdamW(model, RATES, torch.float32)
    give_gradients(model, 0)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_weight_decay_falls_on_the_matrices_alone(make_model: MakeModel) -> None:
    model, before = make_model(), make_model()
    optimizer = MuonAdamW(model, Rates(0.1, 0.1, 0.1, 0.1, weight_decay=0.5), torch.float32)
    optimizer.step(1.0, TRUE)
    for (name, parameter), was in zip(model.named_parameters(), before.parameters(), strict=True):
        assert_close(parameter, was * 0.95 if is_matrix_of_a_layer(name, was) else was)


def test_a_quadratic_is_descended(make_model: MakeModel) -> None:
    model, goal = make_model(seed=0), make_model(seed=1)
    optimizer = MuonAdamW(model, Rates(0.03, 0.03, 0.03, 0.03), torch.float32)

    def distance() -> Tensor:
        pairs = zip(model.parameters(), goal.parameters(), strict=True)
        return torch.stack([(a - b.detach()).square().sum() for a, b in pairs])

    first = distance().detach()
    for step in range(300):
        distance().sum().backward()
        optimizer.step(1 - step / 300, TRUE)
        optimizer.zero_grad()
    assert (distance() < 0.05 * first + 1e-6).all()


def test_a_device_skips_what_is_not_finite_without_being_asked(make_model: MakeModel) -> None:
    """As on CUDA: weights, state and count stay, bit for bit, and finite updates are the same as elsewhere."""
    rates = Rates(muon=0.02, embedding=0.3, head=0.01, norm=0.005, weight_decay=0.1)
    asked, silent = make_model(), make_model()
    ours, theirs = MuonAdamW(silent, rates, torch.float32), MuonAdamW(asked, rates, torch.float32)
    for step, finite in enumerate((False, True, False, False, True)):
        for model, optimizer in ((asked, theirs), (silent, ours)):
            give_gradients(model, step)
            if not finite:
                for number, parameter in enumerate(model.parameters()):
                    parameter.grad.view(-1)[step::7] = (torch.nan, torch.inf)[number % 2]  # type: ignore[union-attr]
            take = optimizer.step if optimizer is theirs else optimizer._step
            take(1.0, torch.tensor(finite))
            optimizer.zero_grad()
        assert ours.steps == theirs.steps == (0, 1, 1, 1, 2)[step]
        for mine, other in zip(silent.parameters(), asked.parameters(), strict=True):
            assert torch.equal(mine, other)
        for name, kept in ours.state.items():
            assert all(torch.equal(kept[kind], theirs.state[name][kind]) for kind in kept), name
