"""How a model from nothing begins: sure of nothing, and looking back."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lanbot.models.config import ModelConfig
from lanbot.models.init import init_weights, write_copying
from lanbot.models.transformer import Transformer, rotate, rotation

T = 512


SHAPE: dict[str, Any] = {"vocab_size": 2_000, "dim": 192, "n_layers": 3, "n_heads": 3, "n_kv_heads": 3, "head_dim": 64}


def fresh(**changes: Any) -> Transformer:
    model = Transformer(ModelConfig(**{**SHAPE, "mlp_dim": 512, "context": T, **changes}))
    init_weights(model, torch.Generator().manual_seed(0))
    return model


@torch.no_grad()
def attention_weights(model: Transformer, ids: Tensor) -> list[Tensor]:
    """Of each layer, (H, T, T)."""
    x = F.embedding(ids, model.embed_tokens.weight)
    rope = rotation(torch.arange(len(ids)), model.config, torch.float32)
    future = torch.full((len(ids), len(ids)), -torch.inf).triu(1)
    weights = []
    for layer in model.layers:
        attention, normed = layer.self_attn, layer.input_layernorm(x)
        q, k = (
            rotate(norm(project(normed).view(len(ids), -1, model.config.head_dim)), *rope).transpose(0, 1)
            for project, norm in ((attention.q_proj, attention.q_norm), (attention.k_proj, attention.k_norm))
        )
        k = k.repeat_interleave(len(q) // len(k), dim=0)
        weights.append((q @ k.mT / model.config.head_dim**0.5 + future).softmax(-1))
        x = layer(x[None], rope, None, None)[0]
    return weights


def some_ids(seed: int = 1) -> Tensor:
    return torch.randint(2_000, (T,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kv_heads", [3, 1])
def test_the_first_heads_look_one_and_two_tokens_back(kv_heads: int) -> None:
    first = attention_weights(fresh(n_kv_heads=kv_heads), some_ids())[0]
    for head, distance in ((0, 1), (1, 2)):
        there = first[head].diagonal(-distance)[100:]
        assert there.mean() > 0.4
        assert (first[head][100:].argmax(1) == torch.arange(100, T) - distance).float().mean() > 0.95


@pytest.mark.parametrize(
    ("heads", "kv_heads", "finders"),
    [(3, 3, [0, 1]), (4, 2, [0, 2]), (3, 1, [0])],
    ids=["own", "grouped", "one for all"],
)
def test_heads_of_the_second_layer_find_what_followed_the_same_token(
    heads: int, kv_heads: int, finders: list[int]
) -> None:
    ids = some_ids()
    ids[T // 2 :] = ids[: T // 2]
    second = attention_weights(fresh(n_heads=heads, n_kv_heads=kv_heads), ids)[1]
    followers = F.pad(ids[None, :-1] == ids[:, None], (1, 0)).tril()
    found = (second * followers).sum(-1)[:, T // 2 + 1 :].mean(1)
    assert found[finders].min() > 0.5
    others = [head for head in range(heads) if head not in finders]
    assert found[others].max() < 0.05, "the other heads are as chance made them"


def test_two_that_find_say_different_things() -> None:
    """Equal heads would have equal gradients, and stay one."""
    model = fresh()
    model.lm_head.weight.data.normal_()
    write_copying(model, torch.full((2_000, 1), 1 / 2_000))
    attention = model.layers[1].self_attn
    first, second = attention.o_proj.weight[:, :64], attention.o_proj.weight[:, 64:128]
    assert (first.T @ second).abs().max() < 1e-4 < first.norm()
    assert not torch.allclose(attention.v_proj.weight[:64], attention.v_proj.weight[64:128], atol=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_layers": 1},
        {"dim": 32, "n_heads": 1, "n_kv_heads": 1, "head_dim": 8},
        {"tie_embeddings": True},
        {"family": "llama"},
        {"context": 64},
        {"dim": 48, "n_heads": 1, "n_kv_heads": 1},
    ],
)
def test_whatever_its_shape_the_first_output_is_nearly_uniform(changes: dict[str, Any]) -> None:
    model = fresh(**changes)
    with torch.no_grad():
        logits = model.logits(model(some_ids()[None]))
    assert 0 < logits.std() < (0.5 if model.config.tie_embeddings else 0.05)
    for layer in model.layers[1:]:
        assert not layer.self_attn.o_proj.weight.any()
        assert not layer.mlp.down_proj.weight.any()
