"""What a phase is: one class in one file. A recipe names a built-in one, or yours as module:Class."""

from abc import ABC, abstractmethod
from itertools import takewhile
from typing import Any, ClassVar

from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import PHASES, ChatTraining, Recipe
from lanbot.config.run import Run
from lanbot.core.errors import UsageError, UserError
from lanbot.core.options import Options
from lanbot.core.plugins import load_object
from lanbot.distributed.runtime import Runtime
from lanbot.tasks.contamination import Source
from lanbot.tasks.mixture_stats import Plan, Questions, plan_corpus, plan_mixture, plan_questions


class Phase(ABC):
    """One step of the pipeline: it reads what earlier phases made, trains, and is evaluated."""

    name: ClassVar[str]
    """Also its section in the recipe and its folder in the run."""
    description: ClassVar[str] = ""
    """What its model does, for the report: "continues text"."""
    Settings: ClassVar[type] = ChatTraining
    """The section: a pydantic dataclass with a default for every key."""
    needs: ClassVar[tuple[str, ...]] = ("tokenizer", "model")
    """What must be there: "corpus" (the base corpus), and "tokenizer" and "model" from earlier phases."""
    makes: ClassVar[str] = "model"
    """What it leaves for later phases: "model" or "tokenizer"."""
    rewards: ClassVar[bool] = False
    """Whether its mixture's tasks must be able to check an answer."""

    @property
    def made_by(self) -> tuple[str, ...]:
        """The keys of the recipe that may change only until the phase has begun."""
        return ("identity", self.name)

    def settings(self, recipe: Recipe) -> Any:
        return getattr(recipe, self.name)

    def eval_limit(self, recipe: Recipe) -> int:
        """Items of each task that its evaluation asks."""
        return recipe.evals.limit

    def preflight(self, run: Run, runtime: Runtime) -> None:  # noqa: B027  (most phases have nothing to add)
        """Raises UserError for what can be known to fail, besides what preflight.py checks for every phase."""

    def plan(self, recipe: Recipe, chat_format: ChatFormat, options: Options) -> Plan | Questions | None:
        """An estimate of what its model will train on, for `lanbot data plan`."""
        if self.makes != "model":
            return None
        if "corpus" in self.needs:
            return plan_corpus(self.name, recipe, chat_format, options)
        if self.rewards:
            return plan_questions(self.name, recipe, chat_format, options)
        return plan_mixture(self.name, recipe, chat_format, options)

    @abstractmethod
    def train(self, run: Run, runtime: Runtime) -> None:
        """Trains the phase, or resumes it. All ranks call it."""

    def evaluate(self, run: Run, runtime: Runtime, began: float | None = None) -> None:
        """Writes evals.json, by which the phase is done. began: when the phase did, by time.monotonic."""
        from lanbot.phases import evaluation  # it asks the recipe's phases in turn

        evaluation.evaluate(run, self.name, runtime, began=began)

    def results(self, run: Run) -> dict[str, Any]:
        """What else belongs in evals.json."""
        return {}

    def is_done(self, run: Run) -> bool:
        """It was trained and evaluated, or imported."""
        return run.done(self.name)


def phases_of(recipe: Recipe) -> list[Phase]:
    """The recipe's phases in their order."""
    return [load_object(PHASES.get(phase, phase), "phases")() for phase in recipe.phases]


def phase_of(recipe: Recipe, name: str) -> Phase:
    for phase in phases_of(recipe):
        if phase.name == name:
            return phase
    raise UsageError(f"--phase {name}: no such phase", f"Phases: {', '.join(recipe.phase_names)}.")


def model_before(recipe: Recipe, name: str) -> str:
    """The phase whose model `name` starts from. Raises UserError if there is none."""
    earlier = takewhile(lambda phase: phase.name != name, phases_of(recipe))
    models = [phase.name for phase in earlier if phase.makes == "model"]
    if not models:
        raise UserError(f"{name} starts from a model, and no phase before it makes one", "Add base to `phases`.")
    return models[-1]


def sources(recipe: Recipe) -> list[Source]:
    """What the recipe's models are trained on, which evaluated items must not be in."""
    return [
        Source(phase.name, getattr(phase.settings(recipe), "mixture", ()), not phase.rewards, "corpus" in phase.needs)
        for phase in phases_of(recipe)
        if phase.makes == "model"
    ]
