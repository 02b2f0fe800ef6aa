"""ChatCORE: the mean over six tasks of a chat model's score, centered so that a guess counts 0."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lanbot.core.console import table
from lanbot.distributed.runtime import Runtime
from lanbot.evals.score import Centered, Score, items_asked
from lanbot.evals.task_eval import evaluate
from lanbot.inference.engine import Engine
from lanbot.tasks.registry import make_task
from lanbot.tasks.task import TaskContext

BASELINES = {
    "arc_easy": 0.25,
    "arc_challenge": 0.25,
    "mmlu": 0.25,
    "gsm8k": 0.0,
    "humaneval": 0.0,
    "spelling_bee": 0.0,
}
"""The tasks and their baselines for centering. The first three are answered by the letter of the highest logit, the
others by a generated answer (with tools) that the task checks."""
MAX_TOKENS = 512
"""Tokens of a generated answer."""
ALL = 1 << 40
"""A limit above any task's size."""


@dataclass(frozen=True)
class ChatCore:
    model: str
    settings: dict[str, Any]
    tasks: dict[str, Score]

    @property
    def centered(self) -> dict[str, Centered]:
        return {name: Centered.of(score, BASELINES[name]) for name, score in self.tasks.items()}

    @property
    def mean(self) -> Centered:
        return Centered.mean(self.centered.values())

    @property
    def sampled(self) -> bool:
        return any(score.items for score in self.tasks.values())

    def json(self) -> dict[str, Any]:
        return {
            "chatcore": round(self.mean.value, 6),
            "stderr": round(self.mean.stderr, 6),
            "sampled": self.sampled,
            "model": self.model,
            "settings": self.settings,
            "tasks": {
                name: {**score.json(), "baseline": BASELINES[name], **self.centered[name].json()}
                for name, score in self.tasks.items()
            },
        }

    def table(self) -> str:
        rows: list[tuple[str, ...]] = []
        for name, score in self.tasks.items():
            figures = (score.score, score.stderr, score.chance, BASELINES[name], self.centered[name].value)
            rows.append((name, items_asked(score.json()), *(f"{figure:.4f}" for figure in figures)))
        rows.append(("ChatCORE", "", "", f"{self.mean.stderr:.4f}", "", "", f"{self.mean.value:.4f}"))
        return table(rows, ("task", "n", "accuracy", "±", "chance", "baseline", "centered"))

    def __str__(self) -> str:
        sampled = ", sampled" if self.sampled else ""
        return f"ChatCORE {self.mean.value:.4f} ± {self.mean.stderr:.4f} ({self.model}{sampled})"


def ask(
    engine: Engine,
    name: str,
    limit: int | None,
    max_tokens: int,
    context: TaskContext,
    seed: int,
    left_out: Mapping[str, Collection[int]],
    runtime: Runtime,
) -> ChatCore:
    """Scores a chat model on the six tasks, on `limit` items of each (a seeded sample) or on all. All ranks call it.

    name: of the model, for the result. left_out: rows of each task that are excluded. Raises UserError if the data is
    not available, or no sandbox holds.
    """
    most = max(MAX_TOKENS, max_tokens)
    tasks = {task: make_task(task, "test", context) for task in BASELINES}
    for task in tasks.values():
        len(task)  # missing data is an error before the first task runs
    scores = {
        label: evaluate(engine, task, label, limit or ALL, most, seed, left_out.get(label, ()), runtime=runtime)
        for label, task in tasks.items()
    }
    return ChatCore(name, {"limit": limit, "max_tokens": most, "temperature": 0, "seed": seed}, scores)
