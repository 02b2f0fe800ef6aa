"""The pipeline: selects a recipe's phases and runs those that are not done."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lanbot.config.recipe import Recipe
from lanbot.config.run import FAILED, Run
from lanbot.core import hardware
from lanbot.core.console import duration, say
from lanbot.core.errors import Stopped, UsageError, UserError
from lanbot.core.files import write_atomic
from lanbot.core.options import Options
from lanbot.distributed.runtime import Runtime
from lanbot.phases.evaluation import check_questions
from lanbot.phases.phase import Phase, phases_of
from lanbot.training.sinks import following


def choose(recipe: Recipe, text: str) -> list[Phase]:
    """ "all", or names joined by "+", in the recipe's order; a phase that needs the corpus brings its tokenizer."""
    phases = phases_of(recipe)
    if text == "all":
        return phases
    wanted, names = text.split("+"), [phase.name for phase in phases]
    for name in wanted:
        if name not in names:
            raise UsageError(f"--phase {text}: no phase {name!r}", f"Phases: {', '.join(names)}; join them by +.")
    corpus = any("corpus" in phase.needs for phase in phases if phase.name in wanted)
    return [phase for phase in phases if phase.name in wanted or (corpus and phase.makes == "tokenizer")]


def create(recipe: Recipe, options: Options) -> Run:
    """The recipe's run, new or resumed. Raises UserError: see Run.create."""
    run = Run(options.runs / recipe.name, recipe, options)
    made_by = {phase.name: phase.made_by for phase in phases_of(recipe) if not run.imported(phase.name)}
    return Run.create(recipe, options=options, made_by=made_by)


def execute(run: Run, phases: list[Phase], runtime: Runtime) -> bool:
    """Runs the phases that are not done. Returns False if all were."""
    to_do = [phase for phase in phases if not phase.is_done(run)]
    for phase in phases:
        if phase not in to_do:
            with following(run, phase.name, runtime):  # what a sink has not got yet
                pass
    if not to_do:
        if runtime.main:
            say(f"{run.folder}: {', '.join(phase.name for phase in phases)}: all done, nothing to do")
        return False
    with _noted(run, runtime):
        for phase in to_do:
            hardware.release()
            hardware.reset_peak()
            began, new = time.monotonic(), not run.begun(phase.name)  # the wall time of a resumed phase is unknown
            with following(run, phase.name, runtime):
                phase.train(run, runtime)
                phase.evaluate(run, runtime, began if new else None)
            if phase.makes == "tokenizer":
                check_questions(run, to_do)
            if runtime.main:
                say(f"{phase.name} finished in {duration(time.monotonic() - began)}\n")
            runtime.barrier()
    return True


@contextmanager
def _noted(run: Run, runtime: Runtime) -> Iterator[None]:
    """Leaves in the run's folder why it failed, for those who look at it later; a run that was stopped did not."""
    path = run.folder / FAILED
    if runtime.main:
        path.unlink(missing_ok=True)
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if runtime.main:
            shown = error if isinstance(error, UserError) else UserError(f"{type(error).__name__}: {error}")
            with suppress(UserError):  # as when the disk is full
                write_atomic(path, json.dumps({"problem": shown.problem, "remedy": shown.remedy}) + "\n")
        raise
