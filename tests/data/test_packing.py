"""Packing and the loaders: no token lost, no conversation split, and the same order after a stop."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanbot.chat.formats.base import ChatFormat
from lanbot.core.errors import UserError
from lanbot.data import loader as loaders
from lanbot.data.corpus import Corpus, open_corpus
from lanbot.data.file_formats import Chunk
from lanbot.data.loader import BUFFER, ChatLoader, Loader, Rendered, TextLoader
from lanbot.data.packing import Batch, best_fit, make_batch, pack_stream
from lanbot.synthetic import world

BOS = 0

# -- packing -------------------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.integers(1, 99), max_size=12), max_size=30),
    st.integers(1, 4),
    st.integers(1, 9),
)
@settings(max_examples=200, deadline=None)
def test_every_token_after_the_first_is_a_target_exactly_once(documents: list[list[int]], rows: int, T: int) -> None:
    stream = [token for document in documents for token in [BOS, *document]]
    source, left_over, ids, targets = iter([[BOS, *d] for d in documents]), [], [], []  # type: ignore[var-annotated]
    while (packed := pack_stream(source, rows, T, left_over)) is not None:
        assert packed.shape == (rows, T + 1)
        ids += packed[:, :-1].flatten().tolist()
        targets += packed[:, 1:].flatten().tolist()
    assert targets == stream[1 : len(targets) + 1]
    assert ids == stream[: len(ids)]
    assert left_over == stream[len(targets) :], "what is short of a batch is left"
    assert len(left_over) <= rows * T


@given(st.integers(0, 20), st.integers(0, 40))
@settings(max_examples=50, deadline=None)
def test_what_is_left_over_is_all_that_a_later_run_needs(stop: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    documents = [[BOS, *rng.integers(1, 99, rng.integers(0, 20)).tolist()] for _ in range(60)]
    source, left_over = iter(documents), []  # type: ignore[var-annotated]
    for _ in range(stop):
        pack_stream(source, 2, 7, left_over)
    kept = json.loads(json.dumps(left_over))
    expected, got = pack_stream(source, 2, 7, left_over), None
    used = [token for document in documents for token in document]
    start = stop * 14
    got = pack_stream(iter([used[start + len(kept) :]]), 2, 7, kept) if len(used) > start + 14 else None
    assert (expected is None) == (got is None)
    assert expected is None or np.array_equal(expected, got)  # type: ignore[arg-type]


def test_documents_are_numbered_from_their_starts() -> None:
    tokens = np.array([[5, 6, BOS, 7, BOS, BOS, 8], [BOS, 1, 2, 3, 4, 5, BOS]])
    weights = np.arange(14, dtype=np.float32).reshape(2, 7)
    batch = make_batch(tokens, weights, BOS)
    assert batch.ids.tolist() == tokens[:, :-1].tolist()
    assert batch.targets.tolist() == tokens[:, 1:].tolist()
    assert batch.weights.tolist() == weights[:, 1:].tolist()
    assert batch.documents.tolist() == [[0, 0, 1, 1, 2, 3], [1, 1, 1, 1, 1, 1]]
    assert (batch.ids.dtype, batch.documents.dtype, batch.weights.dtype) == (np.int64, np.int64, np.float32)
    assert all(array.flags.c_contiguous for array in (batch.ids, batch.targets, batch.weights, batch.documents))
    assert len(batch) == 2
    assert batch.rows(slice(1, None)).targets.tolist() == tokens[1:, 1:].tolist()


@given(st.lists(st.integers(1, 20), max_size=12), st.integers(0, 22))
def test_best_fit_is_the_longest_that_fits_and_the_first_of_equals(lengths: list[int], room: int) -> None:
    found = best_fit(sorted((length, -i) for i, length in enumerate(lengths)), room)
    fitting = [length for length in lengths if length <= room]
    if found is None:
        assert not fitting
    else:
        assert lengths[found] == max(fitting)
        assert lengths.index(lengths[found]) == found


def test_conversations_that_begin_without_a_bos_are_documents_of_their_own() -> None:
    """In ChatML each turn begins with the same token, and a conversation with none of its own."""
    START, PAD = 3, 0
    chats = [Rendered([START, 5, START, 6], [0, 0, 0, 1]), Rendered([START, 7, START, 8, 9], [0, 0, 0, 1, 1])]
    batch = ChatLoader(chats, PAD, 1, 11).next_batch()
    assert batch is not None
    assert batch.ids.tolist() == [[START, 5, START, 6, START, 7, START, 8, 9, PAD, PAD]]
    first = 4
    numbers = batch.documents[0].tolist()
    assert len(set(numbers[:first])) == len(set(numbers[first:9])) == 1
    assert len({numbers[0], numbers[first], numbers[9], numbers[10]}) == 4


# -- loaders in general --------------------------------------------------------------------------------------


def all_batches(loader: Loader) -> list[Batch]:
    batches = []
    while (batch := loader.next_batch()) is not None:
        batches.append(batch)
    return batches


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(getattr(a, field), getattr(b, field))
        for a, b in zip(one, other, strict=True)
        for field in ("ids", "targets", "weights", "documents")
    )


def goes_on_from_anywhere(make: Callable[[], Loader]) -> bool:
    """Is a loader that takes up another's state, at any batch, the same as that other from there on?"""
    expected, loader = all_batches(make()), make()
    for i in range(len(expected) + 1):
        state: dict[str, Any] = json.loads(json.dumps(loader.state()))
        fresh = make()
        fresh.load_state(state)
        if (fresh.progress(), fresh.notes()) != (loader.progress(), loader.notes()):
            return False
        if not same(all_batches(fresh), expected[i:]):
            return False
        loader.next_batch()
    return True


