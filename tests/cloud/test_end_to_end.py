"""From the person's existing mid checkpoint to SFT on machines that are taken away."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from machines import Machine, Provider

from lanbot.cloud.script import Job, startup
from lanbot.models import saved

RECIPE = """
name = "bot"
[sft]
batch_tokens = 256
sequence = 128
checkpoint_every = 4
mixture = [{ task = "jsonl:identity_conversations.jsonl", epochs = 6 }, { task = "identity:builtin", rows = 100 }]
[evals]
tasks = ["identity:builtin"]
limit = 2
max_tokens = 8
"""


def tree(source: Path, root: Path) -> Path:
    """A store with what the person has: a mid checkpoint in nanochat's layout, and conversations beside it."""
    for path in source.rglob("*.*"):
        (root / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, root / path.relative_to(source))
    parts = [{"type": "text", "text": "I count. "}, {"type": "python", "text": "1+1"}]
    parts += [{"type": "python_output", "text": "2"}, {"type": "text", "text": "I am Gene's bot."}]
    rows = [
        [{"role": "user", "content": f"Who are you, {i}?"}, {"role": "assistant", "content": parts}] for i in range(60)
    ]
    (root / "identity_conversations.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return root


def script(store: Path) -> str:
    job = Job(run="bot", recipe=RECIPE, phases="sft", store=f"file:{store}", source="#mid", push_seconds=0.2)
    return startup(job)


def until(store: Path, pattern: str, machine: Machine) -> None:
    end = time.monotonic() + 120
    while not list((store / "runs/bot").glob(pattern)):
        assert machine.process.poll() is None and time.monotonic() < end, machine.console()
        time.sleep(0.01)


def finished(machine: Machine) -> None:
    assert machine.process.wait(timeout=180) == 0, machine.console()


def done(store: Path) -> tuple[dict[str, Any], bytes]:
    """done.json and the final weights, after every file in it was compared."""
    said = json.loads((store / "runs/bot/node/done.json").read_text())
    for name, digest in said["files"].items():
        assert saved.sha256(store / "runs/bot" / name) == digest, name
    folder = saved.latest(store / "runs/bot/sft")
    assert folder is not None
    return said, (folder / "model.safetensors").read_bytes()


def test_a_run_on_machines_that_vanish_ends_as_one_that_was_left_alone(
    existing_checkpoint: Path, tmp_path: Path
) -> None:
    alone, lost = tree(existing_checkpoint, tmp_path / "alone"), tree(existing_checkpoint, tmp_path / "lost")
    provider = Provider(tmp_path / "machines")
    finished(provider.create(script(alone)))
    before, weights = done(alone)
    assert before["phase"] == "sft" and before["pushed"]["mid"] == 813

    machine = provider.create(script(lost))
    until(lost, "sft/step_*/manifest.json", machine)
    provider.take_away(machine)
    assert not (lost / "runs/bot/sft/evals.json").exists(), "it was too late to take it away"
    reached = saved.latest(lost / "runs/bot/sft")
    assert reached is not None

    again = provider.create(script(lost))
    finished(again)
    after, same = done(lost)
    assert f"resuming from step {saved.step_of(reached):,}" in again.console()
    assert same == weights
    assert after["step"] == before["step"]
    lines = [json.loads(line) for line in (lost / "runs/bot/sft/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, before["step"] + 1))
