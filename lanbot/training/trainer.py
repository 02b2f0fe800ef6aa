"""The loop that base, mid and sft share. RL has its own in phases/rl.py, of the same parts."""

from lanbot.core.errors import UserError
from lanbot.data.loader import Loader
from lanbot.models import compile
from lanbot.training.meter import Evaluate, Meter, notes_of
from lanbot.training.sampled_softmax import SampledSoftmax
from lanbot.training.schedule import wsd
from lanbot.training.signals import StopSignals
from lanbot.training.state import TrainState


def train(
    state: TrainState,
    loader: Loader,
    evaluate: Evaluate | None = None,
    eval_every: int = 0,
    sampled: SampledSoftmax | None = None,
) -> None:
    """Trains to the loader's end, from the phase's last checkpoint if it has one.

    evaluate(model) -> validation bits per byte, called before the first step, every `eval_every` and at the end; a
    checkpoint of the same step comes first. sampled: which tokens are in a step's softmax; None: all.
    Raises Stopped when a signal came (the state is saved), UserError when too many updates in a row are no numbers,
    memory is too small or the disk full.
    """
    settings, runtime = state.settings, state.runtime
    compile.compile_blocks(state.model)
    loader_state = state.resume()
    if loader_state is not None:
        loader.load_state(loader_state)
    meter = Meter(state, loader)
    with StopSignals(runtime) as stop:
        try:
            while True:
                if evaluate and state.step % eval_every == 0:
                    meter.validate(evaluate)
                progress = loader.progress()
                scale = wsd(progress, settings.warmup, settings.decay)
                batch = meter.next_batch()
                if batch is None:
                    break
                tokens_under_loss = max(1, int((batch.weights != 0).sum()))
                mine = batch.rows(slice(runtime.rank, None, runtime.size))
                candidates = sampled.candidates(batch.targets, state.step, progress) if sampled else None
                result = state.update(mine.scaled(1 / tokens_under_loss), scale, candidates)
                meter.log(batch, mine, result, scale)
                if state.step % settings.checkpoint_every == 0:
                    meter.save()
                if code := stop.exit_code():
                    meter.save_and_stop(code)
            if not state.step:
                raise UserError(
                    f"{state.phase.name}: nothing to train on ({notes_of(loader)})",
                    f"Give it shorter conversations, or a longer {state.phase.name}.sequence.",
                )
            meter.save()
            if evaluate:
                meter.validate(evaluate)
            if code := stop.exit_code():
                meter.save_and_stop(code)
            state.saver.wait()
            meter.close()
        finally:
            meter.line.close()
            state.metrics.close()
