"""A run made from nothing, with a demo's tokenizer."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.config import recipe_file
from lanbot.config.recipe import Identity, Recipe
from lanbot.config.run import Run
from lanbot.distributed.runtime import Runtime
from lanbot.synthetic import world
from lanbot.tokenizers.bpe_training import train
from lanbot.training import checkpoint

SCORE = {"score": 0.75, "stderr": 0.1, "n": 20, "chance": 0.0}


@pytest.fixture(scope="session")
def demo_format() -> LanBotFormat:
    """With the demo's kind of tokenizer: a small vocabulary, words without their space."""
    texts = (world.document("train", i) for i in range(300))
    return LanBotFormat(train(texts, 1_024, LanBotFormat.special_tokens, bare_words=True))


@pytest.fixture(scope="session")
def made_once(make_model, demo_format: LanBotFormat, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    """A run `bot` with base and sft done, of the default family, sharper than a random model."""
    model = make_model(dim=64, n_heads=4, head_dim=16, mlp_dim=160, vocab_size=1_024, context=256)
    with torch.no_grad():
        model.lm_head.weight.mul_(3)
    runs = tmp_path_factory.mktemp("runs")
    recipe = Recipe(name="bot", identity=Identity(name="Robi", creator="Ada")).resolve()
    run = Run.create(recipe, runs)
    runtime = Runtime.single(torch.device("cpu"))
    for phase, step in (("base", 300), ("sft", 20)):
        checkpoint.save_model_alone(run.phase(phase), step, model, demo_format, runtime)
        evals = {
            "checkpoint": f"step_{step:06d}",
            "tasks": {"identity": SCORE},
            "samples": [],
            "val_bpb": 1.25,
            "training": {"seconds": 3.0, "tokens": 4_096, "final_loss": 1.0, "peak_memory_bytes": 1, "steps": step},
            "settings": {"max_tokens": 64},
        }
        (run.phase(phase) / "evals.json").write_text(json.dumps(evals))
    return run.folder


@pytest.fixture
def run(made_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LANBOT_RUNS", str(tmp_path / "runs"))
    shutil.copytree(made_once, tmp_path / "runs" / "bot")
    return Run(tmp_path / "runs" / "bot", recipe_file.load(made_once / "recipe.toml"))
