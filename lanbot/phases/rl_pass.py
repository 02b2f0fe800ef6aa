"""pass@1 and pass@8 on held-out questions of RL's tasks: before and after the phase, and every `pass_every` steps."""

import json
import math
from dataclasses import replace
from typing import Any

from lanbot.config.recipe import RL
from lanbot.config.run import Run
from lanbot.core.console import say
from lanbot.core.files import write_atomic
from lanbot.distributed.runtime import Runtime
from lanbot.evals.task_eval import pass_at
from lanbot.inference.engine import Engine
from lanbot.tasks.mixture import sample_rows
from lanbot.tasks.registry import make_task
from lanbot.tasks.task import Task, TaskContext

PASS_K = 8
FILE = "pass.json"
LEAST = 0.02
"""Below this pass@8 nearly every group is all wrong, and its gradient zero."""
ADVICE = "Train sft on more rows of these tasks, take easier tasks into the mixture, or raise group_size."


def measure(run: Run, phase: str, engine: Engine, runtime: Runtime, when: str) -> None:
    """Measures pass@1 and pass@8, once, and adds them to pass.json. when: "before", "step 20", "after"."""
    known = run.read(phase, FILE)
    if when in known:
        return
    settings: RL = getattr(run.recipe, phase)
    items, available = held_out(run, settings)
    label = f"{phase}: pass@{PASS_K} {when}"
    scores = pass_at(
        engine, items, (1, PASS_K), PASS_K, settings.max_tokens, 1.0, run.recipe.seed, label, runtime=runtime
    )
    if len(items) < available:
        scores = {name: replace(score, items=available) for name, score in scores.items()}
    if runtime.main:
        say(f"{phase}, {when}: " + ", ".join(f"{name} {score}" for name, score in scores.items()))
        if when == "before" and scores[f"pass@{PASS_K}"].score < LEAST:
            problem = f"{phase}: pass@{PASS_K} is below {LEAST:.0%}: there are hardly any rewards to learn from."
            say(f"{problem} {ADVICE}")
        write(run, phase, {**known, when: {name: score.json() for name, score in scores.items()}})


def measure_if_due(run: Run, phase: str, engine: Engine, runtime: Runtime, step: int) -> None:
    """Every `pass_every` steps, with the current weights."""
    every = getattr(run.recipe, phase).pass_every
    if every and step and step % every == 0:
        engine.refresh()
        measure(run, phase, engine, runtime, f"step {step}")


def write(run: Run, phase: str, content: dict[str, Any]) -> None:
    path = run.phase(phase) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def held_out(run: Run, settings: RL) -> tuple[list[tuple[Task, int]], int]:
    """A seeded sample of the tasks' test rows, and how many these tasks have."""
    items: list[tuple[Task, int]] = []
    available: dict[str, int] = {}
    parts, weights = len(settings.mixture), [part.weight or 1.0 for part in settings.mixture]
    for k, part in enumerate(settings.mixture):  # several parts may share a task: each takes different rows
        share = math.ceil(settings.eval_questions * weights[k] / sum(weights))
        task = make_task(part.task, "test", TaskContext(run.recipe.identity, options=run.options))
        available[part.task] = len(task)
        items += [(task, row) for row in sample_rows(task, share * parts, run.recipe.seed)[k::parts]]
    return items, sum(available.values())
