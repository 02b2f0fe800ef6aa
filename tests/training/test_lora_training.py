"""A phase with LoRA: small checkpoints, a merged model at its end, and the same weights however often it stops."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from outcome import metrics, weights
from torch.testing import assert_close

from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import ChatTraining
from lanbot.core import hardware
from lanbot.core.errors import Stopped, UserError
from lanbot.data.loader import ChatLoader
from lanbot.distributed import fsdp
from lanbot.distributed.runtime import Runtime
from lanbot.models import saved
from lanbot.models.lora import attach, initial
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model
from lanbot.synthetic import world
from lanbot.training.memory import Method
from lanbot.training.trainer import Trainer

RUNTIME = Runtime.single()
MakeModel = Callable[..., Transformer]
ROWS, T, EVERY = 4, 24, 3


class Interrupted(ChatLoader):
    """A loader that raises SIGTERM while it fetches its n-th batch."""

    n = 0

    def next_batch(self):  # type: ignore[no-untyped-def]
        self.n -= 1
        if self.n == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().next_batch()


@pytest.fixture(params=[False, True], ids=["adapters", "embeddings too"])
def run(make_model: MakeModel, chat_format: ChatFormat, tmp_path: Path, request: Any, monkeypatch: Any):  # type: ignore[no-untyped-def]
    """run(name, n): trains the phase of that name from where it is, and stops at batch n."""
    monkeypatch.setattr(hardware, "matmul_ceiling", lambda device, dtype: 1e12)
    settings = ChatTraining(
        micro_batch=2, lora_rank=2, lora_lr=0.01, embedding_lr=0.01, head_lr=0.001, checkpoint_every=EVERY,
        lora_embeddings=request.param,
    )  # fmt: skip

    def run(name: str, n: int = 0) -> Trainer:
        model = make_model(dtype=RUNTIME.dtype).to(RUNTIME.dtype)
        lora = Method.of(settings).lora
        assert lora is not None
        attach(model, lora)
        fsdp.put(model, initial(model, seed=0))
        trainer = Trainer(model, chat_format, settings, tmp_path / name, RUNTIME, T)
        loader = Interrupted([chat_format.render(world.talk("train", i)) for i in range(24)], chat_format.bos, ROWS, T)
        loader.n = n
        trainer.train(loader)
        return trainer

    return run


def test_the_phase_ends_with_a_merged_model_and_only_the_adapters_were_trained(
    run: Any, make_model: MakeModel, tmp_path: Path
) -> None:
    trainer = run("sft")
    last = saved.latest(tmp_path / "sft")
    assert last is not None and last.name == f"step_{trainer.step:06d}"
    model, start = load_model(last, torch.float32, RUNTIME.device), make_model().to(RUNTIME.dtype)
    embeddings = trainer.model.lora.embeddings
    for (name, now), before in zip(model.named_parameters(), start.parameters(), strict=True):
        assert torch.equal(now, before.float()) != ("proj" in name or ("norm" not in name and embeddings)), name
    ids = torch.arange(40).view(2, 20)
    adapted = trainer.model
    adapted.dtype = torch.float32
    with torch.no_grad():
        assert_close(model.logits(model(ids)), adapted.logits(adapted(ids)), atol=1e-5, rtol=1e-5)


def test_before_its_end_a_checkpoint_holds_the_adapters_alone(run: Any, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run("stopped", 2)
    step = tmp_path / "stopped" / "step_000002"
    files = {str(path.relative_to(step)) for path in step.rglob("*") if path.is_file()}
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} < files
    assert not {"model.safetensors", "config.json"} & files
    with pytest.raises(UserError, match="adapters of a phase that is not done"):
        load_model(step, torch.float32, RUNTIME.device)


def test_stopped_after_every_step_it_ends_the_same(run: Any, tmp_path: Path) -> None:
    whole = run("whole")
    assert whole.step > 4
    for step in range(1, whole.step + 1):
        with pytest.raises(Stopped):
            run("stopped", 1)
        assert saved.latest(tmp_path / "stopped") == tmp_path / "stopped" / f"step_{step:06d}"
    run("stopped")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_a_damaged_last_checkpoint_is_made_again(run: Any, tmp_path: Path) -> None:
    run("whole")
    run("again")
    folder = saved.latest(tmp_path / "again")
    assert folder is not None
    (folder / "model.safetensors").write_bytes(b"")
    run("again")
    assert weights(tmp_path / "again") == weights(tmp_path / "whole")


def test_the_adapters_file_names_what_they_belong_to(run: Any, tmp_path: Path) -> None:
    run("sft")
    last = saved.latest(tmp_path / "sft")
    assert last is not None
    config = json.loads((last / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (2, 32.0, "LORA")
    assert "adapter/adapter_model.safetensors" in json.loads((last / "manifest.json").read_text())["files"]
