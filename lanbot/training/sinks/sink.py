"""What a sink is: other software that shows the figures of a phase while it trains."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lanbot.config.recipe import Recipe
from lanbot.core.errors import UserError

PROJECT = "lanbot"
"""In software that has projects."""


@dataclass(frozen=True)
class Place:
    """What a sink knows of the phase whose figures it gets."""

    phase: str
    id: str
    """The same whenever the phase resumes, another one where it is trained anew."""
    folder: Path
    """For files of the sink; it is there."""
    sent: int
    """The last step that the sink was sent before; -1 in the beginning."""
    recipe: Recipe

    @property
    def name(self) -> str:
        return f"{self.recipe.name}/{self.phase}"


class Sink(ABC):
    """A phase's figures in other software: opened when there are any, and again when the phase resumes.

    All methods are called in one thread, which is not the main one. Whatever they raise is shown once, and the sink is
    opened again later, from the last step that was flushed. Keys come from the environment, where the software itself
    looks for them.
    """

    name: ClassVar[str]
    """Its package and its extra."""

    @classmethod
    def check(cls) -> None:
        """Raises UserError if it cannot work: before training begins, without opening anything."""
        if importlib.util.find_spec(cls.name) is None:
            problem = f"log.sinks: the package {cls.name} is not installed"
            raise UserError(problem, f"pip install 'lanbot[{cls.name}]', or leave {cls.name} out of log.sinks.")

    @abstractmethod
    def __init__(self, place: Place) -> None: ...

    @abstractmethod
    def figures(self, step: int, values: dict[str, float]) -> None:
        """The figures of a step by name; a step may get several calls, each with other names."""

    @abstractmethod
    def samples(self, step: int, rows: Sequence[tuple[str, str]]) -> None:
        """Questions and the model's answers after the last step."""

    def flush(self) -> None:  # noqa: B027  (some keep nothing back)
        """Returns when what was sent will survive a kill."""

    @abstractmethod
    def close(self) -> None:
        """After a phase, also after one that was stopped."""
