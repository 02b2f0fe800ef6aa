"""The interface of a phase. A recipe lists built-in phases by name, others as module:Class."""

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
    """One step of the pipeline: reads the results of earlier phases, trains, and is evaluated."""

    name: ClassVar[str]
    """Also its section in the recipe and its folder in the run."""
    description: ClassVar[str] = ""
    """Describes its model in the report: "continues text"."""
    Settings: ClassVar[type] = ChatTraining
    """The section: a pydantic dataclass with a default for every key."""
    needs: ClassVar[tuple[str, ...]] = ("tokenizer", "model")
    """Its inputs: "corpus" (the base corpus), "tokenizer" and "model" of earlier phases."""
    makes: ClassVar[str] = "model"
    """Its output: "model" or "tokenizer"."""
    rewards: ClassVar[bool] = False
    """Whether it needs tasks with a checker."""
    may_skip: ClassVar[tuple[str, ...]] = ()
    """Phases before it whose models it continues only if they are done."""

    @property
    def made_by(self) -> tuple[str, ...]:
        """Recipe keys that may no longer change once the phase has begun."""
        return ("identity", self.name)

    def settings(self, recipe: Recipe) -> Any:
        return getattr(recipe, self.name)

    def eval_limit(self, recipe: Recipe) -> int:
        """Items of each task in its evaluation."""
        return recipe.evals.limit

    def preflight(self, run: Run, runtime: Runtime) -> None:  # noqa: B027  (most phases have nothing to add)
        """Checks besides those of preflight.py, which apply to every phase. Raises UserError."""

    def plan(self, recipe: Recipe, chat_format: ChatFormat, options: Options) -> Plan | Questions | None:
        """An estimate of its training data, for `lanbot data plan`."""
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
        """Writes evals.json, which marks the phase as done. began: its start, by time.monotonic."""
        from lanbot.phases import evaluation  # evaluation.py imports this module

        evaluation.evaluate(run, self.name, runtime, began=began)

    def results(self, run: Run) -> dict[str, Any]:
        """Further entries of evals.json."""
        return {}

    def is_done(self, run: Run) -> bool:
        """Whether it was trained and evaluated, or imported."""
        return run.done(self.name)


def phases_of(recipe: Recipe) -> list[Phase]:
    """The recipe's phases in their order."""
    return [load_object(PHASES.get(phase, phase), "phases")() for phase in recipe.phases]


def phase_of(recipe: Recipe, name: str) -> Phase:
    for phase in phases_of(recipe):
        if phase.name == name:
            return phase
    raise UsageError(f"--phase {name}: no such phase", f"Phases: {', '.join(recipe.phase_names)}.")


def model_before(recipe: Recipe, name: str, run: Run | None = None) -> str:
    """The phase whose model `name` continues, in this run; without one, if all are done. Raises UserError if there is
    none."""
    phases = phases_of(recipe)
    skipped = [one for phase in phases if phase.name == name for one in phase.may_skip if run and not run.done(one)]
    earlier = takewhile(lambda phase: phase.name != name, phases)
    models = [phase.name for phase in earlier if phase.makes == "model" and phase.name not in skipped]
    if not models:
        raise UserError(f"{name} starts from a model, and no phase before it makes one", "Add base to `phases`.")
    return models[-1]


def sources(recipe: Recipe, run: Run | None = None) -> list[Source]:
    """The recipe's training data, to be searched for evaluation items; without that of phases that the run imported,
    whose models have not seen it."""
    return [
        Source(phase.name, getattr(phase.settings(recipe), "mixture", ()), not phase.rewards, "corpus" in phase.needs)
        for phase in phases_of(recipe)
        if phase.makes == "model" and not (run and run.imported(phase.name))
    ]
