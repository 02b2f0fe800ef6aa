"""Bits per byte on held-out rows of a mixture: the tokens under loss, or all of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import Identity, MixturePart
from lanbot.core.errors import UserError
from lanbot.distributed.runtime import Runtime
from lanbot.evals.bpb import Validation, chat_rows
from lanbot.tasks.mixture import Mixture

RUNTIME = Runtime.single(torch.device("cpu"))


def held_out(chat_format: ChatFormat) -> Mixture:
    return Mixture((MixturePart("identity", rows=60),), Identity(), chat_format, 0, "test")


def test_it_is_the_sum_over_the_answers(make_model, chat_format: ChatFormat) -> None:  # type: ignore[no-untyped-def]
    model, mixture = make_model(context=256), held_out(chat_format)
    rows = chat_rows(mixture, chat_format.bos, 2_048, 256)
    nats = size = 0.0
    lengths = chat_format.tokenizer.byte_lengths()
    with torch.no_grad():
        for i in range(len(rows)):
            row = rows.rows(slice(i, i + 1))
            hidden = model(torch.from_numpy(row.ids), torch.from_numpy(row.documents))
            nll = torch.nn.functional.cross_entropy(
                model.logits(hidden)[0], torch.from_numpy(row.targets)[0], reduction="none"
            ).numpy()
            counted = (row.weights[0] != 0) & (lengths[row.targets[0]] > 0)
            nats, size = nats + float(nll[counted].sum()), size + int(lengths[row.targets[0]][counted].sum())
    answers = Validation(rows, chat_format, RUNTIME).measure(model)
    assert answers.value == pytest.approx(nats / math.log(2) / size, rel=1e-4) and answers.n == size
    everything = Validation(replace(rows, weights=np.ones_like(rows.weights)), chat_format, RUNTIME).measure(model)
    assert everything.n > answers.n


def test_rows_without_an_answer_are_an_error(chat_format: ChatFormat) -> None:
    with pytest.raises(UserError, match="no answers"):
        chat_rows([], chat_format.bos, 1_000, 64)
