"""What a run has ready on this machine: sent to the store before one is rented, which then need not make it again."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lanbot.cloud import storage
from lanbot.cloud.stores import Entry, Store
from lanbot.cloud.sync import SMALL, steps_of
from lanbot.config import recipe_file
from lanbot.config.recipe import Recipe
from lanbot.config.run import DONE, Run, difference
from lanbot.core.console import Progress, say, size
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.models import saved
from lanbot.phases import pipeline
from lanbot.phases.phase import Phase, phases_of
from lanbot.tasks import contamination

RECIPE, TOKENIZER = "recipe.toml", "tokenizer/tokenizer.json"
OTHER_NAME = "Launch it under another --run-name"


@dataclass(frozen=True)
class Prepared:
    """A run of this machine, and its finished phases that come before what is launched."""

    run: Run
    phases: Sequence[Phase] = ()

    @property
    def names(self) -> list[str]:
        return [phase.name for phase in self.phases]

    def send(self, url: str) -> None:
        """Pushes what the store lacks. Raises UserError if the store's run is another one, with nothing pushed."""
        if not self.phases:
            return
        with storage.opened(url, "written", "Check --store, and that its credentials may write.") as store:
            files = self.lacking(store)
            sizes = {name: (self.run.folder / name).stat().st_size for name in files}
            if not files:
                return
            what = f"sending {self.run.folder} to {url}"
            say(f"{what}: {', '.join(self.names)}, {size(sum(sizes.values()))}")
            with Progress("sending", sum(sizes.values()), "bytes") as progress:
                arrived = counted(store, progress, sizes)
                for batch in _batches(sizes):
                    store.push({f"runs/{self.run.folder.name}/{name}": self.run.folder / name for name in batch})
                    for name in batch:
                        arrived(name)

    def lacking(self, store: Store) -> list[str]:
        """The files to send, in their order: a manifest after its checkpoint, what says that a phase is done after
        the phase, and the recipe, which makes it a run, at the end. Raises UserError if the store's run differs."""
        prefix = f"runs/{self.run.folder.name}/"
        there = {name.removeprefix(prefix): entry for name, entry in store.names(prefix).items()}
        self._compare(store, prefix, there)
        wanted = []
        for phase in self.phases:
            if not self._continues(store, prefix, phase.name, there):
                break
            if not any(f"{phase.name}/{name}" in there for name in DONE):
                wanted += _files(self.run, phase.name)
        if wanted and (self.run.folder / contamination.FILE).is_file() and contamination.FILE not in there:
            wanted.append(contamination.FILE)
        lacking = [name for name in wanted if name not in there or store.problem(self.run.folder / name, prefix + name)]
        return lacking + ([RECIPE] if wanted and RECIPE not in there else [])

    def _compare(self, store: Store, prefix: str, there: dict[str, Entry]) -> None:
        differs = ""
        if RECIPE in there:
            with tempfile.TemporaryDirectory() as folder:
                store.pull(prefix + RECIPE, Path(folder, RECIPE))
                before = recipe_file.load(Path(folder, RECIPE))
            differs = recipes_differ(before, self.run.recipe, self.run, self.phases)
        tokenizer = self.run.folder / TOKENIZER
        if not differs and tokenizer.is_file() and TOKENIZER in there and store.problem(tokenizer, prefix + TOKENIZER):
            differs = "another tokenizer"
        if differs:
            problem = f"{store.url}: its run {self.run.folder.name} differs from {self.run.folder}: {differs}"
            remedy = f"{OTHER_NAME}, or delete the one that is wrong: {prefix} there, or lanbot runs delete here."
            raise UserError(problem, remedy)

    def _continues(self, store: Store, prefix: str, phase: str, there: dict[str, Entry]) -> bool:
        """Whether the store's phase, where it has begun, is this one: others are not mixed with it."""
        ours, done = self.run.checkpoint(phase), any(f"{phase}/{name}" in there for name in DONE)
        manifest = f"{phase}/{ours}/manifest.json"
        if manifest in there:
            return store.problem(self.run.folder / manifest, prefix + manifest) is None
        others = [step for step, files in steps_of(there).items() if f"{step}/manifest.json" in files]
        return not (ours and done) and not any(step.startswith(f"{phase}/") for step in others)


