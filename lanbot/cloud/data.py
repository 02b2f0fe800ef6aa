"""Data that a recipe names by a path: a rented machine has none of this one's files, so they are sent to the store."""

from collections.abc import Collection, Mapping
from pathlib import Path

from lanbot.cloud import storage
from lanbot.config.recipe import Recipe
from lanbot.core.console import say, size
from lanbot.core.errors import UsageError
from lanbot.phases.phase import phases_of

UPLOAD = "Upload it as a data set, and name that: hf:OWNER/NAME."


def named(recipe: Recipe, phases: Collection[str]) -> list[str]:
    """The files of conversations that the recipe's mixtures name (jsonl:PATH): of all phases, because all are searched
    for test items. Raises UsageError for raw text on this machine, which may be of any size."""
    tasks = [part.task for phase in phases_of(recipe) for part in getattr(phase.settings(recipe), "mixture", ())]
    texts = [task.partition(":")[2] for task in tasks if task.startswith("corpus:")]
    if {phase.name for phase in phases_of(recipe) if "corpus" in phase.needs} & set(phases):
        texts.append(recipe.base.data)
    for text in texts:
        if not text.startswith(("hf:", "builtin:")):
            raise UsageError(f"{text}: a rented machine cannot read what is on this one", UPLOAD)
    return sorted({task.partition(":")[2] for task in tasks if task.startswith("jsonl:")})


def stored(paths: Collection[str], run: str) -> dict[str, str]:
    """Where the store keeps those that are here: name by path. Raises UsageError for a path that a machine could not
    have."""
    for path in paths:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            remedy = "Start in the folder that has the file, and name it from there: jsonl:FILE.jsonl."
            raise UsageError(f"jsonl:{path}: a rented machine has no such folder", remedy)
        if Path(path).is_dir():
            raise UsageError(f"jsonl:{path}: a folder, of which a rented machine has nothing", UPLOAD)
    return {path: f"data/{run}/{path}" for path in paths if Path(path).is_file()}


def send(data: Mapping[str, str], url: str) -> None:
    """Pushes what the store lacks; it has those that are not here."""
    here = {path: name for path, name in data.items() if Path(path).is_file()}
    if not here:
        return
    with storage.opened(url, "written", "Check --store, and that its credentials may write.") as store:
        there = store.names("data/")
        for path, name in here.items():
            if name not in there or store.problem(Path(path), name):
                say(f"sending {path} to {url}: {size(Path(path).stat().st_size)}")
                store.push({name: Path(path)})
