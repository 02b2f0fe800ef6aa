"""How runs stand: running, finished, stopped or failed; what is left; what they cost; and runs that come and go."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from made_runs import Made, line

from lanbot.cli.evaluation import keep_core
from lanbot.cloud import records
from lanbot.cloud.providers.base import Offer
from lanbot.cloud.records import Node, Record
from lanbot.config import recipe_file
from lanbot.config.run import FAILED, Run
from lanbot.core.errors import UserError
from lanbot.dashboard.watched import Runs, flops_per_token

PHASES = ("tokenizer", "base", "mid", "sft", "rl")
TRAINS = """
import sys, time
from pathlib import Path
from lanbot.config.run import lock
lock(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(60)
"""


def row(runs: Runs, name: str = "one") -> dict[str, Any]:
    return next(one for one in runs.rows() if one["name"] == name)


def test_the_figures_of_a_phase_in_the_middle(made: Made) -> None:
    made.run()
    made.done("one", "tokenizer")
    made.lines(
        "one", "base", [{"step": 0, "val_bpb": 2.5, "tokens": 0, "seconds": 0}, *(line(i) for i in range(1, 41))]
    )
    found = row(Runs([], made.options))
    assert (found["status"], found["phase"], found["step"], found["steps"]) == ("stopped", "base", 40, 100)
    assert found["loss"] == pytest.approx(3 + sum(1 / i for i in range(31, 41)) / 10, abs=1e-5)
    assert (found["val_bpb"], found["tokens_per_second"], found["utilisation"]) == (2.5, 4_096.0, 0.25)
    assert found["left"] is None  # nobody trains it
    assert found["phases"] == dict.fromkeys(PHASES, "") | {"tokenizer": "done", "base": "begun"}


def test_running_stopped_finished_and_failed(made: Made) -> None:
    folder, runs = made.run(), Runs([], made.options)
    assert row(runs)["status"] == "waiting"
    made.lines("one", "base", [line(i) for i in range(1, 41)])
    trains = subprocess.Popen([sys.executable, "-c", TRAINS, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert trains.stdout and trains.stdout.readline() == "locked\n"
        found = row(runs)
        assert found["status"] == "running"
        assert found["left"] == pytest.approx(30.0)  # 60 steps of half a second
        if sys.platform == "linux":
            assert found["memory"] > 1 << 20
    finally:
        trains.kill()
        trains.wait()
    assert (row(runs)["status"], row(runs)["memory"]) == ("stopped", None)
    (folder / FAILED).write_text(json.dumps({"problem": "base, step 41: out of memory"}))
    assert (row(runs)["status"], row(runs)["problem"]) == ("failed", "base, step 41: out of memory")
    for phase in PHASES:
        made.done("one", phase, training={"peak_memory_bytes": 1_000 + len(phase)})
    found = row(runs)
    assert (found["status"], found["problem"], found["phase"], found["peak"]) == ("finished", "", "rl", 1_009)


def test_a_run_says_why_it_failed_and_forgets_it_when_it_goes_on(made: Made, monkeypatch) -> None:
    from lanbot.distributed.runtime import Runtime
    from lanbot.phases import pipeline
    from lanbot.phases.phase import phases_of

    folder = made.run()
    run = Run(folder, recipe_file.load(folder / "recipe.toml"), made.options)
    phases = phases_of(run.recipe)[:1]

    def fails(*_: Any) -> None:
        raise UserError("the disk is full", "Free some space.")

    monkeypatch.setattr(type(phases[0]), "train", fails)
    import torch

    runtime = Runtime.single(torch.device("cpu"))
    with pytest.raises(UserError):
        pipeline.execute(run, phases, runtime)
    assert json.loads((folder / FAILED).read_text()) == {"problem": "the disk is full", "remedy": "Free some space."}
    monkeypatch.setattr(type(phases[0]), "train", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pipeline.execute(run, phases, runtime)
    assert not (folder / FAILED).exists()


def test_money_of_a_launch_and_of_a_plan(made: Made, monkeypatch) -> None:
    folder, runs = made.run(), Runs([], made.options)
    made.lines("one", "base", [line(i, seconds=36.0 * i) for i in range(1, 101)])  # an hour
    assert row(runs)["money"] is None
    phases = [{"name": "base", "seconds": {}, "dollars": {"low": 1, "expected": 2, "high": 3.5}}]
    (folder / "plan.json").write_text(json.dumps({"gpus": "8xH100", "price": 2.5, "phases": phases}))
    assert row(runs)["money"] == {"spent": 2.5, "cap": 3.5, "of": "plan"}
    now = records.now()
    monkeypatch.setattr(records, "now", lambda: now)
    ago = (now - timedelta(hours=2)).isoformat()
    gone = Node("a", Offer("p", "c", "r", "t", "H100", 8, 20.0), 50.0, ago, spent=7.0, state="gone")
    live = Node("b", Offer("p", "c", "r", "t", "H100", 8, 3.0), 50.0, ago, id="1", spent=1.0, state="active", seen=ago)
    Record("one", "shadeform", "all", {}, 40.0, before=10.0, nodes=[gone, live]).save(made.root / ".cloud")
    found = row(runs)
    assert found["status"] == "running"
    assert found["money"] == {"spent": pytest.approx(10 + 7 + 1 + 6), "cap": 50.0, "of": "cloud"}
    (made.root / ".cloud" / "one.json").write_text("{")  # damaged: the page goes on
    assert row(runs)["money"]["of"] == "plan"


def test_runs_come_and_go_and_keep_their_colours(made: Made) -> None:
    runs = Runs([], made.options)
    assert runs.rows() == []  # not even a folder
    for name in ("b", "a"):
        made.run(name)
        made.lines(name, "base", [line(1)])
        runs.rows()
    colours = {one["name"]: one["colour"] for one in runs.rows()}
    assert colours == {"b": 0, "a": 1}
    assert runs.curves("b", "base", "step", 100)["lines"] == 1
    subprocess.run(["rm", "-r", str(made.root / "b")], check=True)
    assert [one["name"] for one in runs.rows()] == ["a"]
    with pytest.raises(LookupError):
        runs.curves("b", "base", "step", 100)
    made.run("c")
    assert {one["name"]: one["colour"] for one in runs.rows()} == {"a": 1, "c": 0}


def test_named_runs_alone_and_a_damaged_one_among_them(made: Made, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        made.run(name)
    other = Made(tmp_path / "elsewhere")
    folder = other.run("one")
    with pytest.raises(UserError, match="no such run"):
        Runs(["four"], made.options)
    runs = Runs(["one", "two", str(folder), "one"], made.options)
    assert [one["name"] for one in runs.rows()] == ["runs/one", "two", "elsewhere/one"]
    (made.root / "two" / "recipe.toml").write_text("[base]\nno_such_key = 1\n")
    found = row(runs, "two")
    assert found["status"] == "damaged" and "no_such_key" in found["problem"]
    made.done("one", "tokenizer", training=3)
    assert "not as LanBot writes them" in row(runs, "runs/one")["problem"]
    (made.root / "one" / "tokenizer" / "evals.json").unlink()
    for figures in ({"step": 5, "progress": 1e-320}, {"step": 5, "progress": 0.5, "seconds": 1e400}):
        (made.root / "one" / "base").mkdir(exist_ok=True)
        (made.root / "one" / "base" / "metrics.jsonl").write_text(json.dumps(figures) + "\n")
        json.dumps(runs.rows(), allow_nan=False)
    assert row(runs, "elsewhere/one")["status"] == "waiting"


def test_only_phases_of_the_recipe_are_read(made: Made) -> None:
    folder = made.run()
    (folder.parent / "metrics.jsonl").write_text('{"step": 1}\n')
    runs = Runs([], made.options)
    for run, phase in (("one", ".."), ("one", "../one/base"), ("..", "base"), ("../runs/one", "base"), ("", "")):
        with pytest.raises(LookupError):
            runs.curves(run, phase, "step", 100)
        with pytest.raises(LookupError):
            runs.rollouts(run, phase)


def test_flops_of_a_token_are_those_of_the_trainer(made: Made) -> None:
    from lanbot.models.config import ModelConfig

    folder = made.run()
    run = Run(folder, recipe_file.load(folder / "recipe.toml"), made.options)
    shape = ModelConfig.of_recipe(run.recipe)
    assert flops_per_token(run, "base") == shape.flops_per_token(
        run.recipe.base.sequence, run.recipe.base.softmax_tokens or None
    )
    assert flops_per_token(run, "rl") is None  # its tokens are sampled
    assert flops_per_token(run, "tokenizer") is None


def test_rollouts_by_step_and_a_score_of_core(made: Made) -> None:
    folder, runs = made.run(), Runs([], made.options)
    made.lines("one", "rl", [line(i, reward=0.5) for i in range(1, 4)])
    rows = [{"step": i // 10, "question": f"q{i}", "answer": "\x1b[1m", "reward": 1.0} for i in range(10, 4_000)]
    text = "".join(json.dumps(one) + "\n" for one in rows)
    (folder / "rl" / "rollouts.jsonl").write_text("x\n" + text + '{"step":')
    found = runs.rollouts("one", "rl")
    assert len(found) == 399 and len(found[7]) == 10
    assert found[7][0]["question"] == "q70" and "\x1b" not in found[7][0]["answer"]
    made.lines("one", "base", [line(i) for i in range(1, 4)])
    made.done("one", "base", checkpoint="step_000003")
    keep_core(runs.open("one"), "base", {"core": 0.05, "stderr": 0.01, "limit": None, "tasks": {}})
    assert runs.curves("one", "base", "step", 100)["dots"]["core"] == {"x": [3.0], "mean": [0.05]}
    made.done("one", "base", checkpoint="step_000004")  # trained again since
    assert "core" not in runs.curves("one", "base", "step", 100)["dots"]