def rows_of(batch: Batch) -> list[list[int]]:
    """The T + 1 tokens of each row."""
    return [[*ids, targets[-1]] for ids, targets in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True)]


def split(tokens: list[int], bos: int) -> list[list[int]]:
    """The documents in a run of tokens, each with its start."""
    documents: list[list[int]] = []
    for token in tokens:
        if token == bos or not documents:
            documents.append([])
        documents[-1].append(token)
    return documents


# -- conversations -------------------------------------------------------------------------------------------

UNDER_LOSS = 50_000
"""Tokens from here on are those that the loss counts, so that weights can be read off targets."""


def conversation(i: int, length: int, answer: int) -> Rendered:
    """`length` tokens, the last `answer` of them the assistant's; no other conversation has them."""
    ids = [BOS, *(1 + i for _ in range(length - 1 - answer)), *(UNDER_LOSS + i for _ in range(answer))]
    return ids, [int(token >= UNDER_LOSS) for token in ids]


def conversations(count: int, longest: int, seed: int = 0) -> list[Rendered]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, count)
    return [conversation(i, int(length), int(rng.integers(1, length - 1))) for i, length in enumerate(lengths)]


@pytest.mark.parametrize(("count", "rows", "T"), [(1, 1, 30), (5, 3, 30), (3 * BUFFER + 7, 4, 40), (300, 1, 29)])
def test_each_conversation_is_complete_and_occurs_once(count: int, rows: int, T: int) -> None:
    given = conversations(count, 30)
    loader = ChatLoader(given, BOS, rows, T)
    found = []
    for batch in all_batches(loader):
        assert batch.ids.shape == (rows, T)
        for row in rows_of(batch):
            found += [document for document in split(row, BOS) if len(document) > 1]  # others are padding
    assert sorted(found) == sorted(ids for ids, _ in given)
    assert loader.notes() == {"truncated": 0, "dropped": 0, "bad": 0}
    assert loader.progress() == 1.0


def test_the_loss_counts_what_the_assistant_writes_and_nothing_else() -> None:
    given = conversations(200, 30)
    counted = 0
    for batch in all_batches(ChatLoader(given, BOS, 4, 40)):
        assert np.array_equal(batch.weights, (batch.targets >= UNDER_LOSS).astype(np.float32))
        counted += int(batch.weights.sum())
    assert counted == sum(sum(mask) for _, mask in given)


def test_rows_are_well_filled() -> None:
    batches = all_batches(ChatLoader(conversations(2_000, 20), BOS, 4, 63))
    tokens = np.concatenate([batch.ids for batch in batches[:-1]])
    starts = (tokens[:, 1:] != BOS) & (tokens[:, :-1] == BOS)  # of conversations; other BOS are padding
    assert ((tokens != BOS).sum() + starts.sum()) / tokens.size > 0.97