def counted(store: Store, progress: Progress, sizes: Mapping[str, int]) -> Callable[[str], None]:
    """What to call with the name of each file that is done; meanwhile the store's own counts are shown."""
    done: dict[str, int] = {}
    moving = 0

    def moved(count: int) -> None:
        nonlocal moving
        moving += count
        progress.show(min(sum(done.values()) + moving, sum(sizes.values())))

    def arrived(name: str) -> None:
        nonlocal moving
        done[name], moving = sizes[name], 0
        progress.show(sum(done.values()), name)

    store.moved = moved
    return arrived


def find(recipe: Recipe, job: dict[str, Any], options: Options) -> Prepared:
    """Raises UserError if the run here is of another recipe, or has all that is to be launched."""
    folder = options.runs / recipe.name
    if job["source"] or not (folder / RECIPE).is_file():
        return Prepared(Run(folder, recipe, options))
    run = Run(folder, recipe_file.load(folder / RECIPE), options)
    phases = []
    for phase in phases_of(run.recipe):
        if not run.done(phase.name):
            break
        phases.append(phase)
    if found := recipes_differ(run.recipe, recipe, run, phases):
        problem = f"{folder} is of another recipe, {found}: it cannot be sent to the machine"
        raise UserError(problem, f"{OTHER_NAME}, or delete it: lanbot runs delete {recipe.name}")
    chosen = pipeline.choose(recipe, job["phases"])
    if not {phase.name for phase in chosen} - {phase.name for phase in phases}:
        what = f"--phase {job['phases']}: done already in {folder}"
        raise UserError(what, f"{OTHER_NAME}, or delete it: lanbot runs delete {recipe.name}")
    return Prepared(run, phases)


def recipes_differ(before: Recipe, now: Recipe, run: Run, phases: Sequence[Phase]) -> str:
    """The first difference between two recipes in what these phases of the run were made by; "" if there is none."""
    origins = [recipe.model.init_from.partition("#")[0] for recipe in (before, now)]
    if all(origins) and origins[0] != origins[1]:
        return f"model.init_from = {origins[0]}, not {origins[1]}"
    trained = [phase for phase in phases if not run.imported(phase.name)]
    return next((found for phase in trained if (found := difference(before, now, phase.made_by))), "")


def _files(run: Run, phase: str) -> list[str]:
    """Of a finished phase: its plain files, the checkpoint that it was done with, and what says that it is done."""
    names = [path.relative_to(run.folder).as_posix() for path in sorted(run.phase(phase).rglob("*")) if path.is_file()]
    plain = [
        name
        for name in names
        if not any(part.startswith(".") or saved.STEP.fullmatch(part) for part in name.split("/"))
    ]
    last = [name for name in plain if name.rpartition("/")[2] in DONE]
    checkpoint = run.checkpoint(phase)
    if checkpoint:
        step = run.phase(phase) / checkpoint
        if problem := saved.damage(step):
            raise UserError(f"{step}: it is damaged, {problem}", f"Make it again, or {OTHER_NAME.lower()}.")
        manifest = json.loads((step / "manifest.json").read_text(encoding="utf-8"))
        plain += [f"{phase}/{checkpoint}/{name}" for name in (*manifest["files"], "manifest.json")]
    return [name for name in plain if name not in last] + last


def _batches(sizes: dict[str, int]) -> Iterator[list[str]]:
    """In their order; small files together, because each push to the hub is a commit."""
    batch: list[str] = []
    for name, count in sizes.items():
        apart = name == RECIPE or name.rpartition("/")[2] in ("manifest.json", *DONE)
        if batch and (apart or sum(sizes[one] for one in batch) + count > SMALL):
            yield batch
            batch = []
        batch.append(name)
    if batch:
        yield batch
