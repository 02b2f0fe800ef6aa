"""What a run's evaluations say: scores, answers to the same prompts after each phase, and RL's rollouts."""

import json
import os
from pathlib import Path
from typing import Any

from lanbot.chat.display import blocks
from lanbot.config.run import Run
from lanbot.core.console import visible
from lanbot.report.collect import evaluated, parameters, scores, what_changed

ROLLOUTS = "rollouts.jsonl"
MOST = 16 << 20
"""Bytes at the end of rollouts.jsonl that are read; a run writes some MB at most."""
COLUMNS = ("reward", "advantage", "tokens", "calls", "finished")


def details(run: Run) -> dict[str, Any]:
    """evals[task][phase] is a score; samples has prompts and answers as blocks of display.blocks. Raises UserError."""
    results = evaluated(run)
    return {
        "identity": visible(run.recipe.identity.name),
        "parameters": parameters(run),
        "phases": {
            phase: {
                "description": visible(str(result.get("description", ""))),
                "val_bpb": result.get("val_bpb"),
                "bpb": result.get("bpb"),
                "core": core(run, phase),
            }
            for phase, result in results.items()
        },
        "evals": scores(results),
        "pass": {phase: found for phase in run.recipe.phase_names if (found := run.read(phase, "pass.json"))},
        "samples": [
            {
                "prompt": [block for message in one["prompt"] for block in blocks(message)],
                "answers": {phase: blocks(answer) for phase, answer in one["answers"].items()},
            }
            for one in what_changed(results)
        ],
        "rollouts": [phase for phase in run.recipe.phase_names if (run.phase(phase) / ROLLOUTS).is_file()],
    }


def core(run: Run, phase: str) -> dict[str, Any] | None:
    """CORE of a phase's model, if `lanbot eval` measured it: core and stderr; None if not, or of another checkpoint."""
    found = run.read(phase, "core.json")
    return found if found.get("checkpoint") == run.checkpoint(phase) and "core" in found else None


def read_rollouts(path: Path) -> dict[int, list[dict[str, Any]]]:
    """By step, in their order; lines that cannot be read are left out."""
    found: dict[int, list[dict[str, Any]]] = {}
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MOST))
            lines = file.read().split(b"\n")[1 if size > MOST else 0 :]
    except OSError:
        return found
    for line in lines:
        try:
            row = json.loads(line)
            step = int(row["step"])
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
        shown = {name: row.get(name) for name in COLUMNS}
        texts = {name: visible(str(row.get(name, ""))) for name in ("question", "answer")}
        found.setdefault(step, []).append(shown | texts)
    return dict(sorted(found.items()))
