"""A run of the store, or what is new of it, into the runs folder. A newer or different run there is never touched."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lanbot.cloud import storage
from lanbot.cloud.prepared import RECIPE, TOKENIZER, counted, recipes_differ
from lanbot.cloud.stores import Store, safe
from lanbot.cloud.sync import NODE, STEP_FILE, RunSync, steps_of
from lanbot.config import recipe_file
from lanbot.config.recipe import Recipe
from lanbot.config.run import DONE, LOCK, Run, lock
from lanbot.core.console import Progress, say, size
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.models import saved
from lanbot.phases.phase import phases_of

MARK = ".fetching"
"""In a folder that is no run yet, because its first fetch has not ended."""


def fetch(url: str, name: str, options: Options) -> Run:
    """Raises UserError if the store has no such run, or if the one here is newer, different or in use."""
    remedy = "Check --store, its credentials and the disk; the same command resumes."
    with storage.opened(url, "fetched from", remedy) as store, tempfile.TemporaryDirectory() as folder:
        return _Fetch(store, options.runs / name, Path(folder), options).run()


class _Fetch:
    def __init__(self, store: Store, folder: Path, beside: Path, options: Options) -> None:
        """beside: a temporary folder."""
        self.store, self.folder, self.beside, self.options = store, folder, beside, options
        self.sync = RunSync(store, folder.name, folder)
        prefix = self.sync.prefix
        listed = {name.removeprefix(prefix): entry.size for name, entry in store.names(prefix).items()}
        self.sizes = {name: listed[name] for name in sorted(listed) if safe(name) and _is_kept(name)}
        """Of the run's files in the store."""
        steps = steps_of(self.sizes)
        self.steps = {step: files for step, files in steps.items() if f"{step}/manifest.json" in files}

    def run(self) -> Run:
        if RECIPE not in self.sizes:
            remedy = "It is there once its first files are pushed: lanbot cloud status. Or name another --store."
            raise UserError(f"{self.store.url}: it has no run {self.folder.name}", remedy)
        recipe = recipe_file.load(self._read(RECIPE))
        self._claim()
        here = Run(self.folder, recipe, self.options)
        if (self.folder / RECIPE).is_file():
            self._check_same(recipe)
        names = [phase.name for phase in phases_of(recipe)]
        fresh = [name for name in names if (self.newest(name) or self.done(name)) and self._is_new(here, name)]
        self._pull(fresh, [name for name in names if here.done(name)])
        (self.folder / MARK).unlink(missing_ok=True)
        if lost := [name for name in fresh if self.newest(name) and not saved.steps(self.folder / name)]:
            problem = f"{self.store.url}: no checkpoint of {', '.join(lost)} is undamaged; the rest was fetched"
            raise UserError(problem, f"Train it again: lanbot cloud launch --phase {'+'.join(lost)}")
        return Run.open(self.folder.name, options=self.options)

    # -- the store

    def newest(self, phase: str) -> str:
        """The newest whole checkpoint of a phase; "" if there is none."""
        found = [step for step in self.steps if step.startswith(f"{phase}/")]
        return max(found, key=lambda step: saved.step_of(Path(step)), default="")

    def done(self, phase: str) -> dict[str, Any] | None:
        """What says that a phase is done; None if nothing does."""
        for name in (f"{phase}/{file}" for file in DONE):
            if name in self.sizes:
                found: dict[str, Any] = json.loads(self._read(name).read_text(encoding="utf-8"))
                return found
        return None

    def _read(self, name: str) -> Path:
        local = self.beside / name
        if not local.is_file():
            self.store.pull(self.sync.prefix + name, local)
        return local

    # -- what is here

    def _claim(self) -> None:
        there = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        if there - {LOCK} and not there & {RECIPE, MARK}:
            remedy = "Move it away, or choose another LANBOT_RUNS."
            raise UserError(f"{self.folder}: not a run (it has no recipe.toml)", remedy)
        self.folder.mkdir(parents=True, exist_ok=True)
        lock(self.folder)
        if RECIPE not in there:
            (self.folder / MARK).touch()

    def _check_same(self, recipe: Recipe) -> None:
        run = Run(self.folder, recipe_file.load(self.folder / RECIPE), self.options)
        begun = [phase for phase in phases_of(run.recipe) if run.begun(phase.name)]
        if found := recipes_differ(recipe, run.recipe, run, begun):
            raise self._refused(f"it is of another recipe, {found} here")
        tokenizer = self.folder / TOKENIZER
        if tokenizer.is_file() and TOKENIZER in self.sizes and self._other(TOKENIZER):
            raise self._refused("its tokenizer is another one")

    def _is_new(self, here: Run, phase: str) -> bool:
        """Whether the store has more of a phase. Raises UserError if there is more of it here, or another one."""
        theirs, done = self.newest(phase), self.done(phase)
        if here.done(phase):
            if done is None:
                raise self._refused(f"its {phase} is done here, and is not there")
            checkpoint = here.checkpoint(phase)
            manifest = f"{phase}/{checkpoint}/manifest.json"
            if checkpoint != done.get("checkpoint", "") or (checkpoint and self._other(manifest)):
                raise self._refused(f"its {phase} ended with another model")
            return bool(checkpoint) and saved.damage(here.phase(phase) / checkpoint) is not None
        ours = saved.latest(here.phase(phase))
        if ours and (not theirs or saved.step_of(ours) > saved.step_of(Path(theirs))):
            raise self._refused(f"its {phase} is at {ours.name} here")
        if ours and f"{phase}/{ours.name}" in self.steps:
            other = self._other(f"{phase}/{ours.name}/manifest.json")
        else:
            other = not self._continues(phase, ours)
        if other:
            raise self._refused(f"its {phase} was trained here too, to another model")
        return True

    def _continues(self, phase: str, ours: Path | None) -> bool:
        """Whether the store's metrics have the line of our checkpoint, or the last one if there is no checkpoint."""
        name = f"{phase}/metrics.jsonl"
        if not (self.folder / name).is_file() or (self.folder / MARK).is_file():
            return True
        last = saved.step_of(ours) if ours else float("inf")
        lines = [line for line in (self.folder / name).read_bytes().splitlines() if _step(line) <= last]
        theirs = self._read(name).read_bytes().splitlines() if name in self.sizes else []
        return not lines or lines[-1] in theirs

    def _other(self, name: str) -> bool:
        """Whether a file differs from the store's."""
        return self.store.problem(self.folder / name, self.sync.prefix + name) is not None

    def _refused(self, why: str) -> UserError:
        remedy = f"Keep it under another name (mv), or delete it (lanbot runs delete {self.folder.name}); then fetch."
        return UserError(f"{self.folder}: {why}, so the run in {self.store.url} is not fetched", remedy)

    # -- fetching

    def _pull(self, fresh: Iterable[str], done: Iterable[str]) -> None:
        """The phases that are new; of those that are done here, and of the run itself, what is missing."""
        plain = [name for name in self.sizes if not STEP_FILE.fullmatch(name) and name != RECIPE]
        wanted = [name for name in plain if self._wanted(name, set(fresh), set(done))]
        if not (self.folder / RECIPE).is_file():
            wanted.append(RECIPE)
        steps = [file for phase in fresh if (step := self.newest(phase)) for file in self.steps[step]]
        total = sum(self.sizes[name] for name in [*steps, *wanted])
        say(f"fetching {self.folder.name} from {self.store.url}: {size(total)}" if total else "nothing new")
        with Progress("fetching", total, "bytes") as progress:
            self.sync.fetched = counted(self.store, progress, self.sizes)
            for phase in fresh:
                if (self.folder / self.newest(phase)).is_dir() and not saved.damage(self.folder / self.newest(phase)):
                    continue
                self.sync.pull_newest(phase, self.steps)
            ends = [name for name in wanted if name.rpartition("/")[2] in DONE]
            for name in [name for name in wanted if name not in (*ends, RECIPE)] + ends:
                self.sync.fetch(name)
            for name in ends:
                self.sync.check_done(self.folder / name)
            if RECIPE in wanted:
                self.sync.fetch(RECIPE)

    def _wanted(self, name: str, fresh: set[str], done: set[str]) -> bool:
        phase, _, below = name.partition("/")
        if phase in fresh or (not below and fresh and phase.startswith("report.")):
            return True
        known = not below or phase in done
        return known and not (self.folder / name).is_file()


def _is_kept(name: str) -> bool:
    """Not what the machine says of itself, and nothing hidden, except in checkpoints."""
    hidden = any(part.startswith(".") for part in name.split("/"))
    return STEP_FILE.fullmatch(name) is not None or not (hidden or name.startswith(NODE))


def _step(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return 0.0
