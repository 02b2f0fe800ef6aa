"""Evaluation after a phase: scores, bits per byte, samples and transcripts, written to evals.json and samples.md."""

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lanbot.chat.fitting import run_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import Conversation, readable
from lanbot.config.recipe import MixturePart, task_label
from lanbot.config.run import Run, read_metrics
from lanbot.core import hardware
from lanbot.core.console import say
from lanbot.core.errors import UserError
from lanbot.core.files import write_atomic
from lanbot.data.corpus import open_corpus
from lanbot.data.packing import Batch
from lanbot.distributed.runtime import Runtime
from lanbot.evals import task_eval as evals
from lanbot.evals.bpb import Validation, chat_rows, text_rows
from lanbot.evals.score import task_table
from lanbot.inference.engine import Engine
from lanbot.models import saved
from lanbot.models.weights import load_model
from lanbot.phases.phase import Phase, phase_of, sources
from lanbot.tasks import contamination
from lanbot.tasks.agent_tasks import AgentTasks
from lanbot.tasks.mixture import Mixture, sample_rows
from lanbot.tasks.registry import find_task, make_task
from lanbot.tasks.task import Task, TaskContext

SAMPLE = 200
"""Questions of a task that are checked; one of them must fit into the context."""
PROMPTS = 10
"""Prompts that are answered after every phase."""
TRANSCRIPTS = {"search": "Search, then compute", "write": "Compute, then write", "remember": "Remember, recall later"}
"""Kinds of agent tasks to keep a transcript of, and their titles in the report."""


def evaluate(
    run: Run,
    phase: str,
    runtime: Runtime,
    limit: int | None = None,
    began: float | None = None,
) -> dict[str, Any]:
    """Evaluates a phase's last checkpoint; writes samples.md and evals.json, which marks the phase as done.

    limit: items of each task; None: the phase's. began: its start, by time.monotonic. Bits per byte are measured if a
    phase of the recipe trains on the base corpus.
    """
    recipe, evals_of, made_by = run.recipe, run.recipe.evals, phase_of(run.recipe, phase)
    found = contaminated(run, evals_of.tasks, runtime, write=True)
    folder, engine = open_engine(run, phase, runtime)
    limit = limit or made_by.eval_limit(recipe)
    scores = score(run, engine, evals_of.tasks, limit, found if evals_of.drop_contaminated else {}, runtime)
    questions = prompts_of_change(run)
    answers = evals.answer_all(engine, questions, evals_of.max_tokens)
    measures = any(source.corpus for source in sources(recipe))
    bpb = validation(run, engine.chat_format, runtime).measure(engine.source) if measures else None
    own = {}
    if held_out := mixture_rows(run, phase, engine.chat_format):
        every_token = replace(held_out, weights=np.ones_like(held_out.weights))
        for name, rows in (("mixture_bpb", held_out), ("mixture_bpb_all", every_token)):
            own[name] = Validation(rows, engine.chat_format, runtime).measure(engine.source).json()
    result = {
        "checkpoint": folder.name,
        "description": made_by.description,
        "tasks": scores,
        "val_bpb": round(bpb.value, 6) if bpb else None,
        "training": summary(run, phase) | {"peak_memory_bytes": hardware.peak()},
        "samples": [
            {"prompt": [{"role": "user", "content": question}], "answer": answer}
            for question, answer in zip(questions, answers, strict=True)
        ],
        "transcripts": transcripts(run, engine),
        "settings": {"limit": limit, "max_tokens": evals_of.max_tokens, "temperature": 0, "seed": recipe.seed},
        **({"bpb": bpb.json()} if bpb else {}),
        **own,
        **({"wall_seconds": round(time.monotonic() - began, 2)} if began is not None else {}),
        **made_by.results(run),
    }
    if runtime.main:
        say(task_table(scores))
        samples = "\n".join(f"**{q}**\n\n```\n{readable(a)}\n```\n" for q, a in zip(questions, answers, strict=True))
        write_atomic(run.phase(phase) / "samples.md", f"# What {recipe.name} says after {phase}\n\n{samples}")
        write_atomic(run.phase(phase) / "evals.json", json.dumps(result, indent=1) + "\n")
    return result


