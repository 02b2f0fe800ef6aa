"""The models that a server has, each loaded when it is first asked."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from lanbot.chat.formats import load_format
from lanbot.core.errors import UserError
from lanbot.models import saved
from lanbot.web.errors import ApiError

if TYPE_CHECKING:
    from lanbot.config.run import Run
    from lanbot.inference.engine import Engine


class Served:
    """A model by the name that clients use."""

    def __init__(self, name: str, load: Callable[[], "Engine"]) -> None:
        self.name, self.created = name, int(time.time())
        self._load, self._lock = load, Lock()
        self._engine: Engine | None = None

    @property
    def engine(self) -> "Engine":
        """Loads it if need be, which takes a while: not for the server's thread."""
        with self._lock:
            if self._engine is None:
                self._engine = self._load()
            return self._engine


class Models(Mapping[str, Served]):
    """By name; the first one is what the server is for. Another name may mean the same model."""

    def __init__(self, models: Iterable[Served], aliases: Mapping[str, str] | None = None) -> None:
        self.models = {model.name: model for model in models}
        self.aliases = dict(aliases or {})

    def __getitem__(self, name: str) -> Served:
        return self.models[self.aliases.get(name, name)]

    def __iter__(self) -> Iterator[str]:
        return iter([*self.aliases, *self.models])

    def __len__(self) -> int:
        return len(self.aliases) + len(self.models)

    def find(self, name: str) -> Served:
        """Raises ApiError if there is none."""
        if name not in self:
            listed = ", ".join(self)
            raise ApiError(404, f"no model {name[:100]!r}; there are: {listed}", "model", "model_not_found")
        return self[name]


def of_run(run: "Run") -> Models:
    """The run's name is its latest model; NAME/PHASE is the one of a phase. Raises UserError if it has none."""
    phases = [phase for phase in run.recipe.phase_names if run.done(phase) and run.checkpoint(phase)]
    folders = {phase: run.phase(phase) / run.checkpoint(phase) for phase in reversed(phases)}
    found = {phase: folder for phase, folder in folders.items() if (folder / "config.json").is_file()}
    if not found:
        raise UserError(f"{run.folder}: no model yet", "Run its recipe first: lanbot run RECIPE.")
    name = run.folder.resolve().name
    if problem := saved.damage(next(iter(found.values()))):
        raise UserError(f"{next(iter(found.values()))} is damaged: {problem}", "Run the phase again.")
    models = [Served(f"{name}/{phase}", partial(load, folder, len(found))) for phase, folder in found.items()]
    return Models(models, {name: models[0].name})


def of_folder(folder: Path) -> Models:
    """A model's folder, of this name."""
    return Models([Served(folder.resolve().name, partial(load, folder))])


def load(folder: Path, models: int = 1) -> "Engine":
    """The engine of a model's folder, in the machine's best type. models: how many share the memory.

    Raises UserError.
    """
    from lanbot.distributed.runtime import Runtime
    from lanbot.inference.engine import Engine, default_memory
    from lanbot.models.weights import load_model

    runtime = Runtime.single()
    memory = default_memory() // min(models, 2)  # rarely are more than two in use
    return Engine(load_model(folder, runtime.dtype, runtime.device), load_format(folder), memory=memory)
