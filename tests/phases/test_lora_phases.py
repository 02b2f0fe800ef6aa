"""Phases with LoRA after one another: each ends with an ordinary model, from which the next begins."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lanbot.chat.formats.base import ChatFormat
from lanbot.config import recipe_file
from lanbot.config.run import Run, read_metrics
from lanbot.core import hardware
from lanbot.core.errors import UserError
from lanbot.distributed.runtime import Runtime
from lanbot.models import saved
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model
from lanbot.phases import evaluation, fitted, rl
from lanbot.phases.chat import train_chat
from lanbot.phases.phase import phase_of
from lanbot.phases.rl import train_rl
from lanbot.phases.rollouts import Rollout
from lanbot.training import checkpoint

RUNTIME = Runtime.single()

RECIPE = """
[model]
context = 256
[mid]
mixture = [{ task = "identity:builtin", rows = 60 }]
batch_tokens = 1_024
checkpoint_every = 1
lora_rank = 4
lora_lr = 0.01
[sft]
mixture = [{ task = "identity:builtin", rows = 60 }]
batch_tokens = 1_024
[rl]
mixture = [{ task = "identity:builtin" }]
steps = 2
prompts = 2
group_size = 3
max_tokens = 8
lora_rank = 2
lora_targets = ["q_proj", "v_proj"]
kl = 0.1
"""


@pytest.fixture
def run(make_model: Callable[..., Transformer], chat_format: ChatFormat, tmp_path: Path, monkeypatch: Any) -> Run:
    """With base done."""
    monkeypatch.setattr(hardware, "matmul_ceiling", lambda device, dtype: 1e12)
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    made = Run(tmp_path / "run", recipe_file.load(path))
    chat_format.save(made.phase("tokenizer"))
    checkpoint.save_model_alone(made.phase("base"), 7, make_model(context=256), chat_format, RUNTIME)
    done(made, "base")
    return made


def done(run: Run, phase: str) -> Path:
    last = saved.latest(run.phase(phase))
    assert last is not None
    (run.phase(phase) / "evals.json").write_text(json.dumps({"checkpoint": last.name}))
    return last


def changed(before: Path, after: Path) -> set[str]:
    ours, theirs = (dict(load_model(f, torch.float32, torch.device("cpu")).named_parameters()) for f in (before, after))
    rounded = {name: weight.to(RUNTIME.dtype).float() for name, weight in ours.items()}
    return {name.split(".")[-2] for name, weight in theirs.items() if not torch.equal(weight, rounded[name])}


def the_first_is_right(groups: list[list[Rollout]], settings: Any) -> list[list[Rollout]]:
    return [[replace(one, reward=float(i == 0)) for i, one in enumerate(group)] for group in groups]


def test_adapters_then_all_weights_then_adapters_in_rl(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rl, "measure", lambda *_: None)
    base = run.phase("base") / "step_000007"
    train_chat(run, RUNTIME, "mid")
    mid = done(run, "mid")
    assert changed(base, mid) == {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    assert not (run.phase("mid") / f"step_{saved.step_of(mid) - 1:06d}" / "model.safetensors").exists()
    config = json.loads((mid / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base/step_000007"
    train_chat(run, RUNTIME, "sft")
    sft = done(run, "sft")
    assert "embed_tokens" in changed(mid, sft) and not (sft / "adapter").exists()
    monkeypatch.setattr(rl, "score", the_first_is_right)
    train_rl(run, RUNTIME)
    assert changed(sft, done(run, "rl")) == {"q_proj", "v_proj"}
    figures = read_metrics(run.phase("rl") / "metrics.jsonl")
    assert figures[0]["kl"] == pytest.approx(0, abs=1e-6) and figures[1]["kl"] > 0
    assert all(line["logprob_gap"] < 0.05 for line in figures)


def test_what_was_begun_keeps_its_adapters_when_it_is_fitted_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    phases = [phase_of(run.recipe, name) for name in ("mid", "sft")]
    assert fitted.fitted(run, phases, RUNTIME) == run.recipe, "all of it fits"
    said = capsys.readouterr().err
    assert "mid: LoRA of rank 4 on q_proj" in said and "sft: all weights; " in said
    assert "weights" in said and "activations" in said and "this device has" in said

    (run.folder / "recipe.toml").write_text(recipe_file.dump(run.recipe))
    run.phase("mid").mkdir()
    plain = replace(run.recipe, mid=replace(run.recipe.mid, lora_rank=0))
    again = fitted.fitted(Run(run.folder, plain), phases, RUNTIME)
    assert again.mid.lora_rank == 4 and again.sft.lora_rank == 0

    monkeypatch.setattr(hardware, "available", lambda: 100)
    with pytest.raises(UserError, match="mid does not fit"):
        fitted.fitted(run, phases, RUNTIME)


def test_after_adapters_the_model_is_opened_in_the_compute_dtype(run: Run) -> None:
    """fp32 copies of large open weights would not fit the device that trained their adapters."""
    train_chat(run, RUNTIME, "mid")
    folder = done(run, "mid")
    for phase, dtype in (("base", torch.float32), ("mid", RUNTIME.dtype)):
        _, engine = evaluation.open_engine(run, phase, RUNTIME)
        assert {weight.dtype for weight in engine.model.parameters()} == {dtype}
    whole = load_model(folder, RUNTIME.dtype, RUNTIME.device)
    ids = torch.arange(20)[None] + 100
    with torch.no_grad():
        expected, found = whole.logits(whole(ids)), engine.model.logits(engine.model(ids))
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
