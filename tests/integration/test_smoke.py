"""The smoke recipe from end to end, as a user runs it; stopped in every phase it ends in the same weights."""

import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

LANBOT = [sys.executable, "-c", "from lanbot.cli import main; main()"]
TIMES = {"seconds", "tokens_per_second", "utilisation", "step_seconds", "wait_seconds"}
TIMES |= {"rollout_tokens_per_second", "update_tokens_per_second"}


def lanbot(root: Path, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LANBOT_RUNS": str(root)}
    return subprocess.run(
        [*LANBOT, *arguments], env=environment, input=stdin, capture_output=True, text=True, timeout=300, check=False
    )


def files(run: Path) -> dict[str, bytes]:
    """All but the lock, which names the process that was there last."""
    paths = sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def metrics(run: Path, phase: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / phase / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    result = lanbot(root, "run", "smoke")
    assert result.returncode == 0, result.stderr
    return root / "smoke"


def test_every_phase_leaves_a_checkpoint_metrics_evaluations_and_samples(smoke: Path) -> None:
    for phase in ("base", "mid", "sft", "rl"):
        evals = json.loads((smoke / phase / "evals.json").read_text())
        checkpoint = smoke / phase / evals["checkpoint"]
        assert {path.name for path in checkpoint.iterdir()} == {
            "config.json", "manifest.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "trainer",
        }  # fmt: skip
        assert set(evals["tasks"]) == {
            "identity", "word_problems", "simple_spelling", "spelling_bee", "agent_tasks", "handwritten",
        }  # fmt: skip
        assert len(evals["samples"]) == 10 and len(evals["transcripts"]) == 3 and evals["wall_seconds"] > 0
        assert (smoke / phase / "samples.md").read_text().count("**") == 2 * len(evals["samples"]) > 0
        steps = [line["step"] for line in metrics(smoke, phase) if "val_bpb" not in line]
        assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 6
        assert evals["training"]["steps"] == len(steps)


def test_base_learns(smoke: Path) -> None:
    measured = [line["val_bpb"] for line in metrics(smoke, "base") if "val_bpb" in line]
    text = json.loads((smoke / "tokenizer" / "compression.json").read_text())[0]
    assert measured[-1] < 0.6 * math.log2(512) / text["bytes_per_token"], "of what a guess among all tokens costs"
    assert measured[-1] < 0.7 * measured[0], "of what the pairs had taught before the first step"


def test_sft_knows_its_name(smoke: Path) -> None:
    assert json.loads((smoke / "sft" / "evals.json").read_text())["tasks"]["identity"]["score"] >= 0.5


def test_rl_sees_rewards_and_samples_on_policy(smoke: Path) -> None:
    lines = metrics(smoke, "rl")
    assert all(0 <= line["reward"] <= 1 and 0 <= line["dropped_groups"] <= 1 for line in lines)
    assert any(line["sampled_tokens"] > 0 for line in lines)
    assert max(line.get("logprob_gap", 0.0) for line in lines) < 0.1
    passes = json.loads((smoke / "rl" / "pass.json").read_text())
    for when in ("before", "after"):
        assert passes[when]["pass@1"]["score"] <= passes[when]["pass@8"]["score"]


def test_run_again_does_nothing(smoke: Path) -> None:
    before = files(smoke)
    result = lanbot(smoke.parent, "run", "smoke")
    assert result.returncode == 0
    assert "all done, nothing to do" in result.stderr
    after = files(smoke)
    assert {name for name in before if before[name] != after.get(name)} == set()


def test_the_report_compares_phases(smoke: Path) -> None:
    result = lanbot(smoke.parent, "report", "smoke", "--json")
    report = json.loads(result.stdout)
    assert set(report["evals"]["identity"]) == {"base", "mid", "sft", "rl"}
    figures = {"score", "n", "stderr", "chance", "sampled", "items"}
    assert set(report["evals"]["simple_spelling"]["sft"]) == figures
    assert set(report["evals"]["identity"]["sft"]) == figures | {"parts"}
    assert all(set(entry["answers"]) == {"base", "mid", "sft", "rl"} for entry in report["what_changed"])
    for phase in ("base", "mid", "sft", "rl"):
        assert {"seconds", "tokens", "final_loss", "val_bpb", "peak_memory_bytes"} <= set(report["phases"][phase])
    text = (smoke / "report.md").read_text()
    assert "± " in text and "What changed" in text


def test_chat_agent_and_eval_answer(smoke: Path) -> None:
    said = lanbot(smoke.parent, "chat", "smoke", stdin="Who are you?\nWho made you?\n")
    assert said.returncode == 0 and len(said.stdout.strip().splitlines()) >= 2, said
    done = lanbot(smoke.parent, "agent", "smoke", "What is 12*7?")
    assert done.stdout.strip() and (done.returncode == 0 or "stopped by the" in done.stderr), done
    asked = ("--tasks", "identity:builtin", "--limit", "4", "--json")
    scored = lanbot(smoke.parent, "eval", "smoke", "--phase", "base", *asked)
    assert json.loads(scored.stdout)["tasks"]["identity"]["n"] == 4


def test_a_changed_recipe_is_refused(smoke: Path) -> None:
    result = lanbot(smoke.parent, "run", "smoke", "--base.muon_lr", "0.01")
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 2
    assert "base.muon_lr" in result.stderr and "0.02" in result.stderr


def test_a_flipped_byte_is_found_and_the_checkpoint_before_taken(smoke: Path, tmp_path: Path) -> None:
    copy = tmp_path / "smoke"
    subprocess.run(["cp", "-r", str(smoke), str(copy)], check=True)
    last = copy / "rl" / json.loads((copy / "rl" / "evals.json").read_text())["checkpoint"] / "model.safetensors"
    good = last.read_bytes()
    last.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    (copy / "rl" / "evals.json").unlink()
    result = lanbot(tmp_path, "run", "smoke")
    assert result.returncode == 0
    assert "model.safetensors does not match its sha256" in result.stderr
    assert last.read_bytes() == good


def started(root: Path, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "LANBOT_RUNS": str(root)}
    return subprocess.Popen([*LANBOT, "run", "smoke", *more], env=environment, stderr=subprocess.PIPE, text=True)


def stop_when(process: subprocess.Popen[str], reached: Callable[[], bool], number: signal.Signals) -> int:
    """Sends a signal as soon as `reached()`; the exit code."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not reached():
        time.sleep(0.002)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode != 1 and "Traceback" not in told, told
    return process.returncode


def interrupt(root: Path, phase: str, steps: int, number: signal.Signals) -> int:
    """Starts the run and sends it a signal once `phase` has done `steps` more steps; returns its exit code."""
    path = root / "smoke" / f"{phase}/metrics.jsonl"
    before = path.read_bytes().count(b"\n") if path.exists() else 0
    exit_code = stop_when(
        started(root), lambda: path.exists() and path.read_bytes().count(b"\n") >= before + steps, number
    )
    assert not (root / "smoke" / phase / "evals.json").exists(), f"{phase} was over before it could be stopped"
    return exit_code


def test_stopped_in_every_phase_it_ends_in_the_same_weights(smoke: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "smoke" / "recipe.toml"
    assert stop_when(started(tmp_path), recipe.exists, signal.SIGKILL) == -signal.SIGKILL
    assert stop_when(started(tmp_path), lambda: True, signal.SIGTERM) in (143, -signal.SIGTERM)
    assert interrupt(tmp_path, "base", 15, signal.SIGKILL) == -signal.SIGKILL
    assert interrupt(tmp_path, "base", 23, signal.SIGINT) == 130
    last = tmp_path / "smoke" / "base" / "step_000200"
    assert stop_when(started(tmp_path), last.exists, signal.SIGINT) == 130, "base is trained and being evaluated"
    assert not (tmp_path / "smoke" / "mid" / "metrics.jsonl").exists()
    assert interrupt(tmp_path, "mid", 8, signal.SIGKILL) == -signal.SIGKILL
    assert interrupt(tmp_path, "mid", 7, signal.SIGTERM) == 143
    assert interrupt(tmp_path, "sft", 7, signal.SIGKILL) == -signal.SIGKILL
    assert interrupt(tmp_path, "rl", 3, signal.SIGKILL) == -signal.SIGKILL
    assert interrupt(tmp_path, "rl", 1, signal.SIGINT) == 130
    result = lanbot(tmp_path, "run", "smoke")
    assert result.returncode == 0, result.stderr
    resumed = tmp_path / "smoke"
    for phase in ("base", "mid", "sft", "rl"):
        assert metrics(resumed, phase) == metrics(smoke, phase), phase
        evals = [json.loads((run / phase / "evals.json").read_text()) for run in (smoke, resumed)]
        last = evals[0]["checkpoint"]
        assert (resumed / phase / last / "model.safetensors").read_bytes() == (
            smoke / phase / last / "model.safetensors"
        ).read_bytes(), phase
        assert evals[0]["tasks"] == evals[1]["tasks"]
        assert evals[0]["samples"] == evals[1]["samples"]
    assert (resumed / "tokenizer" / "tokenizer.json").read_bytes() == (
        smoke / "tokenizer" / "tokenizer.json"
    ).read_bytes()


def saves(root: Path, since: float) -> set[str]:
    """The half-written checkpoints of a run that were touched after that time."""
    found = set()
    for path in (root / "smoke").glob("*/.step_*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            if path.stat().st_mtime > since:
                found.add(path.name)
    return found


def kill_in(root: Path, phase: str, draw: random.Random, in_a_save: bool, most: int) -> bool:
    """kill -9 within the n-th save from now or after the n-th step, n up to `most`; whether a save was torn."""
    began, n, seen = time.time(), draw.randint(1, most), set()
    path = root / "smoke" / phase / "metrics.jsonl"
    wait = draw.uniform(0, 0.02)

    def in_the_nth_save() -> bool:
        seen.update(saves(root, began))
        return len(seen) >= n

    if in_a_save:
        assert stop_when(started(root), in_the_nth_save, signal.SIGKILL) == -signal.SIGKILL
    else:
        before = path.read_bytes().count(b"\n") if path.exists() else 0

        def after_the_nth_step() -> bool:
            reached = path.exists() and path.read_bytes().count(b"\n") >= before + n
            time.sleep(wait * reached)
            return reached

        assert stop_when(started(root), after_the_nth_step, signal.SIGKILL) == -signal.SIGKILL
    assert not (root / "smoke" / phase / "evals.json").exists(), f"{phase} was over before it could be stopped"
    return bool(saves(root, began))


@pytest.mark.slow
def test_killed_thirty_times_it_ends_in_the_same_weights(smoke: Path, tmp_path: Path) -> None:
    """Once in the tokenizer, once in an evaluation, 28 times in training, every second time within a save."""
    draw, run = random.Random(0), tmp_path / "smoke"
    assert stop_when(started(tmp_path), (run / "recipe.toml").exists, signal.SIGKILL) == -signal.SIGKILL
    torn = 0
    for phase, kills, most in (("base", 9, 2), ("mid", 8, 2), ("sft", 8, 2), ("rl", 3, 1)):
        for kill in range(kills):
            in_a_save = kill % 2 == 0
            torn += kill_in(tmp_path, phase, draw, in_a_save, most if in_a_save else 6 * most - 5)
        if phase == "base":
            done = stop_when(started(tmp_path), (run / "base" / "step_000200").exists, signal.SIGKILL)
            assert done == -signal.SIGKILL and not (run / "base" / "evals.json").exists()
    assert torn >= 10, "too few kills fell into a save to show anything"
    assert lanbot(tmp_path, "run", "smoke").returncode == 0
    for phase in ("base", "mid", "sft", "rl"):
        assert metrics(run, phase) == metrics(smoke, phase), phase
        last = max(path.name for path in (smoke / phase).glob("step_*"))
        weights = [folder / phase / last / "model.safetensors" for folder in (smoke, run)]
        assert weights[0].read_bytes() == weights[1].read_bytes(), phase


@pytest.mark.slow
def test_a_sink_has_what_the_metrics_have_after_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sent, more = tmp_path / "smoke" / "base" / "tensorboard" / "sent.json", ("--log.sinks", "tensorboard")

    def some_are_sent() -> bool:
        return sent.is_file() and json.loads(sent.read_text())["step"] > 0

    assert stop_when(started(tmp_path, *more), some_are_sent, signal.SIGKILL) == -signal.SIGKILL
    assert lanbot(tmp_path, "run", "smoke", *more).returncode == 0
    for phase in ("base", "mid", "sft", "rl"):
        events = EventAccumulator(str(tmp_path / "smoke" / phase / "tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        lines = metrics(tmp_path / "smoke", phase)
        for name in ("progress", "val_bpb", "loss", "reward"):
            expected = [(line["step"], pytest.approx(line[name])) for line in lines if name in line]
            shown = [(one.step, one.value) for one in events.Scalars(name)] if expected else []
            assert shown == expected, (phase, name)


def test_a_second_process_on_a_run_is_refused(smoke: Path, tmp_path: Path) -> None:
    first = started(tmp_path)
    try:
        while not (tmp_path / "smoke" / "base").exists() and first.poll() is None:
            time.sleep(0.01)
        second = lanbot(tmp_path, "run", "smoke")
        assert second.returncode == 1
        assert len(second.stderr.strip().splitlines()) == 2
        assert f"is in use: process {first.pid} trains there" in second.stderr
    finally:
        first.kill()
        first.communicate()
