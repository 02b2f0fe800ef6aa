"""A phase's last weights are between those it began with and those it trained, however often it stops."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from outcome import weights
from torch.testing import assert_close

from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import ChatTraining
from lanbot.core.errors import Stopped
from lanbot.data.loader import ChatLoader
from lanbot.distributed import fsdp
from lanbot.distributed.runtime import Runtime
from lanbot.models import saved
from lanbot.models.lora import attach, initial
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model, save_model
from lanbot.synthetic import world
from lanbot.training.memory import Method
from lanbot.training.trainer import Trainer

RUNTIME = Runtime.single()
ROWS, T, SHARE = 4, 24, 0.25
SETTINGS = ChatTraining(
    micro_batch=2, checkpoint_every=1, muon_lr=0.02, embedding_lr=0.01, head_lr=0.01, norm_lr=0.01, lora_lr=0.01
)


class Stopping(ChatLoader):
    """A loader that raises SIGTERM while it fetches its n-th batch."""

    n = 0

    def next_batch(self):  # type: ignore[no-untyped-def]
        self.n -= 1
        if self.n == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().next_batch()


@pytest.fixture(params=[0, 2], ids=["all weights", "adapters"])
def run(make_model: Callable[..., Transformer], chat_format: ChatFormat, tmp_path: Path, request: Any):  # type: ignore[no-untyped-def]
    """run(name, share, n): trains the phase of that name from where it is, and stops at batch n."""
    settings = replace(SETTINGS, lora_rank=request.param)
    start = tmp_path / "start"
    start.mkdir()
    save_model(make_model(dtype=RUNTIME.dtype), start)

    def run(name: str, share: float = 1.0, n: int = 0, evaluate: Any = None) -> Trainer:
        model = make_model(dtype=RUNTIME.dtype)
        if lora := Method.of(settings).lora:
            attach(model.to(RUNTIME.dtype), lora)
            fsdp.put(model, initial(model, seed=0))
        trainer = Trainer(model, chat_format, replace(settings, interpolate=share), tmp_path / name, RUNTIME, T, start)
        loader = Stopping([chat_format.render(world.talk("train", i)) for i in range(24)], chat_format.bos, ROWS, T)
        loader.n = n
        trainer.train(loader, evaluate, eval_every=1)
        return trainer

    return run


def model_of(phase: Path) -> Transformer:
    folder = saved.latest(phase) if phase.name != "start" else phase
    assert folder is not None
    return load_model(folder, torch.float32, RUNTIME.device)


def test_the_last_weights_are_a_share_of_the_way(run: Any, tmp_path: Path) -> None:
    run("whole")
    trainer = run("share", SHARE)
    start, whole, share = (model_of(tmp_path / name) for name in ("start", "whole", "share"))
    moved = 0
    for (name, first), last, found in zip(
        start.named_parameters(), whole.parameters(), share.parameters(), strict=True
    ):
        assert_close(found, torch.lerp(first, last, SHARE), atol=1e-6, rtol=1e-5, msg=name)
        moved += not torch.equal(first, found)
    assert moved > 3
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():  # what is evaluated after the phase is what was saved
        trainer.model.dtype = torch.float32
        assert_close(trainer.model(ids), share(ids), atol=1e-5, rtol=1e-5)


def test_stopped_after_every_step_and_run_again_at_its_end_it_is_the_same(run: Any, tmp_path: Path) -> None:
    whole = run("whole", SHARE)
    for _ in range(whole.step):
        with pytest.raises(Stopped):
            run("stopped", SHARE, 1)
    for _ in range(2):
        run("stopped", SHARE)
        assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def test_the_last_validation_is_of_the_last_weights(run: Any, tmp_path: Path) -> None:
    def mark(model: Transformer) -> float:
        with torch.no_grad():
            return float(model(torch.arange(40).view(2, 20)).float().square().mean())

    run("whole", evaluate=mark)
    run("share", SHARE, evaluate=mark)
    lines = map(json.loads, (tmp_path / "share" / "metrics.jsonl").read_text().splitlines())
    measured = [line["val_bpb"] for line in lines if "val_bpb" in line][-1]
    whole, share = (mark(model_of(tmp_path / name)) for name in ("whole", "share"))
    assert abs(measured - share) < abs(measured - whole) / 10
