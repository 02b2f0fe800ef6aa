"""Bits per byte: what it says it is, for any batch."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lanbot.data import world
from lanbot.data.corpus import Corpus
from lanbot.data.readers import Chunk
from lanbot.evals import bpb
from lanbot.evals.bpb import Validation
from lanbot.model.transformer import Transformer
from lanbot.tokenizer import Tokenizer

MakeModel = Callable[..., Transformer]
T = 32


def corpus(texts: list[str]) -> Corpus:
    return Corpus([("texts", lambda start: iter([Chunk(texts)][start:]))], None)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [world.document("test", i) for i in range(6)] + ["Ünïcode — 你好 🐈"]


def validation(tokenizer: Tokenizer, texts: list[str], tokens: int = 20 * T) -> Validation:
    return Validation(corpus(texts), tokenizer, tokens, T)


def test_it_is_the_loss_of_the_text_alone_by_its_bytes(make_model: MakeModel, tokenizer: Tokenizer, texts) -> None:  # type: ignore[no-untyped-def]
    model = make_model()
    stream = [token for text in texts for token in [tokenizer.bos, *tokenizer.encode(text)]]
    rows = min((len(stream) - 1) // T, 20)
    nats, text_bytes, specials = 0.0, 0, 0
    lengths = tokenizer.token_bytes()
    for row in range(rows):
        tokens = stream[row * T : (row + 1) * T + 1]
        documents = torch.tensor([[sum(t == tokenizer.bos for t in tokens[: i + 1]) for i in range(T)]])
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([tokens[:-1]]), documents))[0].double()
        for at, target in enumerate(tokens[1:]):
            if target >= len(tokenizer.ranks):
                specials += 1
                continue
            nats -= logits[at].log_softmax(-1)[target].item()
            text_bytes += int(lengths[target])
    assert specials > 3
    assert validation(tokenizer, texts).bits_per_byte(model) == pytest.approx(nats / math.log(2) / text_bytes, rel=1e-5)


def test_the_batch_does_not_matter(
    make_model: MakeModel, tokenizer: Tokenizer, texts, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    held_out, values = validation(tokenizer, texts), []
    for rows in (1, 3, 8, 100):
        monkeypatch.setattr(bpb, "ROWS", rows)
        values.append(held_out.bits_per_byte(make_model()))
    assert values == pytest.approx([values[0]] * 4, rel=1e-6)


def test_a_uniform_model_needs_the_bits_of_its_vocabulary(make_model: MakeModel, tokenizer: Tokenizer, texts) -> None:  # type: ignore[no-untyped-def]
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    held_out = validation(tokenizer, texts)
    targets = held_out.batch.targets
    text = targets < len(tokenizer.ranks)
    expected = math.log2(tokenizer.vocab_size) * text.sum() / tokenizer.token_bytes()[targets].sum()
    assert held_out.bits_per_byte(model) == pytest.approx(expected, rel=1e-6)


def test_it_leaves_no_gradient_and_no_change(make_model: MakeModel, tokenizer: Tokenizer, texts) -> None:  # type: ignore[no-untyped-def]
    model, held_out = make_model(), validation(tokenizer, texts)
    assert held_out.bits_per_byte(model) == held_out.bits_per_byte(model)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_takes_as_many_tokens_as_asked(tokenizer: Tokenizer, texts) -> None:  # type: ignore[no-untyped-def]
    assert validation(tokenizer, texts, tokens=5 * T).batch.ids.shape == (5, T)
    assert validation(tokenizer, texts, tokens=5 * T - 1).batch.ids.shape == (5, T)


def test_a_text_shorter_than_a_row_is_padded_with_what_counts_nothing(
    make_model: MakeModel, tokenizer: Tokenizer
) -> None:
    text = "A cat."
    ids = [tokenizer.bos, *tokenizer.encode(text)]
    held_out = validation(tokenizer, [text])
    assert held_out.batch.ids.shape == (1, T)
    assert held_out.batch.ids[0, : len(ids)].tolist() == ids
    assert np.all(held_out.batch.ids[0, len(ids) :] == tokenizer.bos)
    model = make_model()
    with torch.no_grad():
        logprobs = model.logits(model(torch.tensor([ids[:-1]])))[0].double().log_softmax(-1)
    nats = -sum(logprobs[at, target].item() for at, target in enumerate(ids[1:]))
    assert held_out.bits_per_byte(model) == pytest.approx(nats / math.log(2) / len(text), rel=1e-5)
