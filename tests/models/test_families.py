"""config.json: what is another model than ours is refused by the name of the key, with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest
from hub_configs import LLAMA3, as_version_5, published

from lanbot.config.recipe import RopeScaling
from lanbot.core.errors import UserError
from lanbot.models.config import ModelConfig
from lanbot.models.families import FAMILIES
from lanbot.models.families.refused import REFUSED

FAMILY_FILES = Path(__file__).parents[2] / "lanbot" / "models" / "families"


def read(folder: Path, name: str = "Qwen2.5-7B", **changes: Any) -> ModelConfig:
    """A published config.json with other values; those that are ... are left out."""
    content = {key: value for key, value in {**published(name), **changes}.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(content))
    return ModelConfig.from_hf(folder / "config.json")


def refused(folder: Path, *words: str, name: str = "Qwen2.5-7B", **changes: Any) -> None:
    with pytest.raises(UserError) as caught:
        read(folder, name, **changes)
    assert str(caught.value).count("\n") == 1, "a problem and a remedy"
    assert str(folder / "config.json") in caught.value.problem
    assert all(word in caught.value.problem for word in words), caught.value.problem


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_one_small_file(family: str) -> None:
    assert len((FAMILY_FILES / f"{family}.py").read_text().splitlines()) < 60


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_model_that_looks_alike_is_refused_with_the_reason(model_type: str, tmp_path: Path) -> None:
    assert model_type not in FAMILIES
    refused(tmp_path, f"'{model_type}'", REFUSED[model_type], model_type=model_type)


@pytest.mark.parametrize("model_type", ["mamba", None, 7, ["llama"], ...])
def test_a_model_type_that_nobody_knows_is_refused(model_type: Any, tmp_path: Path) -> None:
    refused(tmp_path, "model_type", model_type=model_type)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("Llama-3.2-1B", {"attention_bias": True}, ("attention_bias = true", "only false")),
        ("Llama-3.2-1B", {"mlp_bias": True}, ("mlp_bias",)),
        ("Qwen3-8B", {"attention_bias": True}, ("attention_bias",)),
        ("Qwen2.5-7B", {"hidden_act": "gelu"}, ("hidden_act", "gelu", "silu")),
        ("Llama-3.2-1B", {"hidden_act": "relu2"}, ("hidden_act", "relu2")),
        ("Qwen2.5-7B", {"use_sliding_window": True, "max_window_layers": 20}, ("sliding_attention",)),
        ("Qwen3-8B", {"layer_types": ["full_attention", "linear_attention"]}, ("linear_attention",)),
        ("Qwen2.5-7B", {"quantization_config": {"quant_method": "gptq"}}, ("quantization_config", "quantised")),
        ("Llama-3.2-1B", {"vision_config": {"hidden_size": 1}}, ("vision_config", "pictures")),
        ("Qwen3-8B", {"num_experts": 128}, ("num_experts",)),
        ("Llama-3.2-1B", {"num_local_experts": 8}, ("num_local_experts",)),
        ("SmolLM2-135M", {"no_rope_layers": [1, 1, 1, 0]}, ("no_rope_layers",)),
        ("Qwen2.5-7B", {"architectures": ["Qwen2ForSequenceClassification"]}, ("Qwen2ForSequenceClassification",)),
        ("Qwen2.5-7B", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, ("yarn",)),
        ("Qwen2.5-7B", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, ("dynamic",)),
        ("Qwen2.5-7B", {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}, ("mrope",)),
        ("Qwen2.5-7B", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, ("differ by layer",)),
        ("Qwen2.5-7B", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, ("partial",)),
        ("Llama-3.2-1B", {"rope_scaling": {**LLAMA3, "rope_type": "llama3", "factor": None}}, ("factor",)),
        ("Llama-3.2-1B", {"rope_scaling": {**LLAMA3, "rope_type": "llama3", "high_freq_factor": 1.0}}, ("high_freq",)),
    ],
)
def test_what_would_compute_something_else_is_refused(
    name: str, changes: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    refused(tmp_path, *words, name=name, **changes)


@pytest.mark.parametrize("value", [0, -1, 1.5, "64", True, None, [64], ...])
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"])
def test_a_size_that_is_none_is_named(key: str, value: Any, tmp_path: Path) -> None:
    refused(tmp_path, key, **{key: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 3},
        {"head_dim": 63},
        {"rms_norm_eps": "1e-6"},
        {"rms_norm_eps": 0},
        {"rope_theta": -1.0},
        {"rope_theta": float("inf")},
        {"tie_word_embeddings": "no"},
    ],
)
def test_a_value_that_is_none_is_named(changes: dict[str, Any], tmp_path: Path) -> None:
    refused(tmp_path, **changes)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("Qwen2.5-7B", {"use_sliding_window": True, "max_window_layers": 28}),
        ("Qwen2.5-7B", {"layer_types": ["full_attention"] * 28}),
        ("Qwen2.5-7B", {"sliding_window": 4_096}),
        ("Qwen2.5-7B", {"hidden_act": ..., "attention_dropout": 0.1, "auto_map": {}, "pad_token_id": 0}),
        ("Llama-3.2-1B", {"attention_bias": ..., "mlp_bias": ..., "head_dim": ...}),
        ("Qwen2.5-7B", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 1.0}}),
        ("Qwen3-8B", {"num_experts": 0, "quantization_config": None, "architectures": ...}),
    ],
)
def test_what_changes_nothing_is_read(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path, name, **changes) == read(tmp_path, name)


def test_both_spellings_of_a_scaled_rotation_are_read(tmp_path: Path) -> None:
    config = read(tmp_path, "Llama-3.2-1B")
    assert config.rope_scaling == RopeScaling(32.0, 1.0, 4.0, 8_192) and config.rope_theta == 500_000.0
    (tmp_path / "config.json").write_text(json.dumps(as_version_5(published("Llama-3.2-1B"))))
    assert ModelConfig.from_hf(tmp_path / "config.json") == config


def test_a_head_size_that_is_left_out_is_what_transformers_takes(tmp_path: Path) -> None:
    from transformers import AutoConfig

    assert read(tmp_path, "Qwen3-0.6B", head_dim=...).head_dim == AutoConfig.from_pretrained(tmp_path).head_dim == 128
    assert read(tmp_path, "Qwen2.5-0.5B").head_dim == 64
