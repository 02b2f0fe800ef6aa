"""RL's loop: updates that are not finite, and stops."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import MixturePart
from lanbot.config.recipe_file import load
from lanbot.config.run import Run, read_metrics
from lanbot.core.errors import Stopped, UserError
from lanbot.distributed.runtime import Runtime
from lanbot.inference.engine import Completion, Engine
from lanbot.models import saved
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model
from lanbot.phases import rl, rl_metrics, rl_pass, rl_samples
from lanbot.phases.rl import train_rl
from lanbot.phases.rl_pass import measure
from lanbot.phases.rollouts import Question, Rollout
from lanbot.tasks.registry import make_task
from lanbot.training.trainer import Trainer

RUNTIME = Runtime.single()

Train = Callable[..., Path]
TIMES = ("seconds", "step_seconds", "tokens_per_second", "rollout_tokens_per_second", "update_tokens_per_second")


@pytest.fixture
def train(
    make_model: Callable[..., Transformer], chat_format: ChatFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Train:
    """train(name, bad, stop_at, every): that run's phase, where advantages of the steps `bad` are nan; its folder."""

    monkeypatch.setattr(rl, "measure", lambda *_: None)

    def train(name: str, bad: tuple[int, ...] = (), stop_at: int = 0, every: int = 0) -> Path:
        settings = {"rl.steps": "10", "rl.checkpoint_every": "4", "rl.pass_every": str(every)}
        run = Run(tmp_path / name, load("smoke", settings))

        def start_from(run: Run, phase: str, runtime: Runtime) -> Trainer:
            return Trainer(make_model(dtype=RUNTIME.dtype), chat_format, run.recipe.rl, run.phase(phase), RUNTIME)

        def roll_out(engine: Any, asked: list[Question], settings: Any, seed: int) -> list[list[Rollout]]:
            step = asked[0].number // settings.prompts
            if step + 1 == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            advantage = float("nan") if step + 1 in bad else 0.5
            answers = [Completion([9, 5, step], [7 + i, 8, 1], [1, 1, 1], [-1.0] * 3, finished="stop") for i in (0, 1)]
            return [[Rollout((answers[0],), 1.0, advantage), Rollout((answers[1],), 0.0, -advantage)]]

        monkeypatch.setattr(rl, "start_from", start_from)
        monkeypatch.setattr(rl, "roll_out", roll_out)
        monkeypatch.setattr(rl, "score", lambda groups, settings: groups)
        monkeypatch.setattr(rl, "with_advantages", lambda groups, settings: groups)
        train_rl(run, RUNTIME)
        return run.phase("rl")

    return train


def metrics(phase: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(phase / "metrics.jsonl")]


