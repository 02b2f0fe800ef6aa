"""Bits per byte against a direct computation, for any batch and number of ranks."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lanbot.chat.formats.base import ChatFormat
from lanbot.data.corpus import Corpus
from lanbot.data.file_formats import Chunk
from lanbot.distributed.runtime import Runtime
from lanbot.evals import bpb
from lanbot.evals.bpb import Validation, text_rows
from lanbot.models.transformer import Transformer
from lanbot.synthetic import world

RUNTIME = Runtime.single()

MakeModel = Callable[..., Transformer]
T = 32


def corpus(texts: list[str]) -> Corpus:
    return Corpus([("texts", lambda start: iter([Chunk(texts)][start:]))], None)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [world.document("test", i) for i in range(6)] + ["Ünïcode — 你好 🐈"]


def validation(chat_format: ChatFormat, texts: list[str], tokens: int = 20 * T) -> Validation:
    return Validation(text_rows(corpus(texts), chat_format, tokens, T), chat_format, RUNTIME)


def test_it_is_the_loss_of_the_text_divided_by_its_bytes(make_model: MakeModel, chat_format: ChatFormat, texts) -> None:  # type: ignore[no-untyped-def]
    model = make_model()
    stream = [token for text in texts for token in [chat_format.bos, *chat_format.tokenizer.encode(text)]]
    rows = min((len(stream) - 1) // T, 20)
    nats, text_bytes, specials = 0.0, 0, 0
    lengths = chat_format.tokenizer.byte_lengths()
    for row in range(rows):
        tokens = stream[row * T : (row + 1) * T + 1]
        documents = torch.tensor([[sum(t == chat_format.bos for t in tokens[: i + 1]) for i in range(T)]])
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([tokens[:-1]]), documents))[0].double()
        for at, target in enumerate(tokens[1:]):
            if target >= len(chat_format.tokenizer.ranks):
                specials += 1
                continue
            nats -= logits[at].log_softmax(-1)[target].item()
            text_bytes += int(lengths[target])
    assert specials > 3
    assert validation(chat_format, texts).bits_per_byte(model) == pytest.approx(
        nats / math.log(2) / text_bytes, rel=1e-5
    )


def test_the_batch_does_not_matter(
    make_model: MakeModel, chat_format: ChatFormat, texts, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    held_out, values = validation(chat_format, texts), []
    for rows in (1, 3, 8, 100):
        monkeypatch.setattr(bpb, "ROWS", rows)
        values.append(held_out.bits_per_byte(make_model()))
        measured = held_out.measure(make_model())
        assert measured.value == values[-1], "bit-equal to bits_per_byte"
        values.append(measured.stderr)
    assert values == pytest.approx(values[:2] * 4, rel=1e-5)


class Gathering(Runtime):
    """A rank of several, with a function as `gather`."""

    def __init__(self, rank: int, size: int, gather: Callable[[list], list]) -> None:
        super().__init__(rank, size, RUNTIME.device, RUNTIME.dtype)
        object.__setattr__(self, "gather", gather)


@pytest.mark.parametrize("size", [2, 3, 7, 30])
def test_it_is_bit_equal_for_any_number_of_ranks(
    make_model: MakeModel, chat_format: ChatFormat, texts, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    """The share of each rank is recorded first; then one rank gathers all of them."""
    model, held_out = make_model(), validation(chat_format, texts)
    monkeypatch.setattr(bpb, "ROWS", 2)
    alone = (held_out.measure(model), held_out.bits_per_byte(model))
    for which, ask in enumerate((held_out.measure, held_out.bits_per_byte)):
        shares: list[list[Any]] = []
        for rank in range(size):
            held_out.runtime = Gathering(rank, size, lambda mine, shares=shares: shares.append(mine) or mine)
            ask(model)
        everything = [item for share in reversed(shares) for item in share]  # in whatever order
        held_out.runtime = Gathering(0, size, lambda mine, everything=everything: everything)
        assert ask(model) == alone[which]
        assert sum(map(bool, shares)) == min(size, -(-len(held_out.batch) // 2)), "the work is shared"


def test_its_stderr_agrees_with_the_jackknife_over_documents(make_model: MakeModel, chat_format: ChatFormat) -> None:
    """The jackknife leaves out each document in turn and needs no formula for ratios."""
    model, T = make_model(), 24
    documents = [world.document("test", i)[: 40 + 37 * (i % 5)] for i in range(40)]
    held_out = Validation(text_rows(corpus([*documents, "x" * T]), chat_format, 1_000_000, T), chat_format, RUNTIME)
    measured = held_out.measure(model)
    stream = [
        (i, token)
        for i, text in enumerate(documents)
        for token in [chat_format.bos, *chat_format.tokenizer.encode(text)]
    ]
    stream += [(40, token) for token in [chat_format.bos, *chat_format.tokenizer.encode("x" * T)]]
    bits, lengths = np.zeros(41), np.zeros(41)
    rows = (len(stream) - 1) // T
    for row in range(rows):
        some = stream[row * T : (row + 1) * T + 1]
        ids = torch.tensor([[token for _, token in some]])
        with torch.no_grad():
            marks = (ids[:, :-1] == chat_format.bos).cumsum(1)
            logprobs = model.logits(model(ids[:, :-1], marks))[0].double().log_softmax(-1)
        for at, (i, target) in enumerate(some[1:]):
            if target < len(chat_format.tokenizer.ranks):
                bits[i] -= logprobs[at, target].item() / math.log(2)
                lengths[i] += chat_format.tokenizer.byte_lengths()[target]
    D = int((lengths > 0).sum())
    without = [(bits.sum() - bits[i]) / (lengths.sum() - lengths[i]) for i in range(D)]
    error = math.sqrt((D - 1) / D * sum((one - np.mean(without)) ** 2 for one in without))
    assert (measured.documents, measured.n) == (D, lengths.sum()) and D >= 40
    assert measured.value == pytest.approx(bits.sum() / lengths.sum(), rel=1e-5)
    assert measured.stderr == pytest.approx(error, rel=0.03) and error > 0.01


def test_one_document_has_no_stderr_and_padding_is_not_counted(make_model: MakeModel, chat_format: ChatFormat) -> None:
    measured = validation(chat_format, ["A cat."]).measure(make_model())
    assert (measured.documents, measured.n, measured.stderr, measured.json()["stderr"]) == (1, 6, None, None)
    how = f"rows of {measured.context} tokens; a uniform guess {measured.chance:.2f}"
    assert str(measured).endswith(f"(n 6 bytes in 1 document, {how})")
    assert "±" not in str(measured)


def test_special_tokens_count_no_bytes_and_no_loss(make_model: MakeModel, chat_format: ChatFormat, texts) -> None:  # type: ignore[no-untyped-def]
    """The value is the same whichever special token is the target."""
    assert all(chat_format.tokenizer.byte_lengths()[i] == 0 for i in chat_format.tokenizer.special.values())
    model, held_out = make_model(), validation(chat_format, texts)
    values, targets = [], held_out.batch.targets
    special = np.isin(targets, list(chat_format.tokenizer.special.values()))
    assert special.sum() > 3
    for i in chat_format.tokenizer.special.values():
        targets[special] = i
        values.append(held_out.bits_per_byte(model))
    assert len(set(values)) == 1


def test_a_uniform_model_needs_the_bits_of_its_vocabulary(
    make_model: MakeModel, chat_format: ChatFormat, texts
) -> None:  # type: ignore[no-untyped-def]
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    held_out = validation(chat_format, texts)
    targets = held_out.batch.targets
    text = targets < len(chat_format.tokenizer.ranks)
    expected = (
        math.log2(chat_format.tokenizer.vocab_size) * text.sum() / chat_format.tokenizer.byte_lengths()[targets].sum()
    )
    measured = held_out.measure(model)
    assert held_out.bits_per_byte(model) == measured.value == pytest.approx(expected, rel=1e-6)
    assert measured.chance == pytest.approx(expected, rel=1e-12)


def test_it_leaves_no_gradient_and_no_change(make_model: MakeModel, chat_format: ChatFormat, texts) -> None:  # type: ignore[no-untyped-def]
    model, held_out = make_model(), validation(chat_format, texts)
    assert held_out.bits_per_byte(model) == held_out.bits_per_byte(model)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_takes_as_many_tokens_as_asked(chat_format: ChatFormat, texts) -> None:  # type: ignore[no-untyped-def]
    assert validation(chat_format, texts, tokens=5 * T).batch.ids.shape == (5, T)
    assert validation(chat_format, texts, tokens=5 * T - 1).batch.ids.shape == (5, T)


def test_a_text_shorter_than_a_row_is_padded_without_loss(make_model: MakeModel, chat_format: ChatFormat) -> None:
    text = "A cat."
    ids = [chat_format.bos, *chat_format.tokenizer.encode(text)]
    held_out = validation(chat_format, [text])
    assert held_out.batch.ids.shape == (1, T)
    assert held_out.batch.ids[0, : len(ids)].tolist() == ids
    assert np.all(held_out.batch.ids[0, len(ids) :] == chat_format.bos)
    model = make_model()
    with torch.no_grad():
        logprobs = model.logits(model(torch.tensor([ids[:-1]])))[0].double().log_softmax(-1)
    nats = -sum(logprobs[at, target].item() for at, target in enumerate(ids[1:]))
    assert held_out.bits_per_byte(model) == pytest.approx(nats / math.log(2) / len(text), rel=1e-5)
