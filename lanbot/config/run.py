"""A run: the folder that a recipe makes, and what is done in it."""

import fcntl
import json
import os
import shutil
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from lanbot.config import recipe as recipes
from lanbot.config.recipe import PHASES, MixturePart, Recipe
from lanbot.core.console import say
from lanbot.core.errors import UserError
from lanbot.core.files import beside, write_atomic
from lanbot.core.options import Options

MADE_BY = {
    "tokenizer": ("seed", "tokenizer", "base.data", "base.data_column"),
    "base": ("model", "base"),
    "mid": ("identity", "mid"),
    "sft": ("identity", "sft"),
    "rl": ("identity", "rl"),
}
"""What of the recipe each phase was made by: it may change only until that phase has begun."""

OPERATIONAL = ("checkpoint_every", "eval_every", "micro_batch", "skip_bad_rows")
"""These may change at any time: they do not say what is trained. (Rows before the first bad one are the same.)"""

LOCK = ".lock"
"""Held by the process that trains in a run's folder; the file stays, the kernel's lock ends with the process."""

_held: dict[Path, int] = {}
"""The locks of this process: a run's folder, the open file."""


@dataclass(frozen=True)
class Run:
    folder: Path
    recipe: Recipe
    options: Options = field(default_factory=Options.from_environment, compare=False)

    @classmethod
    def create(cls, recipe: Recipe, root: Path | None = None, options: Options | None = None) -> "Run":
        """The recipe's run, made or taken up again; from here on until it ends only this process may train there.

        Raises UserError if the folder is in use by another process, cannot be written, or is of another recipe: if a
        phase that has begun there was made by other settings than the recipe's.
        """
        options = options or Options.from_environment()
        folder = (root or options.runs) / recipe.name
        run = cls(folder, recipe, options)
        saved = folder / "recipe.toml"
        if not saved.is_file() and folder.is_dir() and {p.name for p in folder.iterdir()} - {LOCK, beside(saved).name}:
            raise UserError(f"{folder}: a folder that is no run (it has no recipe.toml)", "Choose another --name.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock(folder)
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror}", "A run needs a folder that it can write.") from None
        if saved.is_file():
            before = recipes.load(saved)
            for phase in PHASES:
                if run.begun(phase):
                    _same(before, recipe, phase, folder)
        write_atomic(saved, recipes.dump(recipe))
        return run

    @classmethod
    def open(cls, name: str, root: Path | None = None, options: Options | None = None) -> "Run":
        """The run of this name under the runs' folder, or at this path."""
        options = options or Options.from_environment()
        root = root or options.runs
        for folder in (root / name, Path(name)):
            if (folder / "recipe.toml").is_file():
                return cls(folder, recipes.load(folder / "recipe.toml"), options)
        names = [path.name for path in list_runs(root)]
        has = f"There are: {', '.join(names)}." if names else "There are none yet: lanbot run RECIPE makes one."
        raise UserError(f"{name}: no such run in {root}", has)

    def phase(self, phase: str) -> Path:
        return self.folder / phase

    def begun(self, phase: str) -> bool:
        return self.phase(phase).is_dir()

    def done(self, phase: str) -> bool:
        """A phase is done when its last file is written: evals.json, the tokenizer's table."""
        return (self.phase(phase) / ("compression.json" if phase == "tokenizer" else "evals.json")).is_file()

    def last_phase(self) -> str | None:
        """The latest phase that is done."""
        return next((phase for phase in reversed(PHASES) if self.done(phase)), None)

    def read(self, phase: str, file: str) -> Any:
        """A JSON file of a phase, {} where there is none."""
        path = self.phase(phase) / file
        return json.loads(path.read_text()) if path.is_file() else {}

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def delete(self) -> None:
        """Raises UserError if a process trains there."""
        lock(self.folder)
        shutil.rmtree(self.folder)
        os.close(_held.pop(self.folder.resolve()))


def list_runs(root: Path | None = None) -> list[Path]:
    root = root or Options.from_environment().runs
    return sorted(path.parent for path in root.glob("*/recipe.toml")) if root.is_dir() else []


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is left out."""
    lines = []
    for line in path.read_text().split("\n") if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def lock(folder: Path) -> None:
    """Takes a run's folder for this process until it ends, however it ends; again is nothing.

    Raises UserError if another process has it.
    """
    if (key := folder.resolve()) in _held:
        return
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(file, 20).decode(errors="replace").strip()
        os.close(file)
        raise UserError(
            f"{folder} is in use: process {pid or '(unknown)'} trains there",
            f"Wait until it is done, stop it (kill {pid or 'PID'}), or choose another --name.",
        ) from None
    except OSError as error:  # a file system without locks
        say(f"{folder} cannot be locked ({error.strerror}): see that no other process trains there")
    os.ftruncate(file, 0)
    os.write(file, f"{os.getpid()}\n".encode())
    _held[key] = file


def _let_go() -> None:
    """A forked child shares its parent's locks; it must not hold them when the parent is dead."""
    while _held:
        os.close(_held.popitem()[1])


os.register_at_fork(after_in_child=_let_go)


def _same(before: Recipe, now: Recipe, phase: str, folder: Path) -> None:
    for key in MADE_BY[phase]:
        old, new = _settings(before, key), _settings(now, key)
        for name in old:
            if old[name] != new[name] and name.rpartition(".")[2] not in OPERATIONAL:
                raise UserError(
                    f"{folder} is of another recipe: its {phase} was made with {name} = {_short(old[name])}, "
                    f"not {_short(new[name])}",
                    f"Choose another --name, or begin anew: lanbot runs delete {folder.name}",
                )


def _settings(recipe: Recipe, path: str) -> dict[str, object]:
    """A section's values by their full keys, or the one value of a key."""
    value: Any = recipe
    for name in path.split("."):
        value = getattr(value, name)
    if is_dataclass(value):
        return {f"{path}.{field.name}": _always_the_same(getattr(value, field.name)) for field in fields(value)}
    return {path: value}


def _always_the_same(value: Any) -> Any:
    """A mixture without what may change at any time; any other value as it is."""
    if isinstance(value, tuple) and value and isinstance(value[0], MixturePart):
        return tuple(replace(part, skip_bad_rows=False) for part in value)
    return value


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
