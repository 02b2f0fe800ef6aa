"""TensorBoard's own reader on what the sink writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from followed import Training, expected

from lanbot.distributed.runtime import Runtime
from lanbot.training.sinks import following

pytest.importorskip("tensorboard")
RUNTIME = Runtime.single()


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = read(folder)
    tags = accumulator.Tags()["scalars"]
    return {tag: [(one.step, pytest.approx(one.value)) for one in accumulator.Scalars(tag)] for tag in tags}


def test_curves_scores_recipe_and_samples_are_there(training: Callable[..., Training]) -> None:
    phase = training("tensorboard")
    with following(phase.run, "base", RUNTIME):
        phase.lines(range(31))
        phase.done()
    found = scalars(phase.phase / "tensorboard")
    assert {name: found[name] for name in ("loss", "tokens", "val_bpb")} == expected(range(31))
    assert found["eval/identity"] == [(30, 0.75)]
    texts = read(phase.phase / "tensorboard").Tensors("samples/text_summary")
    assert texts[0].step == 30
    assert "    It is\n    4 | `x`" in texts[0].tensor_proto.string_val[0].decode()
    recipe = read(phase.phase / "tensorboard").Tensors("recipe/text_summary")
    assert 'name = "bot"' in recipe[0].tensor_proto.string_val[0].decode()


def test_after_a_kill_each_step_is_there_once(training: Callable[..., Training]) -> None:
    """The process died after it had written events, before it noted that it had."""
    phase = training("tensorboard")
    with following(phase.run, "base", RUNTIME):
        phase.lines(range(13))
    note = phase.phase / "tensorboard" / "sent.json"
    remembered = note.read_text()
    with following(phase.run, "base", RUNTIME):
        phase.lines(range(13, 25))
    note.write_text(remembered)
    phase.back_to(20)
    with following(phase.run, "base", RUNTIME):
        phase.lines(range(21, 41))
    assert scalars(phase.phase / "tensorboard") == expected(range(41))
