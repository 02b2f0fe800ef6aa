"""The transformer: equal to transformers' models, to itself with a cache, and blind to what it must not see."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from lanbot.core.errors import UserError
from lanbot.models.config import ModelConfig
from lanbot.models.families import FAMILIES
from lanbot.models.init import init_weights
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model, save_model

MakeModel = Callable[..., Transformer]
CPU = torch.device("cpu")
SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "as many kv heads": {"n_kv_heads": 4},
    "tied": {"tie_embeddings": True},
    "wide heads": {"head_dim": 16, "n_kv_heads": 1, "rope_theta": 500_000.0, "norm_eps": 1e-5},
}


def some_ids(rows: int, T: int, seed: int = 1, vocab: int = 448) -> Tensor:
    return torch.randint(vocab, (rows, T), generator=torch.Generator().manual_seed(seed))


def logits(model: Transformer, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model.logits(model(ids))


def load(folder: Path) -> Transformer:
    return load_model(folder, torch.float32, CPU)


# -- transformers' own models on the same weights ------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_the_same_in_transformers(
    make_model: MakeModel, tmp_path: Path, family: str, shape: str
) -> None:
    from transformers import AutoModelForCausalLM

    model = make_model(family=family, **SHAPES[shape])
    save_model(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs).__name__ == FAMILIES[family].architecture
    assert theirs.dtype == torch.float32
    ids = some_ids(3, 40)
    ours = logits(model, ids)
    assert ours.std() > 0.3, "the comparison would be of next to nothing"
    with torch.no_grad():
        assert_close(ours, theirs(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_transformers_is_the_same_here(tmp_path: Path, family: str, tied: bool) -> None:
    import transformers

    theirs = getattr(transformers, FAMILIES[family].architecture)(
        getattr(transformers, FAMILIES[family].architecture.replace("ForCausalLM", "Config"))(
            vocab_size=99,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=40,
            max_position_embeddings=64,
            tie_word_embeddings=tied,
            rope_parameters={"rope_type": "default", "rope_theta": 1_234.0},
        )
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.2, generator=generator)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    assert ours.config.rope_theta == 1_234.0
    ids = some_ids(2, 50, vocab=99)
    with torch.no_grad():
        assert_close(logits(ours, ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)


def test_an_open_model_is_the_same_here() -> None:
    from transformers import AutoModelForCausalLM

    mirror = Path(os.environ.get("LANBOT_MIRROR") or Path(__file__).parents[3] / "shared" / "data")
    folder = mirror / "open_weights" / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there (set LANBOT_MIRROR)")
    ours, theirs = load(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = some_ids(2, 100, vocab=ours.config.vocab_size)
    with torch.no_grad():
        assert_close(logits(ours, ids), theirs(ids).logits, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_loads_as_it_was(make_model: MakeModel, tmp_path: Path, tied: bool) -> None:
    model = make_model(tie_embeddings=tied, norm_eps=1e-5, rope_theta=777.0)
    save_model(model, tmp_path)
    again = load(tmp_path)
    assert again.config == model.config
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    assert (again.lm_head.weight is again.embed_tokens.weight) == tied


def test_a_bf16_model_keeps_fp32_masters(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model()
    save_model(model, tmp_path)
    bf16 = load_model(tmp_path, torch.bfloat16, CPU)
    assert {p.dtype for p in bf16.parameters()} == {torch.float32}
    hidden = bf16(some_ids(1, 8))
    assert hidden.dtype == torch.bfloat16
    assert bf16.logits(hidden).dtype == torch.float32
    assert_close(logits(bf16, some_ids(1, 8)), logits(model, some_ids(1, 8)), atol=0.15, rtol=0.05)


# -- what a token may see ------------------------------------------------------------------------------------


def test_a_later_token_changes_nothing_before_it(make_model: MakeModel) -> None:
    model, ids = make_model(), some_ids(1, 20)
    changed = ids.clone()
    changed[0, 11] = (changed[0, 11] + 1) % 448
    before, after = logits(model, ids), logits(model, changed)
    assert torch.equal(before[:, :11], after[:, :11])
    assert (before[0, 11:] != after[0, 11:]).any(dim=-1).all()


def test_packed_documents_are_as_if_alone(make_model: MakeModel) -> None:
    model = make_model()
    lengths = [[5, 1, 9, 3], [2, 16]]
    ids = some_ids(2, 18)
    documents = torch.tensor([[n for n, length in enumerate(row) for _ in range(length)] for row in lengths])
    with torch.no_grad():
        packed = model(ids, documents)
        for row, row_lengths in enumerate(lengths):
            start = 0
            for length in row_lengths:
                part = slice(start, start + length)
                assert_close(packed[row, part], model(ids[row : row + 1, part])[0], atol=1e-4, rtol=1e-4)
                start += length
        assert not torch.allclose(packed, model(ids), atol=1e-2), "the mask does nothing"


def test_the_first_model_is_uniform_over_the_vocabulary() -> None:
    model = Transformer(ModelConfig(100, 64, 2, 4, 2, 16, 64, 32))
    init_weights(model, torch.Generator().manual_seed(0))
    probabilities = logits(model, some_ids(2, 30, vocab=100)).softmax(-1)
    assert (probabilities * 100 - 1).abs().max() < 0.1


# -- folders that cannot be loaded ---------------------------------------------------------------------------


@pytest.fixture
def folder(make_model: MakeModel, tmp_path: Path) -> Path:
    save_model(make_model(), tmp_path)
    return tmp_path


def refused(folder: Path, file: str, *words: str) -> None:
    with pytest.raises(UserError) as raised:
        load(folder)
    assert str(folder / file) in raised.value.problem
    assert all(word in raised.value.problem for word in words), raised.value.problem
    assert "\n" not in raised.value.problem


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    refused(folder, file, "not there")


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_a_cut_file_is_named(folder: Path, keep: float) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: int(keep * len(content)) if keep == 0.5 else int(keep)])
    refused(folder, "model.safetensors", "damaged")


def test_a_config_that_is_not_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text((folder / "config.json").read_text()[:-5])
    refused(folder, "config.json", "not JSON")


@pytest.mark.parametrize("content", ["[]", '"llama"', '{"model_type": "llama"}'])
def test_a_config_without_a_shape_is_named(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    refused(folder, "config.json")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "llama3"),
    ],
)
def test_what_the_model_cannot_be_is_named(folder: Path, change: dict[str, Any], word: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    refused(folder, "config.json", word)


def test_weights_that_do_not_fit_the_config_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"

    save_file({key: value for key, value in weights.items() if key != name}, path)
    refused(folder, "model.safetensors", f"lacks {name}")

    save_file({**weights, name: weights[name][:-1].clone()}, path)
    refused(folder, "model.safetensors", name, "(47, 32)", "(48, 32)")

    save_file({**weights, "model.layers.1.self_attn.q_proj.bias": torch.zeros(32)}, path)
    refused(folder, "model.safetensors", "unknown", "q_proj.bias")

    save_file(weights, path)
    load(folder)
