"""The pipeline: which phases, in what order, each evaluated when it is done; and going on where it stopped."""

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lanbot.chat.formats import get_format, load_format
from lanbot.chat.messages import readable
from lanbot.config.recipe import PHASES, Recipe
from lanbot.config.run import Run, read_metrics
from lanbot.core import hardware
from lanbot.core.console import duration, say
from lanbot.core.errors import UsageError, UserError
from lanbot.core.files import write_atomic
from lanbot.distributed.runtime import Runtime
from lanbot.evals import task_eval as evals
from lanbot.evals.score import task_table
from lanbot.inference.engine import Engine
from lanbot.models import saved
from lanbot.models.weights import load_model
from lanbot.phases import base, chat, rl, tokenizer
from lanbot.sandbox import sandbox
from lanbot.tasks import contamination
from lanbot.tasks.agent_tasks import AgentTasks
from lanbot.tasks.registry import make_task
from lanbot.tasks.task import Task, TaskContext
from lanbot.training import memory

MADE_BY = {
    "tokenizer": ("seed", "tokenizer", "base.data", "base.data_column"),
    "base": ("model", "base"),
    "mid": ("identity", "mid"),
    "sft": ("identity", "sft"),
    "rl": ("identity", "rl"),
}
"""The keys of the recipe by which each phase is made."""

TRAIN: dict[str, Callable[[Run, Runtime], None]] = {
    "tokenizer": tokenizer.train,
    "base": base.train_base,
    "mid": partial(chat.train_chat, phase="mid"),
    "sft": partial(chat.train_chat, phase="sft"),
    "rl": rl.train_rl,
}


def parse_phases(text: str) -> list[str]:
    """ "all", or phases joined by "+", in the order of the pipeline; base brings its tokenizer."""
    if text == "all":
        return list(PHASES)
    wanted = text.split("+")
    for phase in wanted:
        if phase not in PHASES:
            raise UsageError(f"--phase {text}: no phase {phase!r}", f"Phases: {', '.join(PHASES)}; join them by +.")
    return [phase for phase in PHASES if phase in wanted or (phase == "tokenizer" and "base" in wanted)]


def execute(run: Run, phases: list[str], runtime: Runtime) -> bool:
    """Runs what is not yet done of `phases`; False if there was nothing to do."""
    to_do = [phase for phase in phases if not run.done(phase)]
    if not to_do:
        if runtime.main:
            say(f"{run.folder}: {', '.join(phases)}: all done, nothing to do")
        return False
    for phase in to_do:
        hardware.reset_peak()
        began, at_once = time.monotonic(), not run.begun(phase)  # a phase taken up again has no wall time of its own
        TRAIN[phase](run, runtime)
        if phase != "tokenizer":
            evaluate(run, phase, runtime, began=began if at_once else None)
        elif runtime.main:
            times = {"wall_seconds": round(time.monotonic() - began, 2)} if at_once else {}
            write_atomic(run.phase(phase) / "evals.json", json.dumps(times) + "\n")
        if runtime.main:
            say(f"{phase} finished in {duration(time.monotonic() - began)}\n")
        runtime.barrier()
    return True


def preflight(run: Run, phases: list[str], runtime: Runtime) -> None:
    """Raises UserError for all that can be known to fail, before anything is made: a mistake in rl's settings is
    told before base trains. Memory, batch shapes, corpus, tasks, files."""
    recipe, size = run.recipe, runtime.size
    phases = [phase for phase in phases if not run.done(phase)]
    get_format(recipe.tokenizer.chat_format)
    if "tokenizer" in phases or "base" in phases:
        tokenizer.corpora(run)
    for phase in (phase for phase in phases if phase != "tokenizer"):
        settings = getattr(recipe, phase)
        T = getattr(settings, "sequence", recipe.model.context)
        memory.check(base.model_config(recipe), T, phase, runtime)
        if phase != "rl" and settings.batch_tokens // settings.sequence % size:
            raise UserError(
                f"{phase}.batch_tokens / {phase}.sequence is {settings.batch_tokens // settings.sequence} rows, "
                f"which {size} processes cannot share",
                f"Choose {phase}.batch_tokens so that it is a multiple of {size} x {phase}.sequence.",
            )
    # who looks for test items in the training data needs all of it, be the phase for today or not
    evaluates = phases and phases != ["tokenizer"]
    all_of_it = evaluates and contamination.real(recipe.evals.tasks) and not _known(run, recipe.evals.tasks)
    for phase in PHASES if all_of_it else phases:
        for part in getattr(getattr(recipe, phase), "mixture", ()):
            task = make_task(part.task, "train", TaskContext(recipe.identity, part.skip_bad_rows, run.options))
            if not len(task):
                raise UserError(f"{phase}.mixture: {part.task} is empty", "Leave it out, or give it rows.")
            if phase == "rl" and task.kind in ("chat", "agent"):
                raise UserError(f"rl.mixture: {part.task} has no checker to reward by", "Use a task that is checked.")
    if any(checked(name, run).runs_code for name in (recipe.evals.tasks if phases else ())):
        sandbox.choose(run.options.unsafe_exec)


