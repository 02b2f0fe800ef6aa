"""Weights on disk: in several files, of several types, read one at a time, and what is refused of them."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lanbot.core import hardware
from lanbot.core.errors import UserError
from lanbot.models import stored
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model, save_model

MakeModel = Callable[..., Transformer]
CPU = torch.device("cpu")
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def load(folder: Path) -> Transformer:
    return load_model(folder, torch.float32, CPU)


def shard(folder: Path, parts: int, dtype: torch.dtype = torch.float32) -> list[Path]:
    """Replaces the folder's one file by several and their index."""
    weights = {name: value.to(dtype) for name, value in load_file(folder / WHOLE).items()}
    paths = [folder / f"model-{part + 1:05d}-of-{parts:05d}.safetensors" for part in range(parts)]
    held: dict[Path, dict[str, torch.Tensor]] = {path: {} for path in paths}
    for name in sorted(weights, key=lambda name: -weights[name].numel()):  # into the smallest so far
        smallest = min(paths, key=lambda path: sum(value.numel() for value in held[path].values()))
        held[smallest][name] = weights[name]
    for path, some in held.items():
        save_file(some, path)
    where = {name: path.name for path, some in held.items() for name in some}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    (folder / WHOLE).unlink()
    return paths


@pytest.fixture
def folder(make_model: MakeModel, tmp_path: Path) -> Path:
    save_model(make_model(), tmp_path)
    return tmp_path


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_several_files_of_any_type_make_one_model(
    dtype: torch.dtype, tied: bool, make_model: MakeModel, tmp_path: Path
) -> None:
    model = make_model(tie_embeddings=tied, family="qwen2")
    save_model(model, tmp_path)
    shard(tmp_path, 3, dtype)
    again = load(tmp_path)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.to(dtype).float()), name


def test_what_transformers_shards_is_read(make_model: MakeModel, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = make_model(family="llama", dim=64, mlp_dim=160)
    save_model(model, tmp_path / "one")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="100KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    again = load(tmp_path / "many").state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def test_a_buffer_of_old_files_is_left_out(folder: Path) -> None:
    weights = load_file(folder / WHOLE)
    save_file({**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, folder / WHOLE)
    load(folder)


PEAK = """
import sys
import torch
from pathlib import Path
from lanbot.models.weights import load_model

def kept(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024

load_model(Path(sys.argv[1]), torch.float32, torch.device("cpu"))
open("/proc/self/clear_refs", "w").write("5")
before = kept("VmRSS")
model = load_model(Path(sys.argv[2]), torch.float32, torch.device("cpu"))
print(kept("VmHWM") - before, 4 * sum(p.numel() for p in model.parameters()))
"""


def test_one_file_at_most_is_in_memory_beside_the_model(make_model: MakeModel, tmp_path: Path) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of memory cannot be measured here")
    save_model(make_model(), tmp_path / "small")
    save_model(make_model(n_layers=8, dim=512, n_heads=8, head_dim=64, mlp_dim=2_048), tmp_path / "large")
    paths = shard(tmp_path / "large", 8)
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / "small", tmp_path / "large"], capture_output=True, text=True, check=True
    )
    peak, model = map(int, ran.stdout.split())
    largest = max(path.stat().st_size for path in paths)
    assert model > 7 * largest > 7 * 2**23
    assert peak < model + 1.5 * largest


# -- what is refused -----------------------------------------------------------------------------------------


def refused(folder: Path, *words: str) -> UserError:
    with pytest.raises(UserError) as caught:
        load(folder)
    assert str(caught.value).count("\n") == 1, "a problem and a remedy"
    assert all(word in caught.value.problem for word in words), caught.value.problem
    return caught.value


def change(folder: Path, **keys: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **keys}))


def test_a_missing_file_of_several_is_named(folder: Path) -> None:
    paths = shard(folder, 3)
    paths[1].unlink()
    refused(folder, str(paths[1]), "not there", INDEX)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_cut_file_of_several_is_named(keep: int, folder: Path) -> None:
    paths = shard(folder, 3)
    paths[2].write_bytes(paths[2].read_bytes()[:keep])
    refused(folder, str(paths[2]), "damaged")


def test_a_header_larger_than_its_file_is_no_memory_taken(folder: Path) -> None:
    (folder / WHOLE).write_bytes(struct.pack("<Q", 2**50) + b"{}")
    refused(folder, WHOLE, "damaged")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_is_named(content: str, folder: Path) -> None:
    shard(folder, 2)
    (folder / INDEX).write_text(content)
    refused(folder, INDEX)


@pytest.mark.parametrize("elsewhere", ["../other.safetensors", "/etc/passwd", ".."])
def test_an_index_cannot_name_a_file_elsewhere(elsewhere: str, folder: Path) -> None:
    shard(folder, 2)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": elsewhere}}))
    refused(folder, "no file beside it")


def test_a_weight_in_two_files_is_named(folder: Path) -> None:
    paths = shard(folder, 2)
    first = load_file(paths[0])
    save_file({**load_file(paths[1]), next(iter(first)): next(iter(first.values()))}, paths[1])
    refused(folder, next(iter(first)), "too")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float64])
def test_weights_that_are_quantised_are_refused_by_their_type(dtype: torch.dtype, folder: Path) -> None:
    weights, name = load_file(folder / WHOLE), "model.layers.1.mlp.up_proj.weight"
    save_file({**weights, name: weights[name].to(dtype)}, folder / WHOLE)
    error = refused(folder, name, "of the type")
    assert "not quantised" in error.remedy


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "consolidated.00.pth"])
def test_pickles_are_not_read(name: str, folder: Path) -> None:
    (folder / WHOLE).unlink()
    (folder / name).write_bytes(b"\x80\x04cos\nsystem\n")
    refused(folder, name, "pickle", "may run code")


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"hidden_size": 64}, "the config says"),
        ({"vocab_size": 2**40}, "the config says"),
        ({"intermediate_size": 2**62}, "sizes"),
        ({"num_hidden_layers": 10**12}, "1,000,000,000,000"),
        ({"num_hidden_layers": 1}, "2 layers"),
        ({"tie_word_embeddings": True}, "ties"),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "lacks"),
        ({"num_key_value_heads": 4}, "(16, 32), the config says (32, 32)"),
    ],
)
def test_a_config_that_lies_about_shapes_is_refused_before_memory_is_taken(
    keys: dict[str, Any], word: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transformer, "to_empty", lambda *_, **__: pytest.fail("memory is taken"))
    change(folder, **keys)
    refused(folder, word)


def test_a_tied_model_may_hold_its_head_too(make_model: MakeModel, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(stored, "BLOCK", 7)
    model = make_model(tie_embeddings=True)
    save_model(model, tmp_path)
    weights = load_file(tmp_path / WHOLE)
    head = weights["model.embed_tokens.weight"].clone()
    save_file({**weights, "lm_head.weight": head}, tmp_path / WHOLE)
    assert load(tmp_path).lm_head.weight.equal(model.lm_head.weight)
    head[-1, -1] += 1
    save_file({**weights, "lm_head.weight": head}, tmp_path / WHOLE)
    assert "tie_word_embeddings" in refused(tmp_path, "lm_head.weight").remedy


def test_a_model_that_does_not_fit_the_memory_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "available", lambda: 10_000)
    refused(folder, "parameters take", "9.8 KiB are free")
