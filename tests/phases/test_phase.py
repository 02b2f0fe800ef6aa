"""A phase from outside the package: one file, named in a recipe, run from the command line to its report."""

import json
from pathlib import Path

import pytest

from lanbot.cli import main
from lanbot.config.recipe_file import load
from lanbot.config.run import Run
from lanbot.core.errors import UserError
from lanbot.distributed.runtime import Runtime
from lanbot.phases.phase import model_before, phases_of, sources
from lanbot.phases.preflight import preflight

PHASE = '''
"""Chat training that can say how often it goes over its mixture."""

from dataclasses import replace

from pydantic.dataclasses import dataclass

from lanbot.config.keys import CONFIG, Count, key
from lanbot.config.recipe import ChatTraining
from lanbot.phases.chat import train_chat
from lanbot.phases.phase import Phase


@dataclass(frozen=True, config=CONFIG)
class PolishSettings(ChatTraining):
    rounds: Count = key(1, "How many times to go over the mixture.")


class Polish(Phase):
    name = "polish"
    Settings = PolishSettings

    def train(self, run, runtime):
        settings = self.settings(run.recipe)
        parts = tuple(replace(part, epochs=part.epochs * settings.rounds) for part in settings.mixture)
        recipe = replace(run.recipe, polish=replace(settings, mixture=parts))
        train_chat(replace(run, recipe=recipe), runtime, self.name)

    def results(self, run):
        return {"rounds": self.settings(run.recipe).rounds}
'''
RECIPE = """
name = "tiny"
phases = ["tokenizer", "base", "lanbot_polish:Polish"]
[tokenizer]
vocab_size = 320
max_chars = 20_000
[model]
depth = 1
dim = 32
head_dim = 16
context = 128
[base]
tokens = 1_024
batch_tokens = 512
pair_tokens = 0
eval_tokens = 256
[polish]
batch_tokens = 256
lr_scale = 0.5
rounds = 2
mixture = [{ task = "simple_spelling:builtin", rows = 4 }]
[evals]
tasks = ["simple_spelling:builtin"]
limit = 1
base_limit = 1
max_tokens = 2
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "lanbot_polish.py").write_text(PHASE)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("LANBOT_RUNS", str(tmp_path / "runs"))
    return tmp_path


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


def test_a_phase_from_outside_trains_is_evaluated_and_reported(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert PHASE.strip().count("\n") < 40
    assert call("run", "tiny.toml") == 0, capsys.readouterr().err
    evals = json.loads((place / "runs/tiny/polish/evals.json").read_text())
    assert evals["rounds"] == 2 and evals["tasks"]["simple_spelling"]["n"] == 1 and evals["training"]["steps"] >= 1
    assert "polish" in json.loads((place / "runs/tiny/report.json").read_text())["phases"]
    capsys.readouterr()
    assert call("runs") == 0
    assert "tokenizer base polish" in capsys.readouterr().out
    run = Run.open("tiny")
    assert run.last_model() == "polish" and load(run.folder / "recipe.toml") == run.recipe
    assert call("run", "tiny.toml", "--polish.rounds", "3") == 1
    assert "its polish was made with polish.rounds = 2, not 3" in capsys.readouterr().err


def test_a_recipe_without_base_does_not_need_its_corpus(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("phases = ['mid', 'sft']\n[base]\ndata = '/nowhere'")
    recipe = load(tmp_path / "r.toml")
    assert not any(source.corpus for source in sources(recipe))
    run = Run(tmp_path / "run", recipe)
    with pytest.raises(UserError, match="mid starts from a model, and no phase before it makes one"):
        preflight(run, phases_of(recipe), Runtime.single())
    run.phase("mid").mkdir(parents=True)
    (run.phase("mid") / "imported.json").write_text('{"checkpoint": "step_000000", "note": "imported from NAME"}')
    preflight(run, phases_of(recipe), Runtime.single())
    assert model_before(recipe, "sft") == "mid"


def test_prepare_leaves_a_tokenizer_that_run_uses(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("prepare", "tiny.toml") == 0, capsys.readouterr().err
    run = Run.open("tiny")
    assert run.done("tokenizer") and not run.begun("base")
    before = (run.phase("tokenizer") / "tokenizer.json").stat().st_mtime_ns
    assert call("run", "tiny.toml", "--phase", "base") == 0
    assert run.done("base") and (run.phase("tokenizer") / "tokenizer.json").stat().st_mtime_ns == before


def test_agent_rl_continues_rl_if_the_run_has_it_and_sft_otherwise(tmp_path: Path) -> None:
    run = Run(tmp_path, load("d20"))
    assert model_before(run.recipe, "agent_rl") == "rl" and model_before(run.recipe, "agent_rl", run) == "sft"
    run.phase("rl").mkdir()
    (run.phase("rl") / "evals.json").write_text("{}")
    assert model_before(run.recipe, "agent_rl", run) == "rl" and model_before(run.recipe, "rl", run) == "sft"