def evaluate(
    run: Run,
    phase: str,
    runtime: Runtime,
    tasks: tuple[str, ...] | None = None,
    limit: int | None = None,
    began: float | None = None,
) -> dict[str, Any]:
    """Scores a phase's last checkpoint and writes its evals.json and samples.md, by which the phase is done.

    tasks: score only these, and write nothing. began: when the phase did, by time.monotonic.
    """
    recipe = run.recipe
    names, drop = tasks or recipe.evals.tasks, recipe.evals.drop_contaminated
    found = contaminated(run, names, runtime, write=tasks is None) if tasks is None or drop else {}
    folder, engine = open_engine(run, phase, runtime)
    model = engine.source
    limit = limit or usual_limit(recipe, phase)
    scores: dict[str, Any] = {}
    for name in names:
        task = checked(name, run)
        left_out = found.get(name, []) if drop else []
        scores[name.partition(":")[0]] = evals.evaluate(
            engine, task, name, limit, recipe.evals.max_tokens, recipe.seed, left_out, runtime=runtime
        ).json()
    if tasks is not None:
        return scores
    questions = prompts_of_change(run)
    answers = evals.answer_all(engine, questions, recipe.evals.max_tokens)
    bpb = base.validation(run, engine.chat_format, runtime).measure(model)
    result = {
        "checkpoint": folder.name,
        "tasks": scores,
        "val_bpb": round(bpb.value, 6),
        "bpb": bpb.json(),
        "training": summary(run, phase) | {"peak_memory_bytes": hardware.peak()},
        "samples": [
            {"prompt": [{"role": "user", "content": question}], "answer": answer}
            for question, answer in zip(questions, answers, strict=True)
        ],
        "transcripts": transcripts(run, engine),
        "settings": {"limit": limit, "max_tokens": recipe.evals.max_tokens, "temperature": 0, "seed": recipe.seed},
    }
    if began is not None:
        result["wall_seconds"] = round(time.monotonic() - began, 2)
    if phase == "rl":
        result["pass"] = run.read("rl", "pass.json")
    if runtime.main:
        say(task_table(scores))
        samples = "\n".join(f"**{q}**\n\n```\n{readable(a)}\n```\n" for q, a in zip(questions, answers, strict=True))
        write_atomic(run.phase(phase) / "samples.md", f"# What {run.recipe.name} says after {phase}\n\n{samples}")
        write_atomic(run.phase(phase) / "evals.json", json.dumps(result, indent=1) + "\n")
    return result


def open_engine(run: Run, phase: str, runtime: Runtime) -> tuple[Path, Engine]:
    """A phase's last checkpoint, and an engine with its model. Raises UserError if there is none."""
    folder = runtime.on_main(saved.latest, run.phase(phase))
    if folder is None:
        raise UserError(f"{run.folder}: {phase} has no checkpoint", f"Run it first: lanbot run RECIPE --phase {phase}")
    model = load_model(folder, runtime.dtype, runtime.device)
    return folder, Engine(model, load_format(run.phase("tokenizer")))


def usual_limit(recipe: Recipe, phase: str) -> int:
    """The recipe's number of items of each task."""
    return recipe.evals.base_limit if phase == "base" else recipe.evals.limit


