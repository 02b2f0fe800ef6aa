"""Failures in a training step: values that are not finite, loss spikes, too little memory; and late logging."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from outcome import metrics, weights

from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import Training
from lanbot.config.run import read_metrics
from lanbot.core import hardware
from lanbot.core.errors import Stopped, UserError
from lanbot.data.packing import Batch, make_batch
from lanbot.distributed.runtime import Runtime
from lanbot.models import saved
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model
from lanbot.training import checkpoint, memory, trainer
from lanbot.training.metrics import Metrics
from lanbot.training.step_log import StepLog
from lanbot.training.trainer import Trainer

RUNTIME = Runtime.single()

ROWS, T = 4, 24
RATES: dict[str, Any] = {"muon_lr": 0.02, "embedding_lr": 0.05, "head_lr": 0.01, "norm_lr": 0.005}

MakeModel = Callable[..., Transformer]
Run = Callable[..., Trainer]


class Noise:
    """Random tokens, `steps` batches; those of `bad` have a weight of nan."""

    def __init__(self, steps: int, bad: tuple[int, ...] = (), what: float = float("nan")) -> None:
        self.steps, self.bad, self.what, self.step = steps, bad, what, 0

    def next_batch(self) -> Batch | None:
        if self.step == self.steps:
            return None
        self.step += 1
        tokens = np.random.default_rng(self.step).integers(0, 448, (ROWS, T + 1))
        weights = np.ones(tokens.shape, np.float32)
        if self.step in self.bad:
            weights[1, 3] = self.what
        return make_batch(tokens, weights, bos=0)

    def progress(self) -> float:
        return self.step / self.steps

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "position": {"file": 3, "document": 10 * self.step}, "left_over": [1, 2, 3]}

    def load_state(self, state: dict[str, Any]) -> None:
        self.step = state["step"]

    def notes(self) -> dict[str, int]:
        return {"epochs": 0}


@pytest.fixture(autouse=True)
def _a_known_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "matmul_ceiling", lambda device, dtype: 1e12)


@pytest.fixture
def run(make_model: MakeModel, chat_format: ChatFormat, tmp_path: Path) -> Run:
    """run(name, loader, **settings): trains the phase of that name from where it is."""

    def run(name: str, loader: Noise, evaluate: Any = None, **settings: Any) -> Trainer:
        model = make_model(dtype=RUNTIME.dtype)
        state = Trainer(model, chat_format, Training(**{**RATES, **settings}), tmp_path / name, RUNTIME, T)
        state.train(loader, evaluate, eval_every=3)
        return state

    return run


# -- no numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [float("nan"), float("inf")])
def test_a_bad_update_is_skipped_counted_and_reported(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: float
) -> None:
    trained = run("base", Noise(8, (3, 6), what))
    assert trained.step == 8, "a skipped update counts as a step"
    assert all(parameter.isfinite().all() for parameter in trained.model.parameters())
    lines = metrics(tmp_path / "base")
    assert [line["skipped"] for line in lines] == [0, 0, 1, 1, 1, 2, 2, 2]
    assert ["loss" in line for line in lines] == [True, True, False, True, True, False, True, True]
    warnings = capsys.readouterr().err
    assert f"base, step 6: loss {what}" in warnings and "this update is skipped (2 so far)" in warnings
    assert "2 updates skipped" in warnings.splitlines()[-1]


def test_a_skipped_update_leaves_weights_and_optimiser_as_they_were(run: Run, tmp_path: Path) -> None:
    """The last of three updates, at the full rate, and the last of two."""
    bad, good = run("bad", Noise(3, (3,)), decay=0.0), run("good", Noise(2), decay=0.0)
    assert weights(tmp_path / "bad") == weights(tmp_path / "good")
    for name, tensors in good.optimizer.state.items():
        assert all(torch.equal(bad.optimizer.state[name][kind], tensor) for kind, tensor in tensors.items())


def test_the_count_of_skipped_updates_survives_a_stop(run: Run, tmp_path: Path) -> None:
    bad = (2, 5, 6)
    run("whole", Noise(8, bad), checkpoint_every=1)
    for steps in (2, 5, 8):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Noise, "progress", lambda self: self.step / 8)
            run("cut", Noise(steps, bad), checkpoint_every=1)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_too_many_in_a_row_end_the_run_and_name_the_place(run: Run, tmp_path: Path) -> None:
    bad = tuple(range(4, 20))
    with pytest.raises(UserError) as caught:
        run("mid", Noise(20, bad), checkpoint_every=2)
    assert str(caught.value).count("\n") == 1
    assert caught.value.problem.startswith("mid, step 8: loss nan, gradient norm nan: the 5th skipped update in a row")
    assert "file 3, document 80" in caught.value.problem and "left_over" not in caught.value.problem
    assert "mid.muon_lr" in caught.value.remedy
    last = saved.latest(tmp_path / "mid")
    assert last == tmp_path / "mid" / "step_000006"
    assert all(parameter.isfinite().all() for parameter in load_model(last, RUNTIME.dtype, RUNTIME.device).parameters())
    with pytest.raises(UserError, match="mid, step 8"):  # the count goes on with the checkpoint
        run("mid", Noise(20, bad), checkpoint_every=2)
    assert [line["step"] for line in metrics(tmp_path / "mid")] == list(range(1, 9))


def test_four_in_a_row_do_not(run: Run) -> None:
    assert run("base", Noise(12, (2, 3, 4, 5, 7, 8, 9, 10))).skipped == trainer.SKIPS_IN_A_ROW + 3


# -- spikes --------------------------------------------------------------------------------------------------


def test_a_loss_far_above_those_before_it_is_a_spike_also_after_a_resume(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    losses = [*(3 + 0.1 * draw.standard_normal(30)), 3.9, *(3 + 0.1 * draw.standard_normal(10)), 3.4]
    whole = Metrics(tmp_path / "whole.jsonl", 0, RUNTIME)
    assert [i for i, loss in enumerate(losses) if whole.spike(float(loss))] == [30]
    cut = Metrics(tmp_path / "cut.jsonl", 0, RUNTIME)
    for i, loss in enumerate(losses):
        found = cut.spike(float(loss))
        assert bool(found) == (i == 30)
        cut.write(step=i, loss=float(loss))
        cut = Metrics(tmp_path / "cut.jsonl", i, RUNTIME)
    assert cut.losses == whole.losses


def test_a_spike_is_reported_and_marked(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Odd(Noise):
        def next_batch(self) -> Batch | None:
            batch = super().next_batch()
            if batch is not None and self.step == 30:
                batch.weights[:] = 9
            return batch

    run("base", Odd(31))
    assert [line["step"] for line in metrics(tmp_path / "base") if line.get("spike")] == [30]
    assert "base, step 30: loss" in (warnings := capsys.readouterr().err) and "is a spike" in warnings


# -- memory --------------------------------------------------------------------------------------------------


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """short_of_memory(most, error): a forward pass of more than `most` rows raises it."""

    def short(most: int, error: Exception) -> None:
        forward = Transformer.forward

        def limited(self: Transformer, ids: torch.Tensor, *rest: Any, **named: Any) -> Any:
            if len(ids) > most:
                raise error
            return forward(self, ids, *rest, **named)

        monkeypatch.setattr(Transformer, "forward", limited)

    return short


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
    RuntimeError("could not create a primitive"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_short_memory_halves_the_micro_batch_and_trains_the_same(
    run: Run, make_model: MakeModel, tmp_path: Path, short_of_memory: Any, capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:  # fmt: skip
    roomy = run("roomy", Noise(3), micro_batch=1)
    short_of_memory(1, error)
    tight = run("tight", Noise(3), micro_batch=4)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert len(warnings) == 2
    assert "out of memory with 4 x 24 tokens at a time; continuing with a micro-batch of 2 x 24" in warnings[0]
    assert weights(tmp_path / "tight") == weights(tmp_path / "roomy")
    assert metrics(tmp_path / "tight") == metrics(tmp_path / "roomy")
    assert tight.micro_tokens == roomy.micro_tokens == T


def test_the_smaller_micro_batch_is_kept_with_the_checkpoint(
    run: Run, tmp_path: Path, short_of_memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    short_of_memory(2, MemoryError())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "micro_batch", lambda *_: 4)
        patch.setattr(Noise, "progress", lambda self: self.step / 4)
        run("base", Noise(2))
        assert "out of memory" in capsys.readouterr().err
        assert run("base", Noise(4)).micro_tokens == 2 * T
    assert "out of memory" not in capsys.readouterr().err


def test_a_row_that_does_not_fit_is_an_error(run: Run, short_of_memory: Any) -> None:
    short_of_memory(0, MemoryError())
    with pytest.raises(
        UserError, match=r"mid, step 1: out of memory with 1 x 24 tokens at a time\nLower mid\.sequence"
    ):
        run("mid", Noise(2))


def test_memory_that_ends_within_an_update_is_no_reason_to_make_it_twice(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lanbot.training.optim import MuonAdamW

    step = MuonAdamW.step

    def torn(self: MuonAdamW, *rest: Any) -> None:
        step(self, *rest)
        raise MemoryError

    monkeypatch.setattr(MuonAdamW, "step", torn)
    with pytest.raises(UserError, match="out of memory"):
        run("base", Noise(2), micro_batch=4)


def test_several_ranks_begin_again_with_the_smaller_micro_batch(
    run: Run, make_model: MakeModel, chat_format: ChatFormat, tmp_path: Path
) -> None:
    """One rank cannot tell the others while they wait for its gradients: it writes it down and ends the job."""
    one = Trainer(make_model(dtype=RUNTIME.dtype), chat_format, Training(**RATES), tmp_path / "base", RUNTIME, T)
    one.resume()
    one.runtime = replace(RUNTIME, rank=1, size=2)
    with pytest.raises(UserError, match=r"base, step 1: out of memory with 4 x 24.*\nRun the same command again"):
        one._take_fewer_rows(4, T, in_the_update=False)
    assert run("base", Noise(2)).micro_tokens == 2 * T


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("can't allocate memory")])
def test_another_error_is_not_taken_for_short_memory(run: Run, short_of_memory: Any, error: Exception) -> None:
    short_of_memory(0, error)
    with pytest.raises(type(error)):
        run("base", Noise(2))


# -- late logging ------------------------------------------------------------------------------------------


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As on CUDA: steps are logged late, and a thread writes checkpoints. Returns how many steps late each one was."""
    lags: list[int] = []

    class Late(StepLog):
        def __init__(self, *rest: Any) -> None:
            super().__init__(*rest)
            self.late = True
            self.trainer.saver = checkpoint.Saver(RUNTIME, background=True)

        def _write(self, step: Any) -> None:
            lags.append(self.trainer.step - step.step)
            super()._write(step)

    monkeypatch.setattr(trainer, "StepLog", Late)
    return lags


