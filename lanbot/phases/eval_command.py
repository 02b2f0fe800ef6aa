"""What `lanbot eval` measures of a run's model: tasks, CORE, ChatCORE, bits per byte, pass@k."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lanbot.config.recipe import task_label
from lanbot.config.run import Run
from lanbot.core.errors import UsageError
from lanbot.distributed.runtime import Runtime
from lanbot.evals import chatcore, core, score, task_eval
from lanbot.evals.scorer import ModelScorer
from lanbot.inference.engine import Engine
from lanbot.phases import evaluation
from lanbot.phases.phase import phase_of
from lanbot.sandbox import sandbox
from lanbot.tasks.mixture import sample_rows
from lanbot.tasks.task import Task, TaskContext

BENCHMARKS = ("core", "chatcore", "bpb")
"""What --tasks may name besides tasks."""


@dataclass(frozen=True)
class PassAtK:
    """pass@k for these k, over so many samples of each item at this temperature. Raises UsageError."""

    ks: tuple[int, ...]
    samples: int
    temperature: float

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or max(self.ks) > self.samples:
            asked = ",".join(map(str, self.ks))
            raise UsageError(f"--pass-k {asked}: of {self.samples} samples", "Each k is between 1 and --samples.")
        if not self.temperature > 0:
            problem = f"--temperature {self.temperature:g}: all samples would be the same"
            raise UsageError(problem, "Choose one above 0, such as 0.8.")


class Result(NamedTuple):
    """The same figures as JSON and as text."""

    json: dict[str, Any]
    text: str


def evaluate(
    run: Run, phase: str, names: Sequence[str], limit: int | None, runtime: Runtime, pass_at_k: PassAtK | None = None
) -> Result:
    """Scores a phase's model on tasks and BENCHMARKS; writes no files.

    limit: items of each task; None: the recipe's for tasks, all of CORE's and ChatCORE's. pass_at_k: sample answers to
    the items of the tasks instead of one greedy answer. Raises UserError.
    """
    recipe = run.recipe
    labels = [task_label(name) for name in names if name not in BENCHMARKS]
    if len(set(labels)) < len(labels):
        raise UsageError(f"--tasks {','.join(names)}: one of them is there twice", "Ask for one at a time.")
    tasks = {name: evaluation.checked(name, run) for name in names if name not in BENCHMARKS}
    if pass_at_k:
        _check_sampled(names, tasks)
    if "chatcore" in names or any(task.runs_code for task in tasks.values()):
        sandbox.choose(run.options.unsafe_exec)
    evaluation.check_tasks(run, tasks)
    max_tokens, items = recipe.evals.max_tokens, limit or phase_of(recipe, phase).eval_limit(recipe)
    settings: dict[str, Any] = {}
    if tasks:
        settings = {"limit": items, "max_tokens": max_tokens, "temperature": 0, "seed": recipe.seed}
    folder, engine = evaluation.open_engine(run, phase, runtime)
    if pass_at_k:
        settings |= {"temperature": pass_at_k.temperature, "samples": pass_at_k.samples}
        return _pass_at_k(run, engine, tasks, settings, pass_at_k, runtime)
    scores = evaluation.score(run, engine, list(tasks), items, _left_out(run, list(tasks), runtime), runtime)
    found: dict[str, Any] = {"settings": settings, "tasks": scores}
    blocks = [f"{score.task_table(scores)}\n{score.settings(settings)}"] if tasks else []
    if "core" in names:
        scorer = ModelScorer(engine.model, engine.chat_format, str(folder))
        measured = core.evaluate(scorer, limit, options=run.options, runtime=runtime)
        found["core"] = measured.json()
        how = score.settings({"limit": measured.limit, **measured.settings})
        blocks.append(f"{measured.table()}\n{how}\n{measured}")
    if "chatcore" in names:
        left_out = _left_out(run, list(chatcore.BASELINES), runtime)
        context = TaskContext(recipe.identity, options=run.options)
        chat = chatcore.ask(engine, str(folder), limit, max_tokens, context, recipe.seed, left_out, runtime)
        found["chatcore"] = chat.json()
        notes = [note for name, one in chat.tasks.items() for note in score.footnotes(name, one.json())]
        blocks.append("\n".join([chat.table(), *notes, score.settings(chat.settings), str(chat)]))
    if "bpb" in names:
        bits = evaluation.validation(run, engine.chat_format, runtime).measure(engine.source)
        found["bpb"] = bits.json()
        blocks.append(str(bits))
    return Result(found, "\n\n".join(blocks))


def _check_sampled(names: Sequence[str], tasks: dict[str, Task]) -> None:
    """Raises UsageError for what pass@k cannot be measured of."""
    for name, task in tasks.items():
        if task.kind != "generate":
            raise UsageError(f"--pass-k: {name} has no answers to sample", "Name tasks whose answers are generated.")
    if len(tasks) < len(names):
        raise UsageError(f"--pass-k: not of {', '.join(set(names) & set(BENCHMARKS))}", "Name tasks.")


def _pass_at_k(
    run: Run, engine: Engine, tasks: dict[str, Task], settings: dict[str, Any], how: PassAtK, runtime: Runtime
) -> Result:
    seed, max_tokens = run.recipe.seed, run.recipe.evals.max_tokens
    left_out = _left_out(run, list(tasks), runtime)
    found: dict[str, dict[str, Any]] = {}
    for name, task in tasks.items():
        skipped = left_out.get(name, [])
        items = [(task, row) for row in sample_rows(task, settings["limit"], seed, skipped)]
        tokens = max(max_tokens, task.answer_tokens)
        label = f"sampling {name}"
        scores = task_eval.pass_at(
            engine, items, how.ks, how.samples, tokens, how.temperature, seed, label, runtime=runtime
        )
        of_task = {k: task_eval.of_task(one, task, skipped, max_tokens).json() for k, one in scores.items()}
        found[task_label(name)] = of_task
    rows = [((task, name), one) for task, scores in found.items() for name, one in scores.items()]
    table = score.score_table(rows, ("task", "what"), "failed samples")
    return Result({"settings": settings, "tasks": {}, "pass": found}, f"{table}\n{score.settings(settings)}")


def _left_out(run: Run, tasks: Sequence[str], runtime: Runtime) -> dict[str, list[int]]:
    return evaluation.contaminated(run, tasks, runtime, write=False) if run.recipe.evals.drop_contaminated else {}
