"""What a phase writes that sinks follow, without training."""

import json
from typing import Any

from lanbot.config.run import Run

EVALS = {
    "tasks": {"identity": {"score": 0.75, "stderr": 0.1, "n": 20, "chance": 0.0}},
    "val_bpb": 1.25,
    "pass": {"before": {"pass@1": {"score": 0.5, "stderr": 0.1, "n": 4, "chance": 0.0}}},
    "samples": [
        {"prompt": [{"role": "user", "content": "2+2?"}], "answer": {"role": "assistant", "content": "It is\n4 | `x`"}}
    ],
}


class Training:
    """Stands for the phase: its lines, as Metrics writes them."""

    def __init__(self, run: Run) -> None:
        self.run, self.phase = run, run.phase("base")

    def lines(self, steps: range) -> None:
        """A line a step, and a validation every tenth, which comes after it."""
        self.phase.mkdir(parents=True, exist_ok=True)
        with (self.phase / "metrics.jsonl").open("a") as file:
            for step in steps:
                if step:
                    file.write(json.dumps({"step": step, "loss": 5 - step / 100, "tokens": 64 * step}) + "\n")
                if step % 10 == 0:
                    file.write(json.dumps({"step": step, "val_bpb": 2 - step / 100, "tokens": 64 * step}) + "\n")

    def back_to(self, step: int) -> None:
        """As a phase that resumes after this step: later lines are gone, in a new file."""
        path = self.phase / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [json.dumps(line, separators=(",", ":")) for line in lines if line["step"] <= step]  # other lengths
        (self.phase / "new").write_text("".join(f"{line}\n" for line in kept))
        (self.phase / "new").replace(path)

    def done(self) -> None:
        (self.phase / "evals.json").write_text(json.dumps(EVALS))


def expected(steps: range) -> dict[str, list[tuple[int, Any]]]:
    """The figures of these steps, each once."""
    trained = [step for step in steps if step]
    return {
        "loss": [(step, 5 - step / 100) for step in trained],
        "tokens": [(step, 64.0 * step) for step in trained],
        "val_bpb": [(step, 2 - step / 100) for step in steps if step % 10 == 0],
    }