def square(model: Transformer) -> float:
    return model.lm_head.weight.square().mean().item()


def test_late_logging_logs_the_same(run: Run, tmp_path: Path, late: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "StepLog", StepLog)
        run("at_once", Noise(10, (4,)), square, checkpoint_every=4)
    assert not late
    run("late", Noise(10, (4,)), square, checkpoint_every=4)
    assert sorted(set(late)) == [0, 1]
    assert metrics(tmp_path / "late") == metrics(tmp_path / "at_once")
    assert weights(tmp_path / "late") == weights(tmp_path / "at_once")
    assert [p.name for p in sorted((tmp_path / "late").glob("step_*"))] == ["step_000008", "step_000010"]


def test_stopped_before_a_step_is_logged_it_ends_the_same(run: Run, tmp_path: Path, late: list[int]) -> None:
    import os
    import signal

    class Stopping(Noise):
        def next_batch(self) -> Batch | None:
            if self.step % 3 == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().next_batch()

    run("whole", Noise(10, (4,)), square)
    for _ in range(3):
        with pytest.raises(Stopped):
            run("stopped", Stopping(10, (4,)), square)
    run("stopped", Noise(10, (4,)), square)
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def test_bad_updates_end_the_run_late_too(run: Run, tmp_path: Path, late: list[int]) -> None:
    with pytest.raises(UserError, match=r"mid, step 6: .*5th skipped update in a row"):
        run("mid", Noise(20, tuple(range(2, 20))), checkpoint_every=100)


# -- a disk that is full -------------------------------------------------------------------------------------


def test_metrics_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    written = Metrics(tmp_path / "metrics.jsonl", 0, RUNTIME)
    written.write(step=0, loss=1.0)
    written.file.close()
    with open("/dev/full", "ab", buffering=0) as full:
        written.file = full
        with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written, the disk is full\nFree some space"):
            written.write(step=1, loss=1.0)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
