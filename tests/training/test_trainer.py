"""The trainer: the same weights however the work is cut, and however often it is stopped."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from outcome import metrics, weights
from torch.testing import assert_close

from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import Training
from lanbot.config.recipe_file import load
from lanbot.config.run import read_metrics
from lanbot.core import hardware
from lanbot.core.errors import Stopped, UserError
from lanbot.data.corpus import open_corpus
from lanbot.data.loader import ChatLoader, Loader, TextLoader
from lanbot.data.packing import Batch
from lanbot.data.prefetch import prefetched
from lanbot.distributed.runtime import Runtime
from lanbot.models import saved
from lanbot.models.transformer import Transformer
from lanbot.phases.loaders import base_loader
from lanbot.synthetic import world as built_in
from lanbot.training import checkpoint
from lanbot.training.metrics import Metrics
from lanbot.training.optim import MuonAdamW, Rates
from lanbot.training.sampled_softmax import SampledSoftmax
from lanbot.training.signals import StopSignals
from lanbot.training.step import training_step
from lanbot.training.trainer import Trainer

RUNTIME = Runtime.single()

MakeModel = Callable[..., Transformer]
ROWS, T = 4, 24


def some_batch(rows: int = ROWS, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 448, (rows, T + 1))
    weights = rng.random((rows, T)).astype(np.float32) / (rows * T)
    documents = (rng.random((rows, T)) < 0.2).cumsum(axis=1)
    return Batch(tokens[:, :-1].copy(), tokens[:, 1:].copy(), weights, documents)


def one_step(make_model: MakeModel, batch: Batch, micro_batch: int, clip: float = 1.0, candidates=None):  # type: ignore[no-untyped-def]
    model = make_model()
    optimizer = MuonAdamW(model, Rates(0.02, 0.05, 0.01, 0.005), torch.float32)
    return model, training_step(model, optimizer, batch, 1.0, clip, micro_batch, RUNTIME, candidates)


# -- one step ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
@pytest.mark.parametrize("some_tokens", [False, True])
def test_the_micro_batch_does_not_matter(make_model: MakeModel, micro_batch: int, some_tokens: bool) -> None:
    sampled = SampledSoftmax(np.arange(448), 50, seed=0, at_random=40)
    candidates = sampled.candidates(some_batch().targets, 0, 0.0) if some_tokens else None
    whole, expected = one_step(make_model, some_batch(), ROWS, candidates=candidates)
    parts, result = one_step(make_model, some_batch(), micro_batch, candidates=candidates)
    assert result.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    assert result.grad_norm.item() == pytest.approx(expected.grad_norm.item(), rel=1e-4)
    assert result.nll.shape == (ROWS, T)
    assert_close(result.nll, expected.nll)
    for (name, ours), theirs in zip(parts.named_parameters(), whole.parameters(), strict=True):
        assert_close(ours, theirs, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_the_loss_is_the_weighted_sum(make_model: MakeModel) -> None:
    batch, model = some_batch(), make_model()
    with torch.no_grad():
        logits = model.logits(model(torch.from_numpy(batch.ids), torch.from_numpy(batch.documents)))
    nll = -logits.log_softmax(-1).gather(-1, torch.from_numpy(batch.targets)[..., None])[..., 0]
    _, result = one_step(make_model, batch, 2)
    assert result.loss.item() == pytest.approx((nll * torch.from_numpy(batch.weights)).sum().item(), rel=1e-4)
    assert_close(result.nll, nll, atol=1e-4, rtol=1e-4)


def test_a_weight_of_zero_contributes_nothing(make_model: MakeModel) -> None:
    batch, other = some_batch(), some_batch()
    for each in (batch, other):
        each.weights[:, 5:15] = 0
    other.targets[:, 5:15] = 7
    model, result = one_step(make_model, batch, 2)
    same, same_result = one_step(make_model, other, 2)
    assert result.loss == same_result.loss
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))


def test_the_reported_norm_is_the_one_before_clipping(make_model: MakeModel) -> None:
    _, loose = one_step(make_model, some_batch(), ROWS, clip=1e9)
    _, tight = one_step(make_model, some_batch(), ROWS, clip=1e-4)
    assert loose.grad_norm == tight.grad_norm > 1e-3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient of one weight"])
def test_what_is_not_finite_leaves_the_weights_untouched(make_model: MakeModel, value: float, where: str) -> None:
    model, before, batch = make_model(), make_model(), some_batch()
    optimizer = MuonAdamW(model, Rates(0.02, 0.05, 0.01, 0.005), torch.float32)
    if where == "loss":
        batch.weights[1, 3] = value
    else:
        model.norm.weight.register_hook(lambda gradient: gradient * value)
    assert not training_step(model, optimizer, batch, 1.0, 1.0, 2, RUNTIME).finite
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not tensor.any() for state in optimizer.state.values() for tensor in state.values())


# -- metrics -------------------------------------------------------------------------------------------------


def test_metrics_beyond_the_step_and_torn_lines_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "base" / "metrics.jsonl"
    first = Metrics(path, 0, RUNTIME)
    for step in range(5):
        first.write(step=step, loss=1 / 3)
        if step % 2 == 0:
            first.write(step=step, val_bpb=2.0)
    with path.open("a") as file:
        file.write('{"step": 5, "lo')
    assert [line["step"] for line in read_metrics(path)] == [0, 0, 1, 2, 2, 3, 4, 4]

    again = Metrics(path, 3, RUNTIME)
    assert again.evaluated == {0, 2}
    again.write(step=4, loss=0.5)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 0, 1, 2, 2, 3, 4]
    assert read_metrics(path)[-1] == {"step": 4, "loss": 0.5}
    assert [p.name for p in path.parent.iterdir()] == ["metrics.jsonl"]


def test_metrics_that_are_not_there_are_empty(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_another_rank_writes_no_metrics(tmp_path: Path) -> None:
    Metrics(tmp_path / "metrics.jsonl", 0, replace(RUNTIME, rank=1)).write(step=1)
    assert not list(tmp_path.iterdir())


# -- a whole phase, stopped and taken up again ---------------------------------------------------------------

STEPS = 7
SETTINGS: dict[str, Any] = {
    "micro_batch": 2,
    "muon_lr": 0.02,
    "embedding_lr": 0.05,
    "head_lr": 0.01,
    "norm_lr": 0.005,
    "warmup": 0.2,
    "checkpoint_every": 3,
}


class Interrupted:
    """A loader that has something happen while it fetches its n-th batch."""

    def __init__(self, loader: Loader, n: int, what: Callable[[], None]) -> None:
        self.loader, self.n, self.what = loader, n, what

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def next_batch(self) -> Batch | None:
        self.n -= 1
        if self.n == 0:
            self.what()
        return self.loader.next_batch()


class Killed(Exception):  # noqa: N818
    pass


def killed() -> None:
    raise Killed


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def _a_known_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "matmul_ceiling", lambda device, dtype: 1e12)


@pytest.fixture(params=["text", "chat"])
def make_loader(request: pytest.FixtureRequest, chat_format: ChatFormat, tmp_path: Path) -> Callable[[], Loader]:
    if request.param == "chat":
        chats = [chat_format.render(built_in.talk("train", i)) for i in range(24)]
        return lambda: ChatLoader(chats, chat_format.bos, ROWS, T)
    texts = [built_in.document("train", i)[:60] for i in range(12)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus, _ = open_corpus(str(tmp_path / "texts.jsonl"), seed=3)
    return lambda: TextLoader(corpus, chat_format, ROWS, T, STEPS)


@pytest.fixture
def run(make_model: MakeModel, chat_format: ChatFormat, make_loader: Callable[[], Loader], tmp_path: Path):  # type: ignore[no-untyped-def]
    """run(name, n, what): trains the phase of that name from where it is, and something happens at batch n."""

    def run(name: str, n: int = 0, what: Callable[[], None] = killed, evaluate: Any = None) -> Trainer:
        state = Trainer(make_model(dtype=RUNTIME.dtype), chat_format, Training(**SETTINGS), tmp_path / name, RUNTIME, T)
        evaluate = evaluate or (lambda model: model.lm_head.weight.square().mean().item())
        state.train(Interrupted(make_loader(), n, what), evaluate, eval_every=2)
        return state

    return run


def test_a_phase_trains_to_its_end_and_then_does_nothing(run, tmp_path: Path, make_model: MakeModel) -> None:  # type: ignore[no-untyped-def]
    state = run("base")
    assert state.step >= 5
    assert saved.latest(tmp_path / "base") == tmp_path / "base" / f"step_{state.step:06d}"
    lines = metrics(tmp_path / "base")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, state.step + 1))
    evaluated = [line["step"] for line in lines if "val_bpb" in line]
    assert evaluated == sorted({*range(0, state.step, 2), state.step})
    assert lines[-1]["tokens"] == state.step * ROWS * T
    assert [line["progress"] for line in lines if "loss" in line][-1] == 1.0
    assert any(not torch.equal(a, b) for a, b in zip(state.model.parameters(), make_model().parameters(), strict=True))

    before = weights(tmp_path / "base")
    again = run("base", 1, lambda: None)
    assert (again.step, weights(tmp_path / "base"), metrics(tmp_path / "base")) == (state.step, before, lines)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_after_every_step_it_ends_the_same(run, tmp_path: Path, number: int, exit_code: int) -> None:  # type: ignore[no-untyped-def]
    whole = run("whole")
    for step in range(1, whole.step + 1):
        with pytest.raises(Stopped) as stopped:
            run("stopped", 1, send(number))
        assert stopped.value.exit_code == exit_code
        assert saved.latest(tmp_path / "stopped") == tmp_path / "stopped" / f"step_{step:06d}"
    run("stopped", 1, lambda: None)
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


@pytest.mark.parametrize("n", [1, 3, 5])
def test_killed_between_checkpoints_it_ends_the_same(run, tmp_path: Path, n: int) -> None:  # type: ignore[no-untyped-def]
    run("whole")
    with pytest.raises(Killed):
        run("killed", n)
    run("killed")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")


def test_stopped_in_an_evaluation_it_ends_the_same(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    def evaluate(model: Transformer) -> float:
        if len(read_metrics(tmp_path / "stopped" / "metrics.jsonl")) == 3:  # of step 2
            os.kill(os.getpid(), signal.SIGTERM)
        return model.lm_head.weight.square().mean().item()

    run("whole")
    with pytest.raises(Stopped):
        run("stopped", evaluate=evaluate)
    run("stopped")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_stopped_in_a_save_it_ends_the_same(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    whole, write = run("whole"), checkpoint.save_model

    def interrupted(*rest: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        write(*rest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_model", interrupted)
        for step in sorted({3, min(6, whole.step), whole.step}):  # at the end it is evaluated before it stops
            with pytest.raises(Stopped, match=f"after step {step}, saved; run again to resume"):
                run("stopped")
    run("stopped")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_a_damaged_last_checkpoint_is_made_again(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run("whole")
    run("again")
    folder = saved.latest(tmp_path / "again")
    assert folder is not None
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    run("again")
    assert weights(tmp_path / "again") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "again") == metrics(tmp_path / "whole")


def test_signal_handlers_are_restored(run) -> None:  # type: ignore[no-untyped-def]
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        run("stopped", 2, send(signal.SIGTERM))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_second_signal_stops_at_once(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run("stopped", 2, twice)
    assert saved.latest(tmp_path / "stopped") is None


def test_a_phase_that_drops_all_its_data_is_an_error(
    make_model: MakeModel, chat_format: ChatFormat, tmp_path: Path
) -> None:
    question = [chat_format.bos, *chat_format.tokenizer.encode("why? " * T)]
    loader = ChatLoader([(question, [0] * len(question))] * 3, chat_format.bos, ROWS, T)
    state = Trainer(make_model(dtype=RUNTIME.dtype), chat_format, Training(**SETTINGS), tmp_path / "mid", RUNTIME, T)
    with pytest.raises(UserError, match=r"mid: nothing to train on \(3 truncated, 3 dropped\)"):
        state.train(loader)
    assert saved.latest(tmp_path / "mid") is None


def test_stopped_with_batches_prepared_ahead_it_ends_the_same(
    make_model: MakeModel, chat_format: ChatFormat, tmp_path: Path
) -> None:
    sizes = {"base.tokens": str(8 * ROWS * T), "base.batch_tokens": str(ROWS * T), "base.sequence": str(T)}
    recipe = load("smoke", sizes)
    chat_format.save(tmp_path / "tokenizer")

    def run(name: str, ahead: bool, n: int = 0) -> None:
        state = Trainer(make_model(dtype=RUNTIME.dtype), chat_format, Training(**SETTINGS), tmp_path / name, RUNTIME, T)
        with prefetched(partial(base_loader, recipe, tmp_path / "tokenizer"), ahead) as loader:
            state.train(Interrupted(loader, n, send(signal.SIGTERM)))

    run("whole", ahead=False)
    for step in (2, 5):
        with pytest.raises(Stopped, match=f"after step {step}, saved"):
            run("stopped", ahead=True, n=2 if step == 2 else 3)
    run("stopped", ahead=True)
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_a_step_asks_the_other_ranks_once_whether_to_stop_or_save(
    make_model: MakeModel, chat_format: ChatFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Training(**{**SETTINGS, "checkpoint_every": 10**6})
    trainer = Trainer(make_model(dtype=RUNTIME.dtype), chat_format, settings, tmp_path / "base", RUNTIME, T)
    trainer.resume()
    trainer.step = 1
    calls: list[object] = []
    monkeypatch.setattr(Runtime, "_reduced", lambda runtime, tensor, operation: calls.append(operation) or tensor)
    trainer.end_step(StopSignals(RUNTIME), dict)
    assert len(calls) == 1


def test_checkpoints_are_saved_by_time_too(
    make_model: MakeModel, chat_format: ChatFormat, make_loader: Callable[[], Loader], tmp_path: Path
) -> None:
    """Steps that take long are not lost: a checkpoint comes when the minutes are over, whatever the steps say."""
    kept = []
    for minutes in (1e-9, 60, 0):
        settings = Training(**{**SETTINGS, "checkpoint_every": 10**6, "checkpoint_minutes": minutes})
        phase = tmp_path / f"{minutes}"
        trainer = Trainer(make_model(dtype=RUNTIME.dtype), chat_format, settings, phase, RUNTIME, T)
        trainer.train(make_loader())
        kept.append(len(saved.steps(phase)))
    assert kept == [2, 1, 1]
