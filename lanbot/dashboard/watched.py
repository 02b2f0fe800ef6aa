"""The runs that a dashboard shows, read again where their files changed."""

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lanbot.config import recipe_file
from lanbot.config.run import Run, list_runs
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.dashboard import process
from lanbot.dashboard.details import ROLLOUTS, core, details, read_rollouts
from lanbot.dashboard.metrics_file import Background, MetricsFile
from lanbot.dashboard.state import read_json, read_tail, state
from lanbot.models.config import ModelConfig

T = TypeVar("T")
METRICS = "metrics.jsonl"
COLOURS = 18
"""Six colours, whole, dashed and dotted."""


class Unknown(LookupError):  # noqa: N818  (not a fault: a run that was deleted)
    """A run or phase that is not there, or no longer."""


class Runs:
    """names: the runs to show, by name or folder; none: all that are in the runs folder at any moment.

    Raises UserError for a name that is no run.
    """

    def __init__(self, names: Sequence[str], options: Options) -> None:
        self.options = options
        self._named = _short_names([Run.open(name, options=options).folder for name in names])
        self._files: dict[Path, MetricsFile] = {}
        self._known: dict[tuple[Path, Callable[..., Any]], tuple[tuple[int, ...], Any]] = {}
        self._colours: dict[str, int] = {}
        self._background = Background()
        self._lock = threading.Lock()

    @property
    def named(self) -> bool:
        return bool(self._named)

    def folders(self) -> dict[str, Path]:
        """By the names that the page has for them; only those that are there."""
        if self._named:
            return {name: folder for name, folder in self._named.items() if (folder / "recipe.toml").is_file()}
        return {folder.name: folder for folder in list_runs(self.options.runs)}

    def open(self, name: str) -> Run:
        """Raises Unknown, and UserError if its recipe is damaged."""
        folder = self.folders().get(name)
        if folder is None:
            raise Unknown(f"no such run: {name[:100]}")
        return self._opened(folder)

    def rows(self) -> list[dict[str, Any]]:
        """Of each run its state, its colour, which it keeps, and what changes whenever a phase has new metrics."""
        folders, held = self.folders(), process.holders()
        with self._lock:
            self._forget(folders)
            for name in folders:
                taken = set(self._colours.values())
                free = next((i for i in range(COLOURS) if i not in taken), len(self._colours) % COLOURS)
                self._colours.setdefault(name, free)
        return [self._row(name, folder, held) for name, folder in folders.items()]

    def _row(self, name: str, folder: Path, held: Any) -> dict[str, Any]:
        row: dict[str, Any] = {"name": name, "colour": self._colours.get(name, 0), "versions": {}}
        try:
            run = self._opened(folder)
            tails = {}
            for phase in run.recipe.phase_names:
                path = run.phase(phase) / METRICS
                if version := _version(path):
                    row["versions"][phase] = ".".join(map(str, version))
                    tails[phase] = self._cached(path, read_tail)
            found = state(run, tails, held, lambda path: self._cached(path, read_json))
            json.dumps(found, allow_nan=False)  # raises what would otherwise spoil the answer for all runs
            return row | found
        except UserError as error:
            problem = error.problem
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # hides no other run
            problem = f"{folder}: its files are not as LanBot writes them ({type(error).__name__}: {error})"
        return row | {"status": "damaged", "problem": problem, "phases": {}}

    def curves(self, name: str, phase: str, clock: str, points: int, *between: float | None) -> dict[str, Any]:
        """Course.curves of a phase. Raises Unknown and UserError."""
        run = self.open(name)
        if phase not in run.recipe.phase_names:
            raise Unknown(f"no such phase: {phase[:100]}")
        path = run.phase(phase) / METRICS
        with self._lock:
            file = self._files.setdefault(path, MetricsFile(path))
        found = file.curves(self._background, clock, flops_per_token(run, phase), points, *between)
        if (measured := core(run, phase)) and "core" not in found["dots"]:
            found["dots"]["core"] = {"x": [found["end"]], "mean": [measured["core"]]}
        return found

    def details(self, name: str) -> dict[str, Any]:
        """Raises Unknown and UserError."""
        return details(self.open(name))

    def rollouts(self, name: str, phase: str) -> dict[int, list[dict[str, Any]]]:
        """RL's, by step. Raises Unknown and UserError."""
        run = self.open(name)
        if phase not in run.recipe.phase_names:
            raise Unknown(f"no such phase: {phase[:100]}")
        return self._cached(run.phase(phase) / ROLLOUTS, read_rollouts)

    def _opened(self, folder: Path) -> Run:
        return Run(folder, self._cached(folder / "recipe.toml", recipe_file.load), self.options)

    def _cached(self, path: Path, read: Callable[[Path], T]) -> T:
        """What `read` says of a file, until the file changes."""
        place, version = (path, read), _version(path)
        known = self._known.get(place)
        if known is None or known[0] != version:
            known = self._known[place] = (version, read(path))
        found: T = known[1]
        return found

    def _forget(self, folders: dict[str, Path]) -> None:
        """What is held of runs that are gone."""
        kept = set(folders.values())
        self._colours = {name: colour for name, colour in self._colours.items() if name in folders}
        self._files = {path: file for path, file in self._files.items() if path.parent.parent in kept}
        self._known = {
            place: known
            for place, known in self._known.items()
            if place[0].parent in kept or place[0].parent.parent in kept
        }


def _short_names(folders: Sequence[Path]) -> dict[str, Path]:
    """Each folder by the end of its path that no other one has."""
    places = {folder.resolve(): folder for folder in folders}
    found = {}
    for place, folder in places.items():
        ends = ["/".join(place.parts[-n:]) for n in range(1, len(place.parts))]
        others = [f"/{other}" for other in places if other != place]
        found[next((end for end in ends if not any(one.endswith(f"/{end}") for one in others)), str(place))] = folder
    return found


def flops_per_token(run: Run, phase: str) -> float | None:
    """What a token of a phase's training takes; None where tokens are sampled, not read."""
    recipe, settings = run.recipe, getattr(run.recipe, phase, None)
    sequence = getattr(settings, "sequence", None)
    if settings is None or not hasattr(settings, "batch_tokens"):
        return None
    one = ModelConfig.of_recipe(recipe).flops_per_token(
        sequence or recipe.model.longest, getattr(settings, "softmax_tokens", None) or None
    )
    return one * (2 / 3 if getattr(settings, "lora_rank", 0) else 1)


def _version(path: Path) -> tuple[int, ...]:
    """Of a file that is there: what is different once it was written."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_ino, status.st_size, status.st_mtime_ns)
