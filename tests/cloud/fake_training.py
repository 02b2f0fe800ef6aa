"""Stands in for `lanbot run`: counts steps instead of training, with a run's files and a stopped run's manners.

python fake_training.py RUN_FOLDER JSON, where JSON may have: steps, seconds (of a step), fail_at, crash_at, hang_at,
once (whether that happens only in the first attempt).
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

run, options = Path(sys.argv[1]), json.loads(sys.argv[2])
phase = run / "sft"
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))


def save(step: int, state: str) -> None:
    beside = phase / f".step_{step:06d}.tmp"
    (beside / "trainer").mkdir(parents=True, exist_ok=True)
    contents = {"model.safetensors": state, "trainer/state": str(step)}
    for name, text in contents.items():
        (beside / name).write_text(text)
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in contents.items()}
    files = {name: {"bytes": len(text), "sha256": digests[name]} for name, text in contents.items()}
    (beside / "manifest.json").write_text(json.dumps({"step": step, "files": files}))
    if not (phase / f"step_{step:06d}").is_dir():
        beside.rename(phase / f"step_{step:06d}")


phase.mkdir(parents=True, exist_ok=True)
attempt = len(list(run.glob("attempt_*")))
(run / f"attempt_{attempt}").touch()
(run / "recipe.toml").write_text(f'name = "{run.name}"\n')
steps = sorted(phase.glob("step_*/manifest.json"))
step = int(steps[-1].parent.name[5:]) if steps else 0
state = (steps[-1].parent / "model.safetensors").read_text() if steps else "0"
print(f"resuming from step {step}")
metrics = phase / "metrics.jsonl"
kept = (
    [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] <= step] if metrics.exists() else []
)
metrics.write_text("".join(f"{line}\n" for line in kept))
due = attempt == 0 or not options.get("once")
if not (phase / "evals.json").exists():
    while step < options.get("steps", 10):
        step += 1
        if due and step == options.get("fail_at"):
            print("lanbot: sft: cannot be written, the disk is full\nFree some space (lanbot runs)")
            sys.exit(1)
        if due and step == options.get("crash_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        if due and step == options.get("hang_at"):  # and does not hear; its worker is in a session of its own
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            (run / "hanging").write_text(f"{os.getpid()} {worker.pid}")
            time.sleep(600)
        state = hashlib.sha256(f"{state} {step}".encode()).hexdigest()
        with metrics.open("a") as file:
            file.write(json.dumps({"step": step, "loss": 1 / step, "progress": step / 10, "seconds": step}) + "\n")
        if step % 2 == 0 or stopped:
            save(step, state)
        if stopped:
            sys.exit(143)
        time.sleep(options.get("seconds", 0.02))
    (phase / "evals.json").write_text(json.dumps({"checkpoint": f"step_{step:06d}"}))
print("done")