def test_a_bad_update_is_skipped_and_counted_also_over_a_stop(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    bad = (3, 5, 6, 9)
    whole = train("whole", bad)
    assert "rl, step 5: loss nan, gradient norm nan: this update is skipped (2 so far)" in capsys.readouterr().err
    assert [line["skipped"] for line in metrics(whole)] == [0, 0, 1, 1, 2, 3, 3, 3, 4, 4]
    with pytest.raises(Stopped, match="stopped in rl after step 5, saved"):
        train("stopped", bad, stop_at=5)
    stopped = train("stopped", bad)
    assert metrics(stopped) == metrics(whole)
    weights = [load_model(phase / "step_000010", RUNTIME.dtype, RUNTIME.device) for phase in (whole, stopped)]
    for ours, theirs in zip(*(model.parameters() for model in weights), strict=True):
        assert ours.isfinite().all() and ours.equal(theirs)


@pytest.mark.parametrize(("gap", "warned"), [(0.04, 0), (0.06, 10)])
def test_a_gap_between_the_log_probabilities_of_engine_and_trainer_is_logged_and_warned_about(
    train: Train, gap: float, warned: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rl_metrics, "logprob_gaps", lambda *_: [gap])
    phase = train("gap")
    assert [line["logprob_gap"] for line in metrics(phase)] == [gap] * 10
    warning = "log probabilities of engine and trainer differ by 0.060 on average"
    assert capsys.readouterr().err.count(warning) == warned


def test_pass_at_k_reports_sample_and_total_of_the_questions(
    make_model: Callable[..., Transformer], chat_format: ChatFormat, tmp_path: Path
) -> None:
    run = Run(tmp_path, load("smoke", {"rl.max_tokens": "2", "rl.eval_questions": "3"}))
    measure(run, "rl", Engine(make_model(context=96), chat_format), RUNTIME, "before")
    said = run.read("rl", "pass.json")["before"]
    there = sum(len(make_task(task, "test")) for task in {part.task for part in run.recipe.rl.mixture})
    for one in said.values():
        assert one["sampled"] and one["items"] == there > one["n"] >= 3


def test_too_many_skipped_updates_in_a_row_end_the_run_and_name_the_question(train: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rl, step 6: .*5th skipped update in a row.*question 24") as caught:
        train("bad", tuple(range(2, 11)))
    assert str(caught.value).count("\n") == 1 and "rl.muon_lr" in caught.value.remedy
    last = saved.latest(tmp_path / "bad" / "rl")
    assert last == tmp_path / "bad" / "rl" / "step_000004"
    assert all(parameter.isfinite().all() for parameter in load_model(last, RUNTIME.dtype, RUNTIME.device).parameters())


@pytest.mark.parametrize("stop_at", [3, 5])
def test_a_stop_with_refilled_groups_resumes_with_the_same_questions(
    stop_at: int, make_model: Callable[..., Transformer], chat_format: ChatFormat, tmp_path: Path, monkeypatch: Any
) -> None:
    """The mixture has six questions, so the stop is in the middle of a later epoch."""
    asked: list[int] = []
    real = rl.roll_out

    def start_from(run: Run, phase: str, runtime: Runtime) -> Trainer:
        model = make_model(dtype=torch.float32, context=96)
        return Trainer(model, chat_format, run.recipe.rl, run.phase(phase), RUNTIME)

    def roll_out(engine: Engine, questions: list[Question], settings: Any, seed: int) -> list[list[Rollout]]:
        asked.extend(one.number for one in questions)
        if stopping and max(asked) >= 3 * stop_at:
            stopping.pop()
            os.kill(os.getpid(), signal.SIGTERM)
        return real(engine, questions, settings, seed)

    def score(groups: list[list[Rollout]], settings: Any) -> list[list[Rollout]]:
        """By length, so that some groups differ and some do not."""
        return [[replace(one, reward=float(len(one.turns[0].ids) < 3)) for one in group] for group in groups]

    monkeypatch.setattr(rl, "start_from", start_from)
    monkeypatch.setattr(rl, "roll_out", roll_out)
    monkeypatch.setattr(rl, "score", score)
    monkeypatch.setattr(rl, "measure", lambda *_: None)
    settings = {"rl.steps": "8", "rl.checkpoint_every": "3", "rl.refill": "2", "rl.prompts": "3", "rl.max_tokens": "3"}
    recipe = load("smoke", settings)
    recipe = replace(recipe, rl=replace(recipe.rl, mixture=(MixturePart("simple_spelling:builtin", rows=6),)))
    whole, stopped = Run(tmp_path / "whole", recipe), Run(tmp_path / "stopped", recipe)
    stopping: list[int] = []
    train_rl(whole, RUNTIME)
    of_whole = sorted(asked)
    assert len(of_whole) > 8 * 3 and of_whole == list(range(len(of_whole)))
    asked.clear()
    stopping.append(1)
    with pytest.raises(Stopped):
        train_rl(stopped, RUNTIME)
    train_rl(stopped, RUNTIME)
    assert asked == of_whole, "no question is asked twice or left out"
    assert metrics(stopped.phase("rl")) == metrics(whole.phase("rl"))
    models = [load_model(run.phase("rl") / "step_000008", torch.float32, RUNTIME.device) for run in (whole, stopped)]
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        assert ours.equal(theirs)


def test_ten_rollouts_a_step_are_kept_to_read_also_over_a_stop(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = read_metrics(train("whole") / "rollouts.jsonl")
    assert [line["step"] for line in whole] == [step for step in range(1, 11) for _ in range(2)]
    assert [line["reward"] for line in whole[:2]] == [1.0, 0.0] and {line["tokens"] for line in whole} == {3}
    with pytest.raises(Stopped):
        train("stopped", stop_at=5)
    assert read_metrics(train("stopped") / "rollouts.jsonl") == whole
    monkeypatch.setattr(rl_samples, "STEPS", 2)
    assert [line["step"] for line in read_metrics(train("short") / "rollouts.jsonl")[::2]] == [7, 8, 9, 10]


def test_the_best_and_the_worst_of_each_group_are_read_groups_to_learn_from_first() -> None:
    def group(*rewards: float) -> list[Rollout]:
        return [Rollout((), reward) for reward in rewards]

    groups = [group(0, 0, 0), group(1, 0, 0.5), *(group(0, 1) for _ in range(2))]
    assert [one.reward for one in rl_samples.chosen(groups)] == [1, 0, 1, 0, 1, 0, 0]
    assert len(rl_samples.chosen([group(1, 0)] * 9)) == 10


@pytest.mark.parametrize(("every", "moments"), [(0, ["before", "after"]), (4, ["before", "step 4", "step 8", "after"])])
def test_pass_at_k_is_measured_before_during_and_after(
    every: int, moments: list[str], train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    for module in (rl, rl_pass):
        monkeypatch.setattr(module, "measure", lambda *args: measured.append(args[-1]))
    train("passes", every=every)
    assert measured == moments


def test_few_right_answers_before_rl_are_a_warning_that_says_what_to_do(
    make_model: Callable[..., Transformer], chat_format: ChatFormat, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, load("smoke", {"rl.max_tokens": "2", "rl.eval_questions": "3"}))
    engine = Engine(make_model(context=96), chat_format)
    for when in ("before", "step 2", "after"):
        measure(run, "rl", engine, RUNTIME, when)
    said = capsys.readouterr().err
    assert said.count("rl: pass@8 is below 2%") == 1 and "Train sft on more rows of these tasks" in said
    assert list(run.read("rl", "pass.json")) == ["before", "step 2", "after"]
