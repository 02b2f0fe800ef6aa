"""CORE: the mean over 22 tasks of a model's accuracy, centered so that a guess counts 0 (Li et al. 2024)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lanbot.core.console import table, track
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.distributed.runtime import Runtime
from lanbot.evals.score import Centered, Score, items_asked
from lanbot.evals.scorer import Judged, Scorer
from lanbot.tasks import core
from lanbot.tasks.core import CHOICE, GREEDY, SCHEMA, TASKS, CoreTask, Item

JOB_CHARACTERS = 65_536
"""Characters of the prompts of one job. Jobs do not depend on the number of ranks, so neither does rounding."""
KINDS = {CHOICE: "choice", SCHEMA: "schema", GREEDY: "greedy"}


class Verdict(NamedTuple):
    """The answer to one item."""

    task: str
    item: int
    answer: int
    """The option chosen; of a generated answer 1 if it equals the reference, else 0."""
    right: bool
    cut: bool
    """Whether the prompt was truncated to the context."""


@dataclass(frozen=True)
class TaskScore:
    task: CoreTask
    score: Score
    """Of score.n items; its chance is the uniform guess rate."""
    items: int
    """The number of items of the task."""
    cut: int
    """Evaluated items whose prompts were truncated to the context."""

    @property
    def centered(self) -> Centered:
        return Centered.of(self.score, self.task.baseline / 100)

    def json(self) -> dict[str, Any]:
        return {
            **self.score.json(),
            **self.centered.json(),
            "baseline": self.task.baseline / 100,
            "kind": self.task.kind,
            "shots": self.task.shots,
            "items": self.items,
            "sampled": self.score.n < self.items,
            "cut": self.cut,
        }


@dataclass(frozen=True)
class CoreResult:
    model: str
    limit: int | None
    settings: dict[str, Any]
    tasks: dict[str, TaskScore]
    verdicts: list[Verdict]
    """Of every evaluated item, in order."""

    @property
    def mean(self) -> Centered:
        """Of the evaluated tasks."""
        return Centered.mean([score.centered for score in self.tasks.values()])

    @property
    def core(self) -> float | None:
        """None unless all 22 tasks were evaluated."""
        return self.mean.value if [score.task for score in self.tasks.values()] == list(TASKS) else None

    def json(self) -> dict[str, Any]:
        core = self.core
        return {
            "core": None if core is None else round(core, 6),
            "stderr": round(self.mean.stderr, 6),
            "model": self.model,
            "limit": self.limit,
            "settings": self.settings,
            "tasks": {label: score.json() for label, score in self.tasks.items()},
        }

    def table(self, markdown: bool = False) -> str:
        header = ("task", "kind", "shots", "n", "accuracy", "±", "chance", "baseline", "centered", "cut")
        rows: list[tuple[Any, ...]] = []
        for label, one in self.tasks.items():
            score = one.score
            n = items_asked(one.json())
            figures = (score.score, score.stderr, score.chance, one.task.baseline / 100, one.centered.value)
            rows.append((label, KINDS[one.task.kind], one.task.shots, n, *(f"{x:.4f}" for x in figures), one.cut))
        if self.core is not None:
            rows.append(("CORE", "", "", "", "", f"{self.mean.stderr:.4f}", "", "", f"{self.core:.4f}", ""))
        return table(rows, header, markdown, left=2)

    def __str__(self) -> str:
        sampled = f", at most {self.limit:,} items a task" if self.limit else ""
        if self.core is None:
            return f"{len(self.tasks)} of {len(TASKS)} tasks of CORE{sampled}"
        return f"CORE {self.core:.4f} ± {self.mean.stderr:.4f} ({self.model}{sampled})"


class _Job(NamedTuple):
    task: CoreTask
    items: list[Item]
    """All items of the task."""
    asked: list[int]
    characters: int


def evaluate(
    scorer: Scorer,
    limit: int | None = None,
    tasks: Sequence[CoreTask] = TASKS,
    options: Options | None = None,
    *,
    runtime: Runtime,
) -> CoreResult:
    """Evaluates a model on the first `limit` items of each task in its fixed shuffled order, or on all.

    All ranks call it, share the work and get the result. Raises UserError if the data is not available, or a loss is
    not finite.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}", "Evaluate at least one item of each task.")
    loaded: dict[str, list[Item]] = {}
    jobs: list[_Job] = []
    for task in track(tasks, "preparing CORE", len(tasks), "tasks") if runtime.main else tasks:
        loaded[task.label] = core.load(task, options)
        jobs += _jobs(task, loaded[task.label], limit)
    mine = jobs[runtime.rank :: runtime.size]
    total = sum(job.characters for job in mine)
    shown = track(mine, "evaluating CORE", total, "characters", lambda job: job.characters) if runtime.main else mine
    verdicts = sorted(runtime.gather([verdict for job in shown for verdict in _ask(scorer, job)]))
    results: dict[str, TaskScore] = {}
    for task in tasks:
        items, here = loaded[task.label], [verdict for verdict in verdicts if verdict.task == task.label]
        chances = [1 / len(core.options(task, items[v.item])) if task.kind != GREEDY else 0.0 for v in here]
        chance = round(sum(chances) / len(here), 6)
        score = Score.of([verdict.right for verdict in here], chance)
        results[task.label] = TaskScore(task, score, len(items), sum(verdict.cut for verdict in here))
    settings = {**scorer.settings, "order_seed": core.ORDER_SEED, "shots_seed": core.SHOTS_SEED}
    return CoreResult(scorer.name, limit, settings, results, verdicts)


def _jobs(task: CoreTask, items: list[Item], limit: int | None) -> Iterator[_Job]:
    """The evaluated items, longest first, in jobs of JOB_CHARACTERS, so that little of a job is padding."""
    lengths = {i: len(core.texts(task, items, i)[-1]) for i in range(len(items))[:limit]}
    job = _Job(task, items, [], 0)
    for i in sorted(lengths, key=lambda i: (-lengths[i], i)):
        if job.asked and job.characters + lengths[i] > JOB_CHARACTERS:
            yield job
            job = _Job(task, items, [], 0)
        job = job._replace(asked=[*job.asked, i], characters=job.characters + lengths[i])
    yield job


def _ask(scorer: Scorer, job: _Job) -> Iterator[Verdict]:
    texts = [core.texts(job.task, job.items, i) for i in job.asked]
    ids = iter(scorer.encode([text for item in texts for text in item]))
    prompts = [core.prompts(job.task, [next(ids) for _ in item], scorer.context) for item in texts]
    for i, asked, judged in zip(job.asked, prompts, scorer.score(prompts), strict=True):
        if any(math.isnan(one.loss) for one in judged):
            where = f"{job.task.label}, item {i}"
            raise UserError(f"{scorer.name}: its loss is not finite ({where})", "Are its weights damaged? Try fp32.")
        answer = _answer(job.task, judged)
        right = answer == (1 if job.task.kind == GREEDY else job.items[i]["gold"])
        yield Verdict(job.task.label, i, answer, right, any(prompt.cut for prompt in asked))


def _answer(task: CoreTask, judged: Sequence[Judged]) -> int:
    """The first option of the lowest loss; or whether greedy decoding gives the continuation."""
    if task.kind == GREEDY:
        return int(judged[0].greedy)
    losses = [one.loss for one in judged]
    return losses.index(min(losses))
