"""What a GPU would do, traced without one: shapes and dtypes of a whole step on the meta device."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from lanbot.core import hardware
from lanbot.data.packing import Batch
from lanbot.distributed.runtime import Runtime
from lanbot.models import attention, compile
from lanbot.models.config import ModelConfig
from lanbot.models.transformer import Transformer
from lanbot.training.optim import MuonAdamW, Rates
from lanbot.training.step import training_step

META = Runtime(0, 1, torch.device("meta"), torch.bfloat16)
D20 = ModelConfig(65_536, 1_280, 20, 10, 10, 128, 3_456, 2_048)


@pytest.mark.parametrize("flash", [True, False])
def test_a_whole_training_step_of_d20_runs_on_the_meta_device(flash: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward by either attention, backward, clipping and the update; whatever reads a value on the host raises."""
    monkeypatch.setattr(attention, "has_flash", lambda *_: flash)
    with META.device:
        model = Transformer(D20, META.dtype)
    optimizer = MuonAdamW(model, Rates(0.02, 0.3, 0.002, 0.005), META.dtype)
    tokens = np.zeros((3, D20.context + 1), dtype=np.int64)
    weights = np.ones((3, D20.context), dtype=np.float32)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], weights, np.zeros((3, D20.context), dtype=np.int64))
    result = training_step(model, optimizer, batch, 1.0, 1.0, 2, META)
    assert result.loss.shape == result.grad_norm.shape == result.finite.shape == ()
    assert result.nll.shape == (3, D20.context) and result.nll.dtype == torch.float32
    assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())


def test_rows_are_contiguous_before_they_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinning every second row would copy through pageable memory, and the device would be waited for."""
    pinned = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.is_contiguous())
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **__: tensor)
    rows = np.arange(32).reshape(8, 4)
    assert torch.equal(attention.send(rows[1::2], torch.device("cuda", 0)), torch.from_numpy(rows[1::2].copy()))
    assert pinned == [True]


def test_attention_by_cudnn_is_off_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[bool] = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", set_to.append)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert Runtime.single(torch.device("cuda", 0)).dtype == torch.bfloat16
    assert set_to == [False]


def test_shapes_beyond_the_compilers_limit_are_counted_and_warned_about_once(
    make_model: Callable[..., Transformer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compile, "enabled", lambda _: True)
    monkeypatch.setattr(compile, "BACKEND", "eager")
    monkeypatch.setattr(compile.fallbacks, "count", 0)
    torch._dynamo.reset()
    model = make_model(dtype=torch.bfloat16)
    compile.compile_blocks(model)
    with compile.dynamo_config.patch(recompile_limit=2):
        for T in range(4, 12):
            model(torch.zeros(1, T, dtype=torch.long))
    torch._dynamo.reset()
    assert compile.fallbacks.count > 0
    assert capsys.readouterr().err.count("further ones run uncompiled") == 1


def test_memory_is_freed_between_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cycle:
        pass

    done: list[str] = []
    one = Cycle()
    one.me = one  # type: ignore[attr-defined]
    Cycle.__del__ = lambda self: done.append("collected")  # type: ignore[attr-defined]
    del one
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("emptied"))
    hardware.release()
    assert done == ["collected", "emptied"]
