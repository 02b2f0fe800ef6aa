"""Attention never crosses documents: from the packers to the logits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lanbot.data.loader import ChatLoader
from lanbot.data.packing import Batch, make_batch, pack_stream

BOS, VOCAB, ROWS, T = 0, 448, 2, 40


def text_batch(lengths: list[int], rng: np.random.Generator) -> Batch:
    documents = ([BOS, *rng.integers(1, VOCAB, lengths[i % len(lengths)]).tolist()] for i in range(10**6))
    tokens = pack_stream(documents, ROWS, T, [])
    assert tokens is not None
    return make_batch(tokens, np.ones(tokens.shape, np.float32), BOS)


def chat_batch(lengths: list[int], rng: np.random.Generator) -> Batch:
    chats = [([BOS, *rng.integers(1, VOCAB, length).tolist()], [1] * (length + 1)) for length in lengths * 20]
    batch = ChatLoader(chats, BOS, ROWS, T).next_batch()
    assert batch is not None
    return batch


@pytest.mark.parametrize("make_one", [text_batch, chat_batch])
@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=5), seed=st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_a_document_that_is_changed_moves_no_other_documents_logits(
    make_one,  # type: ignore[no-untyped-def]
    make_model,
    lengths: list[int],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    batch, model = make_one(lengths, rng), make_model()
    row = int(rng.integers(ROWS))
    document = int(rng.choice(batch.documents[row]))
    of_it = np.zeros((ROWS, T), dtype=bool)
    of_it[row] = batch.documents[row] == document
    changed = batch.ids.copy()
    change = of_it & (changed != BOS)
    changed[change] = changed[change] % (VOCAB - 1) + 1  # another token, and no start of a document
    with torch.no_grad():
        documents = torch.from_numpy(batch.documents)
        before = model.logits(model(torch.from_numpy(batch.ids), documents)).numpy()
        after = model.logits(model(torch.from_numpy(changed), documents)).numpy()
    assert np.array_equal(before[~of_it], after[~of_it])
    assert (before[change] != after[change]).any(axis=-1).all(), "the model sees the change"