def score(
    run: Run, engine: Engine, tasks: Sequence[str], limit: int, left_out: dict[str, list[int]], runtime: Runtime
) -> dict[str, Any]:
    """The scores of tasks by label. left_out: rows of each task that are not evaluated."""
    settings = run.recipe.evals
    scores = {}
    for name in tasks:
        rows = left_out.get(name, [])
        scores[task_label(name)] = evals.evaluate(
            engine, checked(name, run), name, limit, settings.max_tokens, run.recipe.seed, rows, runtime=runtime
        ).json()
    return scores


def validation(run: Run, chat_format: ChatFormat, runtime: Runtime) -> Validation:
    """The held-out text of a run, on which bits per byte are measured."""
    base = run.recipe.base
    _, held_out = open_corpus(base.data, run.recipe.seed, base.skip_bad_rows, run.options, base.data_column)
    rows = text_rows(held_out, chat_format, base.eval_tokens, base.sequence or run.recipe.model.longest)
    return Validation(rows, chat_format, runtime)


def mixture_rows(run: Run, phase: str, chat_format: ChatFormat) -> Batch | None:
    """Held-out rows of a phase's own mixture, in its shares; None if its tasks have no test split."""
    settings = phase_of(run.recipe, phase).settings(run.recipe)
    if not hasattr(settings, "eval_tokens") or not hasattr(settings, "mixture"):
        return None
    parts = [part for part in settings.mixture if "test" in find_task(part.task)[0].splits]
    if not parts:
        return None

    def size(part: MixturePart, split: str) -> int:
        context = TaskContext(run.recipe.identity, part.skip_bad_rows, run.options)
        return len(make_task(part.task, split, context))

    trained = [min(size(part, "train"), part.rows or sys.maxsize) * part.epochs for part in parts]
    share = min(1.0, *(size(part, "test") / rows for part, rows in zip(parts, trained, strict=True)))
    parts = [
        replace(part, epochs=1, rows=max(1, round(share * rows))) for part, rows in zip(parts, trained, strict=True)
    ]
    mixture = Mixture(parts, run.recipe.identity, chat_format, run.recipe.seed, "test", run.options)
    return chat_rows(mixture, chat_format.bos, settings.eval_tokens, settings.sequence or run.recipe.model.longest)


def open_engine(run: Run, phase: str, runtime: Runtime) -> tuple[Path, Engine]:
    """A phase's last checkpoint, and an engine with its model. Raises UserError if there is none."""
    folder = runtime.on_main(saved.latest, run.phase(phase))
    if folder is None:
        raise UserError(f"{run.folder}: {phase} has no checkpoint", f"Run it first: lanbot run RECIPE --phase {phase}")
    model = load_model(folder, runtime.dtype, runtime.device, run.needs_masters(phase))
    return folder, Engine(model, run_format(run))


def contaminated(run: Run, names: Sequence[str], runtime: Runtime, write: bool) -> dict[str, list[int]]:
    """The rows of tasks with real data that occur in the run's training data.

    Rank 0 searches. contamination.json caches the result, with sources and examples, while the recipe's training and
    evaluation data stay the same. write: whether to write it.
    """
    tasks = run.recipe.evals.tasks
    if not set(names) <= set(tasks):
        tasks = tuple(names)
    if not contamination.real(tasks):
        return {}
    rows = None
    if runtime.main:
        found = known_contamination(run, tasks)
        if not found:
            found = contamination.check(run.recipe, tasks, sources(run.recipe, run), options=run.options)
            say(contamination.summary(found))
            if write:
                write_atomic(run.folder / contamination.FILE, json.dumps(found, indent=1) + "\n")
        rows = {name: task["contaminated"] for name, task in found["tasks"].items()}
    return runtime.broadcast(rows)


