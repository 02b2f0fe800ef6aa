"""The models that a server has: each is loaded when it is first asked, and the one whose use is longest ago gives way
to another if both do not fit."""

import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from lanbot.chat.formats import load_format
from lanbot.core import hardware
from lanbot.core.errors import UserError
from lanbot.models import saved
from lanbot.models.config import ModelConfig
from lanbot.web.errors import ApiError

if TYPE_CHECKING:
    from lanbot.config.run import Run
    from lanbot.inference.engine import Engine


SHARE = 0.75
"""Of the memory, for the models of a run with their keys and values."""


class Room:
    """The engines that are loaded, `budget` bytes at most, as far as is known before they are used."""

    def __init__(self, budget: float = math.inf) -> None:
        self.budget = budget
        self._held: dict[Served, Engine] = {}
        """By use, the latest last."""
        self._lock, self._loading = Lock(), Lock()

    def engine(self, served: "Served") -> "Engine":
        """Loads it if need be, which takes a while: not for the server's thread."""
        found = self._found(served)
        if found is not None:
            return found
        with self._loading:
            if (found := self._found(served)) is None:
                self._make_room(served.bytes)
                found = served.load()
                with self._lock:
                    self._held[served] = found
            return found

    def _found(self, served: "Served") -> "Engine | None":
        with self._lock:
            if served in self._held:
                self._held[served] = self._held.pop(served)
            return self._held.get(served)

    def _make_room(self, wanted: int) -> None:
        """A dropped engine still ends the answers that it generates."""
        with self._lock:
            before = len(self._held)
            while self._held and wanted + sum(one.bytes for one in self._held) > self.budget:
                del self._held[next(iter(self._held))]
            dropped = before - len(self._held)
        if dropped:
            gc.collect()


class Served:
    """A model by the name that clients use. context: the most tokens of a conversation with its
    answer. bytes: what it takes once loaded."""

    def __init__(
        self,
        name: str,
        load: Callable[[], "Engine"],
        context: int,
        bytes: int = 0,
        room: Room | None = None,
    ) -> None:
        self.name, self.load, self.context, self.bytes = name, load, context, bytes
        self.created = int(time.time())
        self._room = room or Room()

    @property
    def engine(self) -> "Engine":
        """Loads it if need be, which takes a while: not for the server's thread."""
        return self._room.engine(self)


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
    room = Room(SHARE * hardware.total())
    models = [_served(f"{name}/{phase}", folder, room, len(found)) for phase, folder in found.items()]
    return Models(models, {name: models[0].name})


def of_folder(folder: Path) -> Models:
    """A model's folder, of this name."""
    return Models([_served(folder.resolve().name, folder, Room(), 1)])


def _served(name: str, folder: Path, room: Room, models: int) -> Served:
    """models: how many share the memory. Raises UserError."""
    from lanbot.distributed.runtime import Runtime

    runtime, config = Runtime.single(), ModelConfig.from_hf(folder / "config.json")
    memory = hardware.for_cache() // min(models, 2)  # rarely are more than two in use
    weights = config.params() * 2 * runtime.dtype.itemsize  # the model and the copy that generates
    return Served(name, partial(load, folder, memory), config.context, weights + memory, room)


def load(folder: Path, memory: int) -> "Engine":
    """The engine of a model's folder, in the machine's best type. memory: bytes for keys and values.

    Raises UserError.
    """
    from lanbot.distributed.runtime import Runtime
    from lanbot.inference.engine import Engine
    from lanbot.models.weights import load_model

    runtime = Runtime.single()
    return Engine(load_model(folder, runtime.dtype, runtime.device, masters=False), load_format(folder), memory=memory)