def contaminated(run: Run, names: Sequence[str], runtime: Runtime, write: bool) -> dict[str, list[int]]:
    """For those of the tasks whose rows are real, the rows that are in the run's training data.

    contamination.json keeps what was found, with sources and examples, until the recipe trains on or is evaluated on
    other data; the main rank looks, which takes seconds. write: keep it if it is new.
    """
    tasks = run.recipe.evals.tasks
    if not set(names) <= set(tasks):
        tasks = tuple(names)
    if not contamination.real(tasks):
        return {}
    rows = None
    if runtime.main:
        found = _known(run, tasks)
        if not found:
            found = contamination.check(run.recipe, tasks, options=run.options)
            say(contamination.summary(found))
            if write:
                write_atomic(run.folder / contamination.FILE, json.dumps(found, indent=1) + "\n")
        rows = {name: task["contaminated"] for name, task in found["tasks"].items()}
    return runtime.broadcast(rows)


def _known(run: Run, tasks: Sequence[str]) -> contamination.Found:
    """contamination.json, if it is of these tasks and of what the recipe trains on now; else {}."""
    found: contamination.Found = run.read("", contamination.FILE)
    return found if found.get("plan") == contamination.plan(run.recipe, tasks) else {}


def checked(name: str, run: Run) -> Task:
    """A task to evaluate on. Raises UserError if it has no checker."""
    task = make_task(name, "test", TaskContext(run.recipe.identity, options=run.options))
    if task.kind == "chat":
        raise UserError(f"{name}: this task is for training only", "Leave it out of what is evaluated.")
    return task


def summary(run: Run, phase: str) -> dict[str, Any]:
    """Of a phase's metrics: steps, seconds, tokens, the last loss (mean of ten steps), tokens/s, utilisation."""
    lines = [line for line in read_metrics(run.phase(phase) / "metrics.jsonl") if "val_bpb" not in line]
    if not lines:
        return {}
    last, losses = lines[-1], [line["loss"] for line in lines[-10:] if "loss" in line]
    speeds = sorted(line["tokens_per_second"] for line in lines)
    used = sorted(line["utilisation"] for line in lines if "utilisation" in line)
    return {
        "steps": last["step"],
        "seconds": round(last["seconds"], 2),
        "tokens": last["tokens"],
        "final_loss": round(sum(losses) / len(losses), 4) if losses else None,
        "tokens_per_second": round(speeds[len(speeds) // 2], 1),
        "utilisation": round(used[len(used) // 2], 4) if used else None,
    }


PROMPTS = 10
TRANSCRIPTS = {"search": "Search, then compute", "write": "Compute, then write", "remember": "Remember, recall later"}
"""Kinds of errand, and what a report calls one that takes all it can."""


def prompts_of_change(run: Run) -> list[str]:
    """The same ten questions for every phase: who it is, small talk, and held-out items of the evaluated tasks."""
    context = TaskContext(run.recipe.identity, options=run.options)
    questions = ["Who are you?", "Who made you?", "Hello!", "What can you do?", "What is 12*7?"]
    tasks = [make_task(name, "test", context) for name in run.recipe.evals.tasks]
    asked = [task for task in tasks if task.kind != "agent"]
    for i in range(PROMPTS - len(questions) if asked else 0):
        task = asked[i % len(asked)]
        questions.append(_alone(task, len(task) // (2 + i // len(asked))))
    return questions


def _alone(task: Task, row: int) -> str:
    """The question of a row, or of the next that is no longer talk: what was said before would be missing."""
    for i in range(row, row + len(task)):
        *before, asked, _ = task.conversation(i % len(task))["messages"]
        if not before and isinstance(asked["content"], str):
            return asked["content"]
    return "Who are you?"


def transcripts(run: Run, engine: Engine) -> list[dict[str, Any]]:
    """Three errands as the model does them, if the recipe evaluates errands: the first held-out ones of some length."""
    if "agent_tasks" not in run.recipe.evals.tasks:
        return []
    task = AgentTasks("test", context=TaskContext(run.recipe.identity, options=run.options))
    errands = [task.errand(i) for i in range(100)]
    rows = {
        kind: max(range(100), key=lambda i: (errands[i].kind == kind, errands[i].calls, -i)) for kind in TRANSCRIPTS
    }
    envs = evals.do_errands(engine, task, list(rows.values()), run.recipe.evals.max_tokens)
    return [
        {"title": TRANSCRIPTS[kind], "right": env.right(), "conversations": env.conversations}
        for kind, env in zip(rows, envs, strict=True)
    ]
