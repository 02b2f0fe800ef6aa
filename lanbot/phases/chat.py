"""Midtraining and SFT: the same training on conversations; the recipe gives each its mixture and rates."""

from functools import partial

from lanbot.chat.formats import load_format
from lanbot.config.recipe import PHASES
from lanbot.config.run import Run
from lanbot.core.errors import UserError
from lanbot.data.prefetch import prefetched
from lanbot.distributed.runtime import Runtime
from lanbot.models import saved
from lanbot.models.weights import load_model
from lanbot.phases.loaders import chat_loader
from lanbot.training.trainer import TrainState, train


def start_from(run: Run, phase: str, runtime: Runtime, sequence: int | None = None) -> TrainState:
    """A phase's state before its first step: the last weights of the phase before it.

    Raises UserError if that phase is not done, or its last checkpoint is damaged: then it is opened again.
    """
    names = list(PHASES)
    before = names[names.index(phase) - 1]
    if not run.done(before):
        raise UserError(
            f"{phase} starts from {before}, which is not done in {run.folder}",
            f"Run it first: lanbot run RECIPE --phase {before}",
        )
    folder = runtime.on_main(saved.latest, run.phase(before))
    last = run.read(before, "evals.json")["checkpoint"]
    if folder is None or folder.name != last:
        if runtime.main:
            (run.phase(before) / "evals.json").unlink()
        raise UserError(
            f"{run.phase(before) / last} is damaged, and {phase} starts from it",
            f"Run the same command again: {before} goes on from the checkpoint before.",
        )
    model = load_model(folder, runtime.dtype, runtime.device)
    chat_format = load_format(run.phase("tokenizer"))
    return TrainState(model, chat_format, getattr(run.recipe, phase), run.phase(phase), runtime, sequence)


def train_chat(run: Run, runtime: Runtime, phase: str) -> None:
    """Trains "mid" or "sft" of a run, or goes on with it."""
    state = start_from(run, phase, runtime, getattr(run.recipe, phase).sequence)
    make = partial(chat_loader, run.recipe, phase, run.phase("tokenizer"), runtime.main, run.options)
    with prefetched(make, ahead=runtime.device.type != "cpu") as loader:
        train(state, loader)
