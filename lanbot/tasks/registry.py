"""The tasks by name. Each module of this package registers its own; a class elsewhere is named as module:Class."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

from lanbot.core.errors import UserError, did_you_mean
from lanbot.core.plugins import load_object
from lanbot.tasks.task import Task, TaskContext

_TASKS: dict[str, type[Task]] = {}
T = TypeVar("T", bound=type[Task])


def register(name: str) -> Callable[[T], T]:
    """Class decorator: recipes may name the task `name`."""

    def add(task: T) -> T:
        _TASKS[name] = task
        return task

    return add


@cache
def all_tasks() -> Mapping[str, type[Task]]:
    """The tasks of this package by name."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__package__}.{module.name}")
    return _TASKS


def find_task(spec: str) -> tuple[type[Task], str]:
    """The class and the argument of `name`, `name:argument`, `module:Class` or `module:Class:argument`.

    Raises UserError if there is no such task, or it does not take the argument.
    """
    name, _, argument = spec.partition(":")
    task = all_tasks().get(name)
    if task is None:
        hint = did_you_mean(name, all_tasks())
        attribute, _, argument = argument.partition(":")
        try:
            task = load_object(f"{name}:{attribute}", "task")
        except UserError as error:
            if attribute and not hint:
                raise
            remedy = f"Choose one of {', '.join(all_tasks())}, or module:Class of a Task of yours."
            raise UserError(f"{spec}: no such task.{hint}", remedy) from error
        if not (isinstance(task, type) and issubclass(task, Task)):
            raise UserError(f"{spec}: not a subclass of lanbot.tasks.task.Task", "Write it as module:Class.")
        name = f"{name}:{attribute}"
    allowed = task.arguments
    if allowed is None and not argument:
        raise UserError(f"{name}: it needs a file", f"Write {name}:PATH.")
    if allowed is not None and argument not in ("", *allowed):
        usage = f"Write {name} or {name}:{allowed[0]}." if allowed else f"Write {name}."
        raise UserError(f"{spec}: {name} takes no {argument!r}", usage)
    return task, argument


def make_task(spec: str, split: str, context: TaskContext | None = None) -> Task:
    """A split of the task that `spec` names (see find_task). Raises UserError."""
    task, argument = find_task(spec)
    if split not in task.splits:
        raise UserError(f"{spec}: no split {split!r}", f"Choose one of {', '.join(task.splits)}.")
    return task(split, argument, context)


def first_split(spec: str) -> str:
    """train, where the task has it. Raises UserError."""
    return find_task(spec)[0].splits[0]
