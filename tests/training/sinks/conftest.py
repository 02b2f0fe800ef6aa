"""A run whose phase `base` writes what a test tells it to."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from followed import Training

from lanbot.config.log import Log
from lanbot.config.recipe import Recipe
from lanbot.config.run import Run
from lanbot.training.sinks import follow


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Training]:
    """training("tensorboard"): of a run with these sinks, which are looked after at once."""
    monkeypatch.setattr(follow, "SECONDS", 0.01)

    def make(*sinks: str) -> Training:
        recipe = replace(Recipe(name="bot"), log=Log(sinks=sinks)).resolve()
        return Training(Run(tmp_path / "runs" / "bot", recipe))

    return make
