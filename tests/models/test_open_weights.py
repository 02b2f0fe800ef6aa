"""Open weights: every published size builds, and computes what transformers computes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_configs import PARAMETERS, as_version_5, published, shrunk
from torch import Tensor

from lanbot.chat.formats.base import ChatFormat, Encode, Rendered, StreamParser
from lanbot.chat.messages import Message
from lanbot.inference.engine import Engine
from lanbot.inference.runner import Runner
from lanbot.inference.sampling import Sampling
from lanbot.inference.slots import Slots
from lanbot.models.config import ModelConfig
from lanbot.models.transformer import Transformer, rotation
from lanbot.models.weights import load_model
from lanbot.tokenizers import load_tokenizer

CPU = torch.device("cpu")
T, DECODED = 2_048, 16

SHRUNK = {
    "Qwen2.5-0.5B": (14, 2),
    "Qwen2.5-1.5B": (6, 1),
    "Qwen2.5-14B": (5, 1),
    "Llama-3.2-1B": (8, 2),
    "Llama-3.2-3B": (3, 1),
    "SmolLM2-135M": (9, 3),
    "SmolLM2-1.7B": (4, 4),
    "Qwen3-0.6B": (4, 2),
    "Qwen3-4B": (4, 1),
    "nanochat-d20": (2, 2),
}
"""Heads, and heads of keys and values."""
NANOCHAT = {
    "model_type": "nanochat",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 1_024,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 2_048,
    "rms_norm_eps": 1e-6,
    "hidden_act": "relu2",
    "tie_word_embeddings": False,
}


def config_of(folder: Path, content: dict[str, Any]) -> ModelConfig:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return ModelConfig.from_hf(folder / "config.json")


# -- shapes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_size_has_the_parameters_that_its_maker_counts(name: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, published(name))
    with torch.device("meta"):
        model = Transformer(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert config_of(tmp_path / "new", as_version_5(published(name))) == config


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_is_written_of_a_shape_is_read_by_us_and_by_transformers_as_it_was(name: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    ours = config_of(tmp_path / "hub", published(name))
    assert config_of(tmp_path / "ours", ours.to_hf()) == ours
    theirs, again = (AutoConfig.from_pretrained(tmp_path / folder) for folder in ("hub", "ours"))
    assert type(theirs) is type(again)
    for key in ("rope_parameters", "rms_norm_eps", "max_position_embeddings", "vocab_size", "hidden_act"):
        assert getattr(theirs, key) == getattr(again, key), key
    assert getattr(theirs, "layer_types", None) == getattr(again, "layer_types", None)


# -- the forward pass ----------------------------------------------------------------------------------------


def random_model_of_transformers(content: dict[str, Any], folder: Path) -> Any:
    """With weights of a size that makes every part of the model count; saved in the folder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    (folder / "config.json").write_text(json.dumps(content))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(0.0 if "bias" in name else 1.0, 0.3, generator=generator)
            else:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
    model.save_pretrained(folder)
    return model


def off(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest logit."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("name", SHRUNK)
@torch.no_grad()
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """In fp32: the model's own, and the engine's for a prompt and token by token after it."""
    content = NANOCHAT if "nanochat" in name else shrunk(name, 2, *SHRUNK[name])
    theirs = random_model_of_transformers(content, tmp_path)
    ids = torch.randint(content["vocab_size"], (1, T), generator=torch.Generator().manual_seed(6))
    expected = theirs(ids).logits
    model = load_model(tmp_path, torch.float32, CPU)
    assert expected.std() > 0.3, "the comparison would be of next to nothing"
    assert off(model.logits(model(ids)), expected) < 1e-5
    runner, slots = Runner(model), Slots(model.config, model.dtype, CPU, budget=1 << 30)
    slots.reserve(1, T, used=0)
    for first, count in ((0, T - DECODED), *((T - DECODED + i, 1) for i in range(DECODED))):
        positions = torch.arange(first, first + count)[None]
        hidden = runner.forward(slots, ids[:, first : first + count], positions, None, first + count)
        assert off(runner.logits(hidden), expected[:, first : first + count]) < 1e-5


@torch.no_grad()
def test_beyond_the_context_that_llama_3_was_first_trained_with(tmp_path: Path) -> None:
    content = shrunk("Llama-3.2-1B", 1, 2, 1, vocab=64)
    theirs = random_model_of_transformers(content, tmp_path)
    ids = torch.randint(64, (1, 8_704), generator=torch.Generator().manual_seed(6))
    model = load_model(tmp_path, torch.float32, CPU)
    assert model.config.rope_scaling is not None and model.config.rope_scaling.original_context < ids.shape[1]
    assert off(model.logits(model(ids)), theirs(ids).logits) < 1e-5


@pytest.mark.parametrize("name", ["Llama-3.2-1B", "Llama-3.2-3B", "SmolLM2-1.7B", "Qwen3-8B"])
def test_rotations_up_to_the_last_position_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    from transformers import AutoConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = config_of(tmp_path, published(name))
    theirs = LlamaRotaryEmbedding(AutoConfig.from_pretrained(tmp_path))
    positions = torch.arange(config.context - 1_000, config.context)
    cos, sin = rotation(positions, config, torch.float32)
    expected_cos, expected_sin = theirs(torch.zeros(1, dtype=torch.float32), positions[None])
    half = config.head_dim // 2
    assert torch.equal(cos[:, 0], expected_cos[0])
    assert torch.equal(sin[:, 0, half:], expected_sin[0, :, half:])


# -- a trained model -----------------------------------------------------------------------------------------


class Plain(ChatFormat):
    """No format: a story is continued until it ends."""

    name, special_tokens, template = "plain", ("<s>", "</s>"), ""
    bos_token, end_token, pad_token, stop_names = "<s>", "</s>", "<unk>", ("</s>",)

    def render_message(self, message: Message, encode: Encode) -> Rendered:
        raise NotImplementedError

    def start_of_answer(self) -> list[int]:
        return []

    def stream(self) -> StreamParser:
        return StreamParser(self.tokenizer, {}, {})

    def forced_output(self, result: str, room: int) -> list[int]:
        return []


def test_greedy_stories_are_those_of_transformers(real_mirror: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = real_mirror / "open_weights" / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    vocabulary = Plain(load_tokenizer(folder))
    begun = [
        "Once upon a time",
        "Lily and Tom",
        "One day, a little dog",
        "The sun",
        "Mum said: \u201cNo!\u201d",
        "",
        "3",
    ]
    prompts = [[vocabulary.bos, *vocabulary.tokenizer.encode(text)] for text in begun]
    engine = Engine(load_model(folder, torch.float32, CPU), vocabulary)
    ours = engine.generate(prompts, Sampling(max_tokens=200))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for prompt, story in zip(prompts, ours, strict=True):
        expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=200, do_sample=False, pad_token_id=0)
        assert story.ids == expected[0, len(prompt) :].tolist()
        assert len(story.ids) > 20