def known_contamination(run: Run, tasks: Sequence[str]) -> contamination.Found:
    """contamination.json if it is for these tasks and the recipe's current training data, else {}."""
    found: contamination.Found = run.read("", contamination.FILE)
    return found if found.get("plan") == contamination.plan(run.recipe, tasks, sources(run.recipe, run)) else {}


def check_questions(run: Run, phases: Sequence[Phase]) -> None:
    """Raises UserError if no question of an evaluated task, or of a rewarded mixture, fits into the context.

    Reads at most SAMPLE questions of each until one fits. Needs the tokenizer. Multiple choice is truncated instead.
    """
    recipe = run.recipe
    models = [phase for phase in phases if phase.makes == "model"]
    asked: dict[str, Iterable[Conversation | None]] = {}
    for phase in models:
        if phase.rewards:
            mixture = Mixture(phase.settings(recipe).mixture, recipe.identity, None, recipe.seed, options=run.options)
            asked[f"{phase.name}.mixture"] = map(mixture.conversation, range(min(SAMPLE, len(mixture))))
    tasks = {f"evals.tasks: {name}": checked(name, run) for name in (recipe.evals.tasks if models else ())}
    _check_fit(run, asked | _first_questions(tasks, recipe.seed))


def check_tasks(run: Run, tasks: Mapping[str, Task]) -> None:
    """Raises UserError if no question of one of these tasks fits into the context; see `check_questions`."""
    _check_fit(run, _first_questions(tasks, run.recipe.seed))


def _first_questions(tasks: Mapping[str, Task], seed: int) -> dict[str, Iterable[Conversation | None]]:
    return {
        name: map(task.conversation, sample_rows(task, SAMPLE, seed))
        for name, task in tasks.items()
        if task.kind != "choice"
    }


def _check_fit(run: Run, asked: Mapping[str, Iterable[Conversation | None]]) -> None:
    chat_format, context = run_format(run), run.recipe.model.longest
    for what, conversations in asked.items():
        if not any(one and len(chat_format.prompt_of(one)) < context for one in conversations):
            problem = f"{what}: no question fits into model.context = {context:,} tokens"
            raise UserError(problem, "Leave it out, or choose a longer model.context.")


def checked(name: str, run: Run) -> Task:
    """The test split of a task. Raises UserError if it has no checker."""
    task = make_task(name, "test", TaskContext(run.recipe.identity, options=run.options))
    if task.kind == "chat":
        raise UserError(f"{name}: this task is for training only", "Leave it out of what is evaluated.")
    return task


def summary(run: Run, phase: str) -> dict[str, Any]:
    """A phase's metrics in brief: steps, seconds, tokens, loss (mean of the last ten), tokens/s, utilisation."""
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


def prompts_of_change(run: Run) -> list[str]:
    """The same ten questions for every phase: identity, small talk, and held-out items of the evaluated tasks."""
    context = TaskContext(run.recipe.identity, options=run.options)
    questions = ["Who are you?", "Who made you?", "Hello!", "What can you do?", "What is 12*7?"]
    tasks = [make_task(name, "test", context) for name in run.recipe.evals.tasks]
    asked = [task for task in tasks if task.kind != "agent"]
    for i in range(PROMPTS - len(questions) if asked else 0):
        task = asked[i % len(asked)]
        questions.append(_alone(task, len(task) // (2 + i // len(asked))))
    return questions


def _alone(task: Task, row: int) -> str:
    """The question of this row, or of the next one without earlier turns."""
    for i in range(row, row + len(task)):
        *before, asked, _ = task.conversation(i % len(task))["messages"]
        if not before and isinstance(asked["content"], str):
            return asked["content"]
    return "Who are you?"


def transcripts(run: Run, engine: Engine) -> list[dict[str, Any]]:
    """Transcripts of three agent tasks, the longest of the first hundred, if the recipe evaluates agent tasks."""
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
