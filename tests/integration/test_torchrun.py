"""The doors in scripts/ under torchrun: two processes on the CPU give what one gives, but for rounding."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALLER = ["--base.tokens", "40960", "--base.eval_every", "40", "--rl.steps", "2", "--evals.limit", "4"]


def door(root: Path, script: str, processes: int, *arguments: str) -> None:
    start = [sys.executable]
    if processes > 1:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "LANBOT_RUNS": str(root), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*start, str(ROOT / "scripts" / f"{script}.py"), "smoke", *SMALLER, *arguments],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def steps(run: Path, phase: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / phase / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "val_bpb" not in line]


def val_bpb(run: Path) -> float:
    return json.loads((run / "base" / "evals.json").read_text())["val_bpb"]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for script in ("base_train", "mid_train", "chat_sft", "chat_rl"):
        door(root, script, 2)
    return root / "smoke"


def test_two_processes_run_every_phase(two: Path) -> None:
    for phase in ("base", "mid", "sft", "rl"):
        evals = json.loads((two / phase / "evals.json").read_text())
        assert evals["tasks"]["identity"]["n"] == 4
        assert [line["step"] for line in steps(two, phase)] == list(range(1, evals["training"]["steps"] + 1))


def test_two_processes_train_what_one_trains(two: Path, tmp_path: Path) -> None:
    door(tmp_path, "tok_train", 1)
    door(tmp_path, "base_train", 1)
    one = tmp_path / "smoke"
    first, last = ([steps(run, "base")[i]["loss"] for run in (one, two)] for i in (0, -1))
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    assert last[0] == pytest.approx(last[1], rel=0.02)
    assert val_bpb(one) == pytest.approx(val_bpb(two), rel=0.01)


def test_a_run_goes_on_at_another_world_size(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two, tmp_path / "smoke")
    base = tmp_path / "smoke" / "base"
    (base / "evals.json").unlink()
    shutil.rmtree(max(base.glob("step_*")))
    door(tmp_path, "base_train", 1)
    assert len(steps(tmp_path / "smoke", "base")) == len(steps(two, "base"))
    assert val_bpb(tmp_path / "smoke") == pytest.approx(val_bpb(two), rel=0.01)