def test_too_long_is_truncated_without_loss_is_dropped_and_bad_is_left_out_all_counted() -> None:
    T = 20
    given = [
        conversation(0, T + 1, 5),  # just fits
        conversation(1, T + 2, 5),  # one too long
        conversation(2, 3 * T, 3 * T - 5),
        conversation(3, 2 * T, 3),  # nothing under loss is left
        conversation(4, 8, 0),  # nothing under loss at all
        ([], []),  # what a mixture gives for a bad row
        conversation(5, 9, 4),
    ]
    loader = ChatLoader(given, BOS, 2, T)
    found = [d for batch in all_batches(loader) for row in rows_of(batch) for d in split(row, BOS) if len(d) > 1]
    assert sorted(found) == sorted(given[i][0][: T + 1] for i in (0, 1, 2, 6))
    assert loader.notes() == {"truncated": 3, "dropped": 2, "bad": 1}


@given(
    st.lists(st.tuples(st.integers(2, 40), st.integers(0, 40)), max_size=60),
    st.integers(1, 4),
    st.integers(1, 30),
    st.sampled_from([1, 2, 5, 128]),
)
@settings(max_examples=200, deadline=None)
def test_any_conversations_are_packed_by_the_policy(
    shapes: list[tuple[int, int]], rows: int, T: int, buffer: int
) -> None:
    """Whole, once, each with its mask; cut at a row's end if longer; left out if nothing under loss is left."""
    given = [conversation(i, length, min(answer, length - 1)) for i, (length, answer) in enumerate(shapes)]
    expected = [ids[: T + 1] for ids, mask in given if any(mask[: T + 1])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaders, "BUFFER", buffer)
        loader = ChatLoader(given, BOS, rows, T)
        batches = all_batches(loader)
    found = [d for batch in batches for row in rows_of(batch) for d in split(row, BOS) if len(d) > 1]
    assert sorted(found) == sorted(expected)
    for batch in batches:
        assert batch.ids.shape == (rows, T)
        assert np.array_equal(batch.weights, (batch.targets >= UNDER_LOSS).astype(np.float32))
        assert batch.weights.sum() > 0, "no batch is padding alone"
    truncated = sum(len(ids) > T + 1 for ids, _ in given)
    assert loader.notes() == {"truncated": truncated, "dropped": len(given) - len(expected), "bad": 0}


