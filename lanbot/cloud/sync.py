"""A run's folder in a store, at runs/NAME: pushed while it trains, pulled where it goes on.

A reader never takes half of a thing for the whole: a checkpoint's manifest is pushed after its files, what says that a
phase is done after the phase's checkpoint, and recipe.toml, which makes the folder a run, after everything else.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from lanbot.cloud.stores import Content, Store, StoreError, digest, safe
from lanbot.config.run import DONE
from lanbot.core.console import say
from lanbot.core.errors import UserError
from lanbot.models import saved

KEEP = 2
"""Checkpoints of a phase that are kept in the store."""
SMALL = 64 << 20
"""Bytes up to which a file is read before it is pushed, as it may change meanwhile."""
NODE = "node/"
"""What the machine says of itself: beside the run in the store, and never pulled with it."""
STEP_FILE = re.compile(r"([^/]+)/(step_\d+)/(.+)")


class RunSync:
    def __init__(self, store: Store, run: str, folder: Path) -> None:
        self.store, self.prefix, self.folder = store, f"runs/{run}/", folder
        self.pushed: dict[str, str] = {}
        """SHA-256 of the files in the store, by their names in the run."""
        self.stamps: dict[str, tuple[int, int]] = {}
        self.fetched: Callable[[str], None] = lambda name: None
        """Called with the name of each file that has been pulled, or was there."""

    # -- to the store --------------------------------------------------------------------------------------

    def push(self, extra: Mapping[str, Content] | None = None) -> bool:
        """Pushes what is new, and `extra`; whether all is in the store that is in the folder now.

        Raises what the store raises; what was pushed before that need not be pushed again."""
        files = self._files()
        last = [name for name in files if name.rpartition("/")[2] in DONE]
        last += [name for name in ("recipe.toml",) if name in files]
        changed = {name: self._read(name) for name, stamp in files.items() if self.stamps.get(name) != stamp}
        self._put({name: content for name, content in changed.items() if name not in last}, files, extra or {})
        phases = [path for path in sorted(self.folder.iterdir()) if path.is_dir()]
        whole = False not in [self._push_newest(phase) for phase in phases]
        if whole:
            for name in (name for name in last if name in changed):
                self._put({name: changed[name]}, files, {})
        return whole

    def _put(
        self, contents: Mapping[str, Content], stamps: Mapping[str, tuple[int, int]], extra: Mapping[str, Content]
    ) -> None:
        self.store.push({self.prefix + name: content for name, content in {**contents, **extra}.items()})
        for name, content in contents.items():
            self.pushed[name], self.stamps[name] = digest(content), stamps[name]

    def _files(self) -> dict[str, tuple[int, int]]:
        """(size, time of change) of the run's files; without checkpoints and hidden files."""
        found = {}
        for folder, below, files in os.walk(self.folder):
            below[:] = [name for name in below if not name.startswith(".") and not saved.STEP.fullmatch(name)]
            for path in (Path(folder, name) for name in files if not name.startswith(".")):
                state = path.stat()
                found[path.relative_to(self.folder).as_posix()] = (state.st_size, state.st_mtime_ns)
        return found

    def _read(self, name: str) -> Content:
        path = self.folder / name
        return path.read_bytes() if path.stat().st_size <= SMALL else path

    def _push_newest(self, phase: Path) -> bool:
        """Pushes the newest complete checkpoint of a phase, if it has one; False if it went away meanwhile."""
        for step in reversed(saved.steps(phase)):
            name = f"{phase.name}/{step.name}"
            try:
                if self.pushed.get(f"{name}/manifest.json") == digest(step / "manifest.json"):
                    return True
                if problem := saved.damage(step):
                    if not step.is_dir():
                        return False
                    say(f"{step} is damaged ({problem}): it is not pushed")
                    continue
                self._push_step(step, name)
                return True
            except FileNotFoundError:  # the trainer has a newer one, and deletes the oldest
                return False
        return True

    def _push_step(self, step: Path, name: str) -> None:
        manifest = (step / "manifest.json").read_bytes()
        files = {f"{name}/{file}": entry["sha256"] for file, entry in json.loads(manifest)["files"].items()}
        self.store.delete([f"{self.prefix}{name}/manifest.json"])  # of another attempt at this step
        self.store.push({self.prefix + file: self.folder / file for file in files})
        metrics = f"{step.parent.name}/metrics.jsonl"
        if (self.folder / metrics).is_file():  # the lines up to this step
            self.store.push({self.prefix + metrics: self._read(metrics)})
        self.store.push({f"{self.prefix}{name}/manifest.json": manifest})
        self.pushed |= files | {f"{name}/manifest.json": digest(manifest)}
        self._prune(step)

    def _prune(self, newest: Path) -> None:
        """Deletes earlier checkpoints of the phase from the store but KEEP - 1, and those that are not whole."""
        top = f"{newest.parent.name}/"
        steps = steps_of(name.removeprefix(self.prefix) for name in self.store.names(self.prefix + top))
        earlier = {step: files for step, files in steps.items() if _number(step) < saved.step_of(newest)}
        whole = [step for step, files in earlier.items() if f"{step}/manifest.json" in files]
        for step in earlier.keys() - sorted(whole, key=_number)[1 - KEEP :]:
            # its manifest first: from then on it is no checkpoint
            for names in ([f"{step}/manifest.json"], earlier[step]):
                self.store.delete([self.prefix + name for name in names])
            self.pushed = {name: of for name, of in self.pushed.items() if not name.startswith(f"{step}/")}

    def verify(self) -> list[str]:
        """The problems of all that was pushed and is still in the folder, compared with it once more. What has one is
        pushed again by the next push."""
        problems = []
        for name in [name for name in self.pushed if (self.folder / name).is_file()]:
            if found := self.store.verify(self.folder, [name], self.prefix):
                problems += found
                step = STEP_FILE.fullmatch(name)
                self.pushed.pop(f"{step[1]}/{step[2]}/manifest.json" if step else name, None)
                self.stamps.pop(name, None)
        return problems

    def checkpoints(self) -> dict[str, int]:
        """The newest step of each phase that is in the store."""
        return {step.partition("/")[0]: _number(step) for step in sorted(steps_of(self.pushed), key=_number)}

    # -- from the store ------------------------------------------------------------------------------------

    def pull(self) -> bool:
        """Fetches the run with the newest complete checkpoint of each phase; False if the store has no such run.

        A run that is in the folder is left as it is: it is newer. Raises StoreError."""
        if (self.folder / "recipe.toml").is_file():
            return True
        listed = self.store.names(self.prefix)
        names = sorted(short for name in listed if safe(short := name.removeprefix(self.prefix)))
        if "recipe.toml" not in names:
            return False
        steps = steps_of(names)
        plain = [name for name in names if not STEP_FILE.fullmatch(name) and not name.startswith(NODE)]
        for name in plain:
            if name != "recipe.toml" and not any(part.startswith(".") for part in name.split("/")):
                self.fetch(name)
        for phase in sorted({step.partition("/")[0] for step in steps}):
            self.pull_newest(phase, steps)
        for name in plain:
            if name.rpartition("/")[2] in DONE:
                self.check_done(self.folder / name)
        self.fetch("recipe.toml")
        return True

    def fetch(self, name: str, local: Path | None = None) -> None:
        """Pulls a file, unless it is there and equal to the store's."""
        local = local or self.folder / name
        if not local.is_file() or self.store.problem(local, self.prefix + name):
            self.store.pull(self.prefix + name, local)
        self.fetched(name)

    def pull_newest(self, phase: str, steps: Mapping[str, list[str]]) -> None:
        """Pulls the newest complete one of a phase's checkpoints, with what an earlier attempt has left of it."""
        for step in sorted((step for step in steps if step.startswith(f"{phase}/")), key=_number, reverse=True):
            if f"{step}/manifest.json" not in steps[step]:
                continue
            folder = self.folder / step
            beside = folder.with_name(f".{folder.name}.tmp")
            try:
                for name in steps[step]:
                    self.fetch(name, beside / name.removeprefix(f"{step}/"))
                problem = saved.damage(beside)
            except StoreError as error:
                problem = str(error)
            if problem is None:
                shutil.rmtree(folder, ignore_errors=True)  # a damaged one
                beside.rename(folder)
                self.pushed |= {name: digest(self.folder / name) for name in steps[step]}
                say(f"{self.store.url}: {step} pulled")
                return
            shutil.rmtree(beside, ignore_errors=True)
            say(f"{self.store.url}: {step} is damaged ({problem}): using the checkpoint before it")

    def check_done(self, path: Path) -> None:
        """A phase is done only with the checkpoint that it was done with. Without it, it trains on."""
        checkpoint = json.loads(path.read_text(encoding="utf-8")).get("checkpoint")
        if checkpoint and not (path.parent / checkpoint).is_dir():
            path.unlink()
            if path.name == "imported.json":
                problem = f"{self.store.url}: {path.parent.name} was imported, and its model is damaged"
                raise UserError(problem, f"Delete {self.prefix} there, and launch it again.")


def steps_of(names: Iterable[str]) -> dict[str, list[str]]:
    """The files of each checkpoint, PHASE/step_N, of a run."""
    found: dict[str, list[str]] = {}
    for name in names:
        if match := STEP_FILE.fullmatch(name):
            found.setdefault(f"{match[1]}/{match[2]}", []).append(name)
    return found


def _number(step: str) -> int:
    return saved.step_of(Path(step))
