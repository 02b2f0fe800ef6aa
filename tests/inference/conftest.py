"""A tiny model with random weights, and an engine over it."""

from collections.abc import Callable

import pytest

from lanbot.chat.formats.base import ChatFormat
from lanbot.inference.engine import Engine
from lanbot.models.transformer import Transformer


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Transformer]) -> Transformer:
    return make_model(seed=4)


@pytest.fixture
def engine(model: Transformer, chat_format: ChatFormat) -> Engine:
    return Engine(model, chat_format)
