"""GGUF files: what is written is read again exactly, other people's are read, and broken ones refused in two lines."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import HOSTILE
from llama_cpp import ask, needs_llama_cpp

from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.config.recipe import RopeScaling
from lanbot.core.errors import UserError
from lanbot.models.gguf_names import permute, rope_factors, unpermute
from lanbot.models.gguf_read import GGUFFile
from lanbot.models.gguf_write import write_gguf
from lanbot.models.transformer import Transformer
from lanbot.models.weights import save_model, to_hf_names
from lanbot.phases.origins.base import Files
from lanbot.phases.origins.gguf import GGUFModel
from lanbot.tokenizers import load_tokenizer

gguf = pytest.importorskip("gguf")


def folder_of(model: Transformer, chat_format: LanBotFormat, folder: Path) -> Path:
    save_model(model, folder)
    chat_format.save(folder)
    return folder


@pytest.mark.parametrize(
    "changes",
    [{"family": "qwen3"}, {"family": "qwen2"}, {"family": "llama"}, {"family": "llama", "tie_embeddings": True}],
    ids=["qwen3", "qwen2", "llama", "tied"],
)
def test_weights_come_back_exactly(make_model, chat_format, changes: dict[str, Any], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = make_model(**changes)
    write_gguf(folder_of(model, chat_format, tmp_path / "model"), tmp_path / "m.gguf", "f32", "m")
    origin = GGUFModel("m", Files(tmp_path / "m.gguf"))
    step = origin.choose("sft")
    assert origin.config(step) == model.config
    assert origin.chat_format(step).name == "lanbot"
    again = to_hf_names(origin.model(step))
    assert all(torch.equal(again[name], weight) for name, weight in to_hf_names(model).items())


@pytest.mark.parametrize(("kind", "error"), [("f16", 1e-3), ("bf16", 1e-2), ("q8_0", 2e-2)])
def test_smaller_types_come_back_nearly(make_model, chat_format, kind: str, error: float, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = make_model(dim=64, head_dim=16)
    write_gguf(folder_of(model, chat_format, tmp_path / "model"), tmp_path / "m.gguf", kind, "m")
    file = GGUFFile(tmp_path / "m.gguf")
    for name, weight in file.weights():
        before = to_hf_names(model)[name]
        assert torch.equal(weight, before) == (weight.dim() == 1)
        assert (weight - before).abs().max() <= error * before.abs().max()
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert types["blk.0.ffn_up.weight"] == kind.upper()
    assert types["blk.0.ffn_down.weight"] == ("F16" if kind == "q8_0" else kind.upper())  # 48 wide: not by blocks of 32


def test_the_tokenizer_comes_back_with_its_ids(make_model, chat_format, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_gguf(folder_of(make_model(), chat_format, tmp_path / "model"), tmp_path / "m.gguf", "f32", "m")
    text, config = GGUFFile(tmp_path / "m.gguf").tokenizer()
    (tmp_path / "tokenizer.json").write_text(text)
    again = load_tokenizer(tmp_path)
    assert type(again) is type(chat_format.tokenizer)
    assert again.special == chat_format.tokenizer.special
    assert all(again.encode(text) == chat_format.tokenizer.encode(text) for text in HOSTILE.values())
    written = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert {name: config[name] for name in ("bos_token", "eos_token", "pad_token", "chat_template")} == {
        name: written[name] for name in ("bos_token", "eos_token", "pad_token", "chat_template")
    }


def test_rows_are_permuted_as_neighbouring_pairs() -> None:
    weight = torch.arange(8.0)[:, None]
    assert permute(weight, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(unpermute(permute(weight, 2), 2), weight)


def test_llama_3_frequencies_are_those_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8_192}
    config = LlamaConfig(head_dim=64, rope_parameters=rope, max_position_embeddings=131_072)
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500_000.0 ** -(torch.arange(0, 64, 2) / 64)
    ours = rope_factors({"head_dim": 64, "rope_parameters": rope})
    assert ours is not None
    assert torch.allclose(plain / ours, theirs, rtol=1e-5)


# -- What is refused ---------------------------------------------------------------------------------------


@pytest.fixture
def whole(make_model, chat_format, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    write_gguf(folder_of(make_model(), chat_format, tmp_path / "model"), tmp_path / "m.gguf", "f32", "m")
    return tmp_path / "m.gguf"


def opened(path: Path) -> None:
    origin = GGUFModel("m", Files(path))
    origin.model(origin.choose("sft"))
    origin.chat_format(origin.choose("sft"))


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        opened(path)
    assert refused.value.remedy
    assert "\n" not in refused.value.problem
    return refused.value.problem


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(whole: Path, share: float) -> None:
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * share)])
    assert "m.gguf" in refusal(whole)


def test_a_file_of_another_kind_is_refused(whole: Path) -> None:
    whole.write_bytes(b"PK\x03\x04" * 1_000)
    assert "not a GGUF file" in refusal(whole)


def rewritten(path: Path, without: str = "", **fields: Any) -> Path:
    """The file with other fields, and without a tensor."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(path.with_name("n.gguf"), fields.pop("architecture", "qwen3"))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = fields.pop(name.rpartition(".")[2], field.contents())
        if value is not None:
            kinds = field.types
            writer.add_key_value(name, value, kinds[0], kinds[1] if len(kinds) > 1 else None)
    for name, value in fields.items():
        writer.add_string(name.replace("__", "."), value)
    for tensor in reader.tensors:
        if tensor.name != without:
            writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_name("n.gguf")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "gemma3"}, "architecture 'gemma3'"),
        ({"without": "blk.1.ffn_up.weight"}, "lacks blk.1.ffn_up.weight"),
        ({"without": "token_embd.weight"}, "lacks token_embd.weight"),
        ({"block_count": 1}, "has 2 layers, its shape says 1"),
        ({"block_count": 2_000_000_000}, "its shape says 2,000,000,000"),
        ({"feed_forward_length": 2_000_000_000}, "its shape says"),
        ({"embedding_length": 48}, "its shape says"),
        ({"head_count": 8}, "its shape says"),
        ({"block_count": None}, "lacks qwen3.block_count"),
        ({"pre": "tekken"}, "split pattern is 'tekken'"),
        ({"model": "bert"}, "tokenizer is 'bert'"),
        ({"qwen3__rope__scaling__type": "yarn"}, "rope scaling 'yarn'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_what_lanbot_does_not_run_is_named(whole: Path, changes: dict[str, Any], said: str) -> None:
    assert said in refusal(rewritten(whole, **changes))


def test_errors_name_the_file_and_nothing_temporary(whole: Path) -> None:
    assert refusal(rewritten(whole, context_length=0)).startswith(str(whole.with_name("n.gguf")))


@pytest.mark.parametrize("theta", [500_000.0, 10_000.0])
def test_llama_3s_scaled_rotations_come_back(make_model, chat_format, theta: float, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    scaling = RopeScaling(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8_192)
    model = make_model(family="llama", head_dim=64, rope_scaling=scaling, rope_theta=theta, context=131_072)
    write_gguf(folder_of(model, chat_format, tmp_path / "model"), tmp_path / "m.gguf", "f32", "m")
    origin = GGUFModel("m", Files(tmp_path / "m.gguf"))
    assert origin.config(origin.choose("sft")) == model.config


def test_a_family_that_llama_cpp_lacks_is_refused(make_model, chat_format, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = folder_of(make_model(family="nanochat"), chat_format, tmp_path / "model")
    with pytest.raises(UserError, match="does not run the family nanochat") as refused:
        write_gguf(folder, tmp_path / "m.gguf", "f32", "m")
    assert "--to hf" in refused.value.remedy
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("pre_tokenizer", {"type": "Whitespace"}, "split pattern of its own"),
        ("normalizer", {"type": "Lowercase"}, "normalises text"),
    ],
)
def test_a_tokenizer_that_llama_cpp_lacks_is_refused(  # type: ignore[no-untyped-def]
    make_model, chat_format, part: str, value: Any, said: str, tmp_path: Path
) -> None:
    folder = folder_of(make_model(), chat_format, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, part: value}))
    with pytest.raises(UserError, match=said):
        write_gguf(folder, tmp_path / "m.gguf", "f32", "m")
    assert not list(tmp_path.glob("*.gguf*"))


def test_nothing_half_written_is_left(make_model, chat_format, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = folder_of(make_model(), chat_format, tmp_path / "model")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-1000])
    with pytest.raises(UserError, match="damaged"):
        write_gguf(folder, tmp_path / "m.gguf", "f32", "m")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# -- Real weights ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_smollm2_is_read_as_transformers_reads_it(smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32)
    weights = dict(theirs.named_parameters())
    for name, weight in GGUFFile(smollm2).weights():
        assert torch.equal(weight, weights[name].detach()), name


@needs_llama_cpp
@pytest.mark.slow
def test_smollm2_tokenizes_as_llama_cpp_does(smollm2: Path, tmp_path: Path) -> None:
    text, _ = GGUFFile(smollm2).tokenizer()
    (tmp_path / "tokenizer.json").write_text(text)
    tokenizer, texts = load_tokenizer(tmp_path), [*HOSTILE.values()]
    assert ask(smollm2, tokenize=texts)["tokenize"] == [tokenizer.encode(text) for text in texts]
