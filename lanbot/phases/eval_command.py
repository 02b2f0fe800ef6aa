"""What `lanbot eval` measures of a run's model: tasks, CORE, ChatCORE, bits per byte, pass@k."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lanbot.config.recipe import task_label
from lanbot.config.run import Run
from lanbot.core.errors import UsageError
from lanbot.distributed.runtime import Runtime
from lanbot.evals import chatcore, core, score, task_eval
from lanbot.evals.bpb import BitsPerByte
from lanbot.evals.chatcore import ChatCore
from lanbot.evals.core import CoreResult
from lanbot.evals.score import Score, score_table
from lanbot.evals.scorer import ModelScorer
from lanbot.inference.engine import Engine
from lanbot.phases import evaluation
from lanbot.phases.phase import phase_of
from lanbot.sandbox import sandbox
from lanbot.tasks.mixture import sample_rows
from lanbot.tasks.task import Task, TaskContext

WHOLES = ("core", "chatcore", "bpb")
"""Benchmarks and measures that --tasks may name besides tasks."""


@dataclass(frozen=True)
class Passes:
    """pass@k for these k, over so many samples of each item at this temperature. Raises UsageError."""

    ks: tuple[int, ...]
    samples: int
    temperature: float

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or max(self.ks) > self.samples:
            asked = ",".join(map(str, self.ks))
            raise UsageError(f"--pass-k {asked}: of {self.samples} samples", "Each k is between 1 and --samples.")
        if not self.temperature > 0:
            said = f"--temperature {self.temperature:g}: all samples would be the same"
            raise UsageError(said, "Choose one above 0, such as 0.8.")


@dataclass(frozen=True)
class Answers:
    """The results; what was not asked for is empty or None. settings: of tasks and passes. passes: by task, by k."""

    settings: dict[str, Any]
    tasks: dict[str, dict[str, Any]]
    passes: dict[str, dict[str, Score]]
    core: CoreResult | None = None
    chatcore: ChatCore | None = None
    bpb: BitsPerByte | None = None

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"settings": self.settings, "tasks": self.tasks}
        if self.passes:
            found["pass"] = {
                task: {name: one.json() for name, one in scores.items()} for task, scores in self.passes.items()
            }
        for name, whole in (("core", self.core), ("chatcore", self.chatcore), ("bpb", self.bpb)):
            found |= {name: whole.json()} if whole else {}
        return found

    def __str__(self) -> str:
        blocks = []
        if self.tasks:
            blocks.append(f"{score.task_table(self.tasks)}\n{score.settings(self.settings)}")
        if self.passes:
            blocks.append(self.pass_table())
        if self.core:
            how = score.settings({"limit": self.core.limit, **self.core.settings})
            blocks.append(f"{self.core.table()}\n{how}\n{self.core}")
        if self.chatcore:
            said = [note for name, one in self.chatcore.tasks.items() for note in score.footnotes(name, one.json())]
            how = score.settings(self.chatcore.settings)
            blocks.append("\n".join([self.chatcore.table(), *said, how, str(self.chatcore)]))
        if self.bpb:
            blocks.append(str(self.bpb))
        return "\n\n".join(blocks)

    def pass_table(self) -> str:
        rows = [((task, name), one.json()) for task, scores in self.passes.items() for name, one in scores.items()]
        return "\n".join([score_table(rows, ("task", "what"), "failed samples"), score.settings(self.settings)])


def ask(
    run: Run, phase: str, names: Sequence[str], limit: int | None, runtime: Runtime, passes: Passes | None = None
) -> Answers:
    """Scores a phase's model on tasks and on wholes (WHOLES), and writes nothing.

    limit: items of each task; None: the recipe's for tasks, all of CORE's and ChatCORE's. passes: instead of one greedy
    answer to each item of the tasks. Raises UserError.
    """
    recipe = run.recipe
    tasks = [name for name in names if name not in WHOLES]
    labels = {name: task_label(name) for name in tasks}
    if len(set(labels.values())) < len(tasks):
        raise UsageError(f"--tasks {','.join(tasks)}: one of them is there twice", "Ask for one at a time.")
    made = {name: evaluation.checked(name, run) for name in tasks}
    for name, task in made.items():
        if passes and task.kind != "generate":
            raise UsageError(f"--pass-k: {name} has no answers to sample", "Name tasks whose answers are generated.")
    if passes and len(tasks) < len(names):
        raise UsageError(f"--pass-k: not of {', '.join(set(names) & set(WHOLES))}", "Name tasks.")
    if "chatcore" in names or any(task.runs_code for task in made.values()):
        sandbox.choose(run.options.unsafe_exec)
    most, items = recipe.evals.max_tokens, limit or phase_of(recipe, phase).eval_limit(recipe)
    settings: dict[str, Any] = {}
    if tasks:
        settings = {"limit": items, "max_tokens": most, "temperature": 0, "seed": recipe.seed}
    if passes:
        settings |= {"temperature": passes.temperature, "samples": passes.samples}
        _, engine = evaluation.open_engine(run, phase, runtime)
        found = _left_out(run, tasks, runtime)
        of_each = {}
        for name, task in made.items():
            of_each[labels[name]] = _passes(run, engine, name, task, items, passes, found.get(name, []), runtime)
        return Answers(settings, {}, of_each)
    folder, engine = evaluation.open_engine(run, phase, runtime)
    scores = evaluation.score(run, engine, tasks, items, _left_out(run, tasks, runtime), runtime)
    answers = Answers(settings, scores, {})
    if "core" in names:
        answers = replace(
            answers,
            core=core.evaluate(
                ModelScorer(engine.model, engine.chat_format, str(folder)), limit, options=run.options, runtime=runtime
            ),
        )
    if "chatcore" in names:
        left_out = _left_out(run, list(chatcore.BASELINES), runtime)
        context = TaskContext(recipe.identity, options=run.options)
        asked = chatcore.ask(engine, str(folder), limit, most, context, recipe.seed, left_out, runtime)
        answers = replace(answers, chatcore=asked)
    if "bpb" in names:
        answers = replace(answers, bpb=evaluation.validation(run, engine.chat_format, runtime).measure(engine.source))
    return answers


def _passes(
    run: Run,
    engine: Engine,
    name: str,
    task: Task,
    items: int,
    passes: Passes,
    left_out: Collection[int],
    runtime: Runtime,
) -> dict[str, Score]:
    most = run.recipe.evals.max_tokens
    rows = sample_rows(task, items, run.recipe.seed, left_out)
    scores = task_eval.pass_at(
        engine,
        [(task, row) for row in rows],
        passes.ks,
        passes.samples,
        max(most, task.answer_tokens),
        passes.temperature,
        run.recipe.seed,
        f"sampling {name}",
        runtime=runtime,
    )
    return {k: task_eval.of_task(one, task, left_out, most) for k, one in scores.items()}


def _left_out(run: Run, tasks: Sequence[str], runtime: Runtime) -> dict[str, list[int]]:
    return evaluation.contaminated(run, tasks, runtime, write=False) if run.recipe.evals.drop_contaminated else {}