@given(st.lists(st.integers(3, 30), min_size=1, max_size=120), st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_none_waits_for_more_rows_than_the_buffer_holds(lengths: list[int], buffer: int) -> None:
    given = [conversation(i, length, 1) for i, length in enumerate(lengths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaders, "BUFFER", buffer)
        loader = ChatLoader(given, BOS, 1, 29)
        came: dict[int, int] = {}
        row = 0
        while True:
            loader._refill()
            waiting = set(loader.buffer)
            came |= dict.fromkeys(waiting - set(came), row)
            assert all(row - came[i] < buffer for i in waiting)
            if loader.next_batch() is None:
                break
            row += 1
        assert set(came) <= set(range(len(given))) and not loader.buffer


def test_a_short_one_is_not_overtaken_for_ever_by_those_that_fill_a_row() -> None:
    T = 20
    given = [conversation(0, 4, 2), *(conversation(i, T + 1, 2) for i in range(1, 1_000))]
    loader = ChatLoader(given, BOS, 1, T)
    first = [rows_of(loader.next_batch())[0] for _ in range(BUFFER)]  # type: ignore[arg-type]
    assert any(row[:4] == given[0][0] for row in first)


def test_nothing_to_learn_from_is_no_batch() -> None:
    assert ChatLoader([], BOS, 2, 8).next_batch() is None
    assert ChatLoader([conversation(0, 5, 0)] * 400, BOS, 2, 8).next_batch() is None


def test_conversations_go_on_from_anywhere() -> None:
    given = [*conversations(2 * BUFFER, 25), conversation(999, 60, 30), *conversations(BUFFER, 25, seed=1)]
    given[3] = conversation(3, 9, 0)
    assert goes_on_from_anywhere(lambda: ChatLoader(given, BOS, 4, 32))


# -- text ----------------------------------------------------------------------------------------------------

ROWS, T = 2, 32


@pytest.fixture(params=["jsonl", "parquet", "txt", "builtin"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Corpus, list[str] | None]:
    """(training corpus, its documents; None: too many to list) of each kind of source."""
    texts = [world.document("train", i)[:80] for i in range(20)]
    if request.param == "builtin":
        return open_corpus("builtin:world", seed=5)[0], None
    if request.param == "jsonl":
        (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return open_corpus(str(tmp_path / "a.jsonl"), seed=5)[0], texts[:-1]
    if request.param == "parquet":
        for name, part in {"a": texts[:7], "b": texts[7:12], "c": texts[12:]}.items():
            pq.write_table(pa.table({"text": part}), tmp_path / f"{name}.parquet", row_group_size=3)
        return open_corpus(str(tmp_path), seed=5)[0], texts[:12]
    for i, text in enumerate(texts):
        (tmp_path / f"{i:02d}.txt").write_text(text)
    return open_corpus(str(tmp_path / "*.txt"), seed=5)[0], texts[:-1]


def test_text_resumes_at_any_position(corpus: tuple[Corpus, list[str] | None], chat_format: ChatFormat) -> None:
    assert goes_on_from_anywhere(lambda: TextLoader(corpus[0], chat_format, ROWS, T, 25))


def test_text_resumes_at_the_end_of_an_epoch(chat_format: ChatFormat) -> None:
    """With one document a batch, the stops fall on every document, the last of an epoch too."""
    texts = ["x" * 10, "y" * 10, "z" * 10]
    corpus = Corpus([("texts", lambda start: iter([Chunk(texts)][start:]))], 1)
    T = len(chat_format.tokenizer.encode(texts[0])) + 1
    assert goes_on_from_anywhere(lambda: TextLoader(corpus, chat_format, 1, T, 11))


@pytest.mark.parametrize("corpus", ["jsonl", "parquet", "txt"], indirect=True)
def test_each_epoch_has_every_document_once_in_another_order(
    corpus: tuple[Corpus, list[str]], chat_format: ChatFormat
) -> None:
    train, texts = corpus
    loader = TextLoader(train, chat_format, ROWS, T, 40)
    batches = all_batches(loader)
    assert loader.notes()["epochs"] >= 2
    stream = [BOS, *(token for batch in batches for token in batch.targets.flatten().tolist())]
    stream[0] = chat_format.bos
    documents = [chat_format.tokenizer.decode(ids[1:]) for ids in split(stream, chat_format.bos)]
    first, second = documents[: len(texts)], documents[len(texts) : 2 * len(texts)]
    assert sorted(first) == sorted(second) == sorted(texts)
    assert first != second
    assert first != texts


def test_the_state_of_text_stays_small(chat_format: ChatFormat) -> None:
    """Also in the middle of a long document."""
    book = " ".join(world.document("train", i) for i in range(50))
    loader = TextLoader(Corpus([("book", lambda start: iter([Chunk([book])][start:]))], 0), chat_format, 2, 64, 100)
    for _ in range(40):
        loader.next_batch()
        assert len(json.dumps(loader.state())) < 300
    assert goes_on_from_anywhere(lambda: TextLoader(loader.corpus, chat_format, 2, 64, 40))


def test_other_data_than_before_the_stop_are_refused(chat_format: ChatFormat, tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text("some text " * 50)
    loader = TextLoader(open_corpus(str(tmp_path), 0)[0], chat_format, 1, 16, 9)
    loader.next_batch()
    (tmp_path / "2b.txt").write_text("more text")
    with pytest.raises(UserError, match="changed since this phase began: 3 files"):
        TextLoader(open_corpus(str(tmp_path), 0)[0], chat_format, 1, 16, 9).load_state(loader.state())
    few = ChatLoader(conversations(30, 20), BOS, 1, 30, data="chats 30")
    few.next_batch()
    with pytest.raises(UserError, match="30 conversations: chats 30; now 31 conversations"):
        ChatLoader(conversations(31, 20), BOS, 1, 30, data="chats 31").load_state(few.state())
    with pytest.raises(UserError, match="lanbot runs delete"):
        ChatLoader(conversations(30, 20), BOS, 1, 30, data="chats 40").load_state(few.state())


def test_text_ends_after_its_steps(corpus: tuple[Corpus, list[str] | None], chat_format: ChatFormat) -> None:
    loader = TextLoader(corpus[0], chat_format, ROWS, T, 3)
    assert loader.progress() == 0
    batches = all_batches(loader)
    assert [batch.ids.shape for batch in batches] == [(ROWS, T)] * 3
    assert all((batch.weights == 1).all() for batch in batches)
    assert loader.progress() == 1
    assert loader.next_batch() is None
