"""A run: the folder that a recipe makes, and what is done in it."""

import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from lanbot.config import recipe_file
from lanbot.config.recipe import Recipe
from lanbot.core.console import say
from lanbot.core.errors import UserError
from lanbot.core.files import beside, write_atomic
from lanbot.core.options import Options

OPERATIONAL = (
    *("checkpoint_every", "checkpoint_minutes", "eval_every", "eval_tokens", "micro_batch"),
    *("pass_every", "skip_bad_rows", "activation_checkpointing"),
)
"""Keys that may change at any time: they do not change what is trained."""

DONE = ("evals.json", "imported.json")
"""A phase is done when one of these is in its folder; imported.json has a `note`, such as "imported from NAME"."""

FAILED = "failed.json"
"""The problem and the remedy, in the folder of a run whose last attempt failed."""

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
    def create(
        cls,
        recipe: Recipe,
        root: Path | None = None,
        options: Options | None = None,
        made_by: Mapping[str, Sequence[str]] | None = None,
    ) -> "Run":
        """The recipe's run, new or resumed; from here on until it ends only this process may train there.

        made_by: of each phase, the keys that it was made by: they may change only until the phase has begun.
        Raises UserError if the folder is in use by another process, cannot be written, or is of another recipe.
        """
        options = options or Options.from_environment()
        folder = (root or options.runs) / recipe.name
        run = cls(folder, recipe, options)
        saved = folder / "recipe.toml"
        try:
            there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
            if there - {LOCK, beside(saved).name} and not saved.is_file():
                raise UserError(f"{folder}: not a run (it has no recipe.toml)", "Choose another --name.")
            folder.mkdir(parents=True, exist_ok=True)
            lock(folder)
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror}", "A run needs a folder that it can write.") from None
        if saved.is_file():
            before = recipe_file.load(saved)
            for phase, keys in (made_by or {}).items():
                if run.begun(phase):
                    _check_same(before, recipe, phase, keys, folder)
        write_atomic(saved, recipe_file.dump(recipe))
        return run

    @classmethod
    def open(cls, name: str, root: Path | None = None, options: Options | None = None, paths: bool = True) -> "Run":
        """The run of this name in the runs' folder; with `paths`, the run at this path otherwise."""
        options = options or Options.from_environment()
        root = root or options.runs
        plain = name not in ("", ".", "..") and os.path.basename(name) == name
        for folder in ([root / name] if plain else []) + ([Path(name)] if name and paths else []):
            if os.path.isfile(folder / "recipe.toml"):
                return cls(folder, recipe_file.load(folder / "recipe.toml"), options)
        names = [path.name for path in list_runs(root)]
        remedy = f"There are: {', '.join(names)}." if names else "There are none yet: lanbot run RECIPE makes one."
        raise UserError(f"{name[:100] or repr(name)}: no such run in {root}", remedy)

    def phase(self, phase: str) -> Path:
        return self.folder / phase

    def begun(self, phase: str) -> bool:
        return self.phase(phase).is_dir()

    def done(self, phase: str) -> bool:
        return any((self.phase(phase) / name).is_file() for name in DONE)

    def imported(self, phase: str) -> bool:
        return (self.phase(phase) / "imported.json").is_file()

    def needs_masters(self, phase: str) -> bool:
        """Whether a phase's model was trained with fp32 masters. An imported one, or one with adapters, may be so large
        that only its weights in the compute dtype fit the device."""
        adapters = getattr(getattr(self.recipe, phase, None), "lora_rank", 0)
        return not (adapters or self.imported(phase))

    def note(self, phase: str) -> str:
        """How a phase came to be done, if not by training."""
        return str(self.read(phase, "imported.json").get("note", ""))

    def last_model(self) -> str | None:
        """The latest phase that is done and has a model."""
        done = (phase for phase in reversed(self.recipe.phase_names) if self.done(phase))
        return next((phase for phase in done if self.checkpoint(phase)), None)

    def checkpoint(self, phase: str) -> str:
        """The name of the checkpoint with which a phase was done; empty if it makes no model."""
        return str(
            next((found["checkpoint"] for name in DONE if "checkpoint" in (found := self.read(phase, name))), "")
        )

    def read(self, phase: str, file: str) -> Any:
        """A JSON file of a phase, {} where there is none. Raises UserError that names it if it is damaged."""
        path = self.phase(phase) / file
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError:
            remedy = f"Delete it, and lanbot run {self.folder / 'recipe.toml'} writes it again."
            raise UserError(f"{path}: empty or damaged", remedy) from None

    def size(self) -> int:
        """Bytes of all files. Those that are renamed or removed meanwhile are left out."""
        total = 0
        for folder, _, files in os.walk(self.folder):
            for name in files:
                with suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total

    def delete(self) -> None:
        """Raises UserError if a process trains there, if it is a link, or if it cannot be deleted."""
        if self.folder.is_symlink():
            raise UserError(f"{self.folder}: a link, not a run's folder", f"Delete the link itself: rm {self.folder}")
        try:
            lock(self.folder)
            shutil.rmtree(self.folder)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be deleted, {error.strerror}", "Check its permissions.") from None
        os.close(_held.pop(self.folder.resolve()))


def list_runs(root: Path | None = None) -> list[Path]:
    root = root or Options.from_environment().runs
    return sorted(path.parent for path in root.glob("*/recipe.toml")) if root.is_dir() else []


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is left out. Raises UserError for other damage."""
    lines = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            if number < text.count("\n") + 1:
                raise UserError(f"{path}, line {number}: not JSON", "Delete the line, or the whole file.") from None
    return lines


def lock(folder: Path) -> None:
    """Locks a run's folder for this process until it ends; does nothing if it has the lock already.

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
        say(f"{folder} cannot be locked ({error.strerror}): make sure that no other process trains there")
    os.ftruncate(file, 0)
    os.write(file, f"{os.getpid()}\n".encode())
    _held[key] = file


def _release() -> None:
    """Closes the locks in a forked child, which must not hold them when its parent is dead."""
    while _held:
        os.close(_held.popitem()[1])


os.register_at_fork(after_in_child=_release)


def difference(before: Recipe, now: Recipe, keys: Sequence[str]) -> str:
    """The first of these keys that differs, and both values; "" if none does."""
    for key in keys:
        old, new = _settings(before, key), _settings(now, key)
        for name in old:
            if old[name] != new.get(name):
                return f"{name} = {_short(old[name])}, not {_short(new.get(name))}"
    return ""


def _check_same(before: Recipe, now: Recipe, phase: str, keys: Sequence[str], folder: Path) -> None:
    if found := difference(before, now, keys):
        problem = f"{folder} is of another recipe: its {phase} was made with {found}"
        raise UserError(problem, f"Choose another --name, or start over: lanbot runs delete {folder.name}")


def _settings(recipe: Recipe, key: str) -> dict[str, Any]:
    """The values of a key, or of a section by their full keys, without the operational ones."""
    value: Any = recipe
    for name in key.split("."):
        value = getattr(value, name, None)
    values = asdict(value) if is_dataclass(value) and not isinstance(value, type) else {"": value}
    return {f"{key}.{name}".strip("."): _lasting(of) for name, of in values.items() if name not in OPERATIONAL}


def _lasting(value: Any) -> Any:
    """A mixture without the operational keys of its parts; any other value as it is."""
    if isinstance(value, tuple) and value and isinstance(value[0], dict):
        return [{name: of for name, of in part.items() if name not in OPERATIONAL} for part in value]
    return value


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
