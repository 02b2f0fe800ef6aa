"""Midtraining and SFT: the same training on conversations, with the mixture and rates of the recipe."""

from dataclasses import replace
from functools import partial

from lanbot.chat.fitting import run_format
from lanbot.config.run import Run
from lanbot.core.errors import UserError
from lanbot.data.prefetch import prefetched
from lanbot.distributed import fsdp
from lanbot.distributed.runtime import Runtime
from lanbot.evals.bpb import Validation
from lanbot.models import saved
from lanbot.models.lora import attach, initial
from lanbot.models.transformer import Transformer
from lanbot.phases import own_answers
from lanbot.phases.evaluation import mixture_rows
from lanbot.phases.loaders import chat_loader
from lanbot.phases.phase import Phase, model_before
from lanbot.training.memory import Method
from lanbot.training.trainer import Trainer, prepare


def start_from(run: Run, phase: str, runtime: Runtime, sequence: int | None = None) -> Trainer:
    """A trainer with the weights of the preceding phase, and adapters where the recipe says so. sequence: tokens of a
    row; None: the run's longest.

    Raises UserError if that phase is not done, or if its last checkpoint is damaged and it must run again.
    """
    before = model_before(run.recipe, phase, run)
    if not run.done(before):
        raise UserError(
            f"{phase} starts from {before}, which is not done in {run.folder}",
            f"Run it first: lanbot run RECIPE --phase {before}",
        )
    folder = runtime.on_main(saved.latest, run.phase(before))
    last = run.checkpoint(before)
    if folder is None or folder.name != last:
        if run.imported(before):
            raise UserError(
                f"{run.phase(before) / last} is damaged, and {phase} starts from it",
                f"Delete the run and import it again: lanbot runs delete {run.folder.name}",
            )
        if runtime.main:
            (run.phase(before) / "evals.json").unlink(missing_ok=True)
        raise UserError(
            f"{run.phase(before) / last} is damaged, and {phase} starts from it",
            f"Run the same command again: {before} resumes from its checkpoint before that.",
        )
    settings = getattr(run.recipe, phase)
    lora = Method.of(settings).lora
    lora = replace(lora, base=f"{before}/{last}") if lora else None

    def change(model: Transformer) -> None:
        prepare(model, settings, runtime, phase)
        if lora:
            attach(model.to(runtime.dtype), lora)

    model = fsdp.load_model(folder, runtime, change, lora)
    if lora:
        fsdp.put(model, initial(model, run.recipe.seed))
    chat_format, longest = run_format(run), sequence or run.recipe.model.longest
    return Trainer(model, chat_format, settings, run.phase(phase), runtime, longest, folder)


def train_chat(run: Run, runtime: Runtime, phase: str) -> None:
    """Trains a phase on its mixture, or resumes it."""
    own_answers.make(run, phase, runtime)
    trainer = start_from(run, phase, runtime, getattr(run.recipe, phase).sequence)
    make = partial(chat_loader, run.recipe, phase, run.phase("tokenizer"), runtime.main, run.options)
    with prefetched(make, ahead=runtime.device.type != "cpu") as loader:
        rows = mixture_rows(run, phase, trainer.chat_format)
        evaluate = Validation(rows, trainer.chat_format, runtime).bits_per_byte if rows else None
        trainer.train(loader, evaluate, getattr(run.recipe, phase).eval_every)


class MidPhase(Phase):
    """Midtraining: conversations and tool calls, at the full learning rates."""

    name = "mid"
    description = "has learned to answer and to use tools"

    def train(self, run: Run, runtime: Runtime) -> None:
        train_chat(run, runtime, self.name)


class SFTPhase(MidPhase):
    """Supervised fine-tuning on the target tasks."""

    name = "sft"
    description = "was fine-tuned on the target tasks"
