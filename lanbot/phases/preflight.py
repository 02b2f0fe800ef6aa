"""Checks before a run starts, so that a mistake in rl's settings is reported before base is trained."""

from collections.abc import Sequence

from lanbot.chat.formats import get_format
from lanbot.config.recipe import Recipe
from lanbot.config.run import Run
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.distributed.runtime import Runtime
from lanbot.models.config import ModelConfig
from lanbot.phases.evaluation import check_questions, checked, contaminated, known_contamination
from lanbot.phases.phase import Phase, model_before, phases_of
from lanbot.phases.pipeline import create, execute
from lanbot.phases.tokenizer import corpora
from lanbot.sandbox import sandbox
from lanbot.tasks import contamination
from lanbot.tasks.registry import find_task, make_task
from lanbot.tasks.task import TaskContext
from lanbot.training import fit, sinks


def preflight(run: Run, phases: Sequence[Phase], runtime: Runtime) -> None:
    """Raises UserError for problems of phases that are not done: memory, batch shapes, corpus, tasks, files, sinks."""
    recipe = run.recipe
    get_format(recipe.tokenizer.chat_format)
    sinks.check(recipe.log.sinks)
    to_do = [phase for phase in phases if not phase.is_done(run)]
    if any("corpus" in phase.needs for phase in to_do):
        corpora(run)
    models = [phase for phase in to_do if phase.makes == "model"]
    for phase in models:
        if "model" in phase.needs:
            model_before(recipe, phase.name)
        settings = phase.settings(recipe)
        config, sequence = ModelConfig.of_recipe(recipe), getattr(settings, "sequence", None) or recipe.model.longest
        fit.check(config, sequence, phase.name, settings, runtime)
        if getattr(settings, "batch_tokens", None) and settings.batch_tokens // sequence % runtime.size:
            raise UserError(
                f"{phase.name}.batch_tokens / {phase.name}.sequence is {settings.batch_tokens // sequence} rows, "
                f"which {runtime.size} processes cannot share",
                f"Choose {phase.name}.batch_tokens as a multiple of {runtime.size} x {phase.name}.sequence.",
            )
        phase.preflight(run, runtime)
    # the search for contamination reads the data of all phases, even of those not run now
    everything = models and contamination.real(recipe.evals.tasks) and not known_contamination(run, recipe.evals.tasks)
    for phase in phases_of(recipe) if everything else models:
        if not run.imported(phase.name):
            check_mixture(run, phase)
    rewarded = [part.task for phase in models if phase.rewards for part in phase.settings(recipe).mixture]
    if models and (
        any(checked(name, run).runs_code for name in recipe.evals.tasks)
        or any(find_task(name)[0].runs_code for name in rewarded)
    ):
        sandbox.choose(run.options.unsafe_exec)
    if (run.phase("tokenizer") / "tokenizer.json").is_file():  # otherwise pipeline.py checks after training it
        check_questions(run, to_do)


def check_mixture(run: Run, phase: Phase) -> None:
    """Raises UserError for a task that is missing, empty, or lacks a checker where the phase needs one."""
    for part in getattr(phase.settings(run.recipe), "mixture", ()):
        task = make_task(part.task, "train", TaskContext(run.recipe.identity, part.skip_bad_rows, run.options))
        if not len(task):
            raise UserError(f"{phase.name}.mixture: {part.task} is empty", "Leave it out, or give it rows.")
        if phase.rewards and task.kind == "chat":
            what = f"{phase.name}.mixture: {part.task} has no checker for rewards"
            raise UserError(what, "Use a task whose answers are checked.")


def prepare(recipe: Recipe, options: Options, runtime: Runtime) -> None:
    """All work that needs no accelerator: tokenizer, checks of the data, search for contamination."""
    run = Run(options.runs / recipe.name, recipe, options)
    phases = [phase for phase in phases_of(recipe) if not run.imported(phase.name)]
    if any("corpus" in phase.needs for phase in phases):
        corpora(run)
    for phase in phases:
        check_mixture(run, phase)
    create(recipe, options)
    execute(run, [phase for phase in phases if phase.makes == "tokenizer"], runtime)
    check_questions(run, phases)
    contaminated(run, recipe.evals.tasks, runtime, write=True)
