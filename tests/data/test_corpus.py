import gzip
import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanbot.chat.formats.base import ChatFormat
from lanbot.core.errors import UserError
from lanbot.data.corpus import Corpus, Position, open_corpus
from lanbot.data.file_formats import CHUNK_DOCUMENTS, PIECE_CHARS
from lanbot.data.loader import TextLoader


def texts(name: str, count: int) -> list[str]:
    return [f"{name} {i}" for i in range(count)]


def parquet(path: Path, documents: list, group: int = 4, column: str = "text") -> Path:
    pq.write_table(pa.table({column: documents, "n": list(range(len(documents)))}), path, row_group_size=group)
    return path


def jsonl(path: Path, documents: list[str]) -> Path:
    data = "".join(json.dumps({"text": document}) + "\n" for document in documents).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        with pa.CompressedOutputStream(buffer := pa.BufferOutputStream(), "zstd") as out:
            out.write(data)
        data = buffer.getvalue().to_pybytes()
    path.write_bytes(data)
    return path


def split_of(source: object, seed: int = 0) -> tuple[list[str], list[str]]:
    train, validation = open_corpus(str(source), seed)
    return list(train.once()), list(validation.once())


def refused(source: object, *said: str) -> UserError:
    """The UserError of a source, when it is opened or first read."""
    with pytest.raises(UserError) as caught:
        split_of(source)
    assert str(caught.value).count("\n") == 1
    assert all(word in caught.value.problem for word in said), caught.value.problem
    return caught.value


# -- sources -----------------------------------------------------------------------------------------------


def test_the_last_file_of_a_folder_is_validation_whatever_its_kind(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    parquet(tmp_path / "a.parquet", texts("a", 10))
    jsonl(tmp_path / "b.jsonl", texts("b", 5))
    jsonl(tmp_path / "deep" / "c.jsonl.gz", texts("c", 5))
    jsonl(tmp_path / "d.jsonl.zst", texts("d", 5))
    (tmp_path / "e.txt").write_text("hello\nworld\n")
    (tmp_path / "z.md").write_text("not read")
    train, validation = split_of(tmp_path)
    assert sorted(train) == sorted(texts("a", 10) + texts("b", 5) + texts("c", 5) + texts("d", 5))
    assert validation == ["hello\nworld\n"]


def test_a_glob_takes_what_it_matches(tmp_path: Path) -> None:
    for name in "abc":
        jsonl(tmp_path / f"{name}.jsonl", texts(name, 3))
    train, validation = split_of(tmp_path / "[ac].jsonl")
    assert (sorted(train), validation) == (texts("a", 3), texts("c", 3))


def test_a_hub_corpus_is_looked_for_in_the_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pretrain/mix_edu").mkdir(parents=True)
    (tmp_path / "some/one").mkdir(parents=True)
    for folder in ("pretrain/mix_edu", "some/one"):
        for name in ("s0", "s1"):
            parquet(tmp_path / folder / f"{name}.parquet", texts(f"{folder} {name}", 3))
    monkeypatch.setenv("LANBOT_MIRROR", str(tmp_path))
    assert split_of("hf:HuggingFaceFW/fineweb-edu")[1] == texts("pretrain/mix_edu s1", 3)
    assert split_of("hf:some/one")[1] == texts("some/one s1", 3)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz", "jsonl.zst"])
@pytest.mark.parametrize("count", [2, 19, 40, CHUNK_DOCUMENTS + 1, 3 * CHUNK_DOCUMENTS])
def test_a_single_file_holds_out_its_end(kind: str, count: int, tmp_path: Path) -> None:
    path = tmp_path / f"one.{kind}"
    documents = texts("d", count)
    parquet(path, documents, group=CHUNK_DOCUMENTS) if kind == "parquet" else jsonl(path, documents)
    train, validation = split_of(path)
    assert sorted(train + validation) == sorted(documents)
    assert validation == documents[-len(validation) :] and train
    if count <= CHUNK_DOCUMENTS:
        assert len(validation) == max(1, count // 20)
    else:
        assert len(validation) == (count - 1) % CHUNK_DOCUMENTS + 1


def test_a_long_text_is_cut_at_line_ends_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "novel.txt"
    novel = "".join(f"line {i} é\u2028more\r\n" for i in range(40_000))
    path.write_bytes(novel.encode())
    train, validation = split_of(path)
    assert len(train) > 3 and len(validation) == 1
    assert "".join(sorted(train, key=novel.index)) + validation[0] == novel
    assert all(len(piece) < PIECE_CHARS + 100 and piece.endswith("\r\n") for piece in train)


def test_broken_utf8_in_a_text_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good \xff\xfe bad")
    (tmp_path / "b.txt").write_text("x")
    assert split_of(tmp_path)[0] == ["good \ufffd\ufffd bad"]


def test_empty_documents_are_skipped(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", ["x", "", None, "y"], group=2)
    jsonl(tmp_path / "b.jsonl", ["", "z", ""])
    train, validation = split_of(tmp_path)
    assert (sorted(train), validation) == (["x", "y"], ["z"])


def test_the_builtin_world_needs_no_file_and_holds_documents_out() -> None:
    train, validation = open_corpus("builtin:world", 0)
    seen = set(itertools.islice(train.documents(Position()), 300))
    assert len(seen) == 300
    assert seen.isdisjoint(itertools.islice(validation.documents(Position()), 300))


# -- order -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    parquet(folder / "a.parquet", [*texts("a", 9), "", *texts("A", 3)], group=3)
    parquet(folder / "b.parquet", ["", "", *texts("b", 5)], group=2)
    jsonl(folder / "c.jsonl", texts("c", CHUNK_DOCUMENTS + 5))
    jsonl(folder / "d.jsonl", ["held out"])
    return open_corpus(str(folder), 3)[0]


SIZE = 9 + 3 + 5 + CHUNK_DOCUMENTS + 5


def read(corpus: Corpus, count: int, position: Position | None = None) -> list[str]:
    return list(itertools.islice(corpus.documents(position or Position()), count))


def test_epochs_have_the_same_documents_in_different_orders(corpus: Corpus) -> None:
    documents = read(corpus, 3 * SIZE)
    first, second, third = (documents[i : i + SIZE] for i in range(0, 3 * SIZE, SIZE))
    assert Counter(first) == Counter(second) == Counter(third)
    assert len(set(first)) == SIZE
    assert first != second != third != first
    assert list(corpus.once()) == first


def test_the_order_follows_from_the_seed(corpus: Corpus) -> None:
    same, other = Corpus(corpus.files, 3), Corpus(corpus.files, 4)
    assert read(same, SIZE) == read(corpus, SIZE)
    assert read(other, SIZE) != read(corpus, SIZE)
    assert Counter(read(other, SIZE)) == Counter(read(corpus, SIZE))


def test_without_a_seed_documents_come_as_they_lie(corpus: Corpus) -> None:
    documents = read(Corpus(corpus.files, None), 2 * SIZE)
    assert documents[:12] == [*texts("a", 9), *texts("A", 3)]
    assert documents[:SIZE] == documents[SIZE:]


@pytest.fixture(scope="module")
def walked(corpus: Corpus) -> tuple[list[str], list[Position]]:
    """The documents of two epochs and a bit, and where one stands before each."""
    position = Position()
    documents, positions = [], [replace(position)]
    for document in itertools.islice(corpus.documents(position), 2 * SIZE + 40):
        documents.append(document)
        positions.append(replace(position))
    return documents, positions


@settings(deadline=None, max_examples=60)
@given(taken=st.integers(0, 2 * SIZE))
def test_resumed_anywhere_the_rest_is_the_same(
    taken: int, corpus: Corpus, walked: tuple[list[str], list[Position]]
) -> None:
    documents, positions = walked
    assert read(corpus, 40, replace(positions[taken])) == documents[taken : taken + 40]


@pytest.mark.parametrize("taken", [0, 1, SIZE - 1, SIZE, SIZE + 1, 2 * SIZE])
def test_resumed_at_the_end_of_an_epoch_the_next_one_follows(
    taken: int, corpus: Corpus, walked: tuple[list[str], list[Position]]
) -> None:
    documents, positions = walked
    assert read(corpus, 40, replace(positions[taken])) == documents[taken : taken + 40]


def test_a_single_file_resumes_anywhere_too(tmp_path: Path) -> None:
    jsonl(tmp_path / "one.jsonl", texts("d", 40))
    train, _ = open_corpus(str(tmp_path / "one.jsonl"), 0)
    documents = read(train, 38 * 3)
    for taken in range(38 * 2):
        position = Position()
        stream = train.documents(position)
        for _ in range(taken):
            next(stream)
        assert read(train, 38, replace(position)) == documents[taken : taken + 38]


# -- errors ------------------------------------------------------------------------------------------------


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path / "none", str(tmp_path / "none"))
    refused(tmp_path / "*.parquet", "*.parquet")
    refused(tmp_path, str(tmp_path))
    (tmp_path / "readme.md").write_text("hello")
    refused(tmp_path, str(tmp_path))


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.txt"])
def test_an_empty_corpus(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix == ".parquet":
        parquet(path, pa.array([], pa.string()))
    elif path.suffix == ".txt":
        path.write_text(" \n")
    else:
        jsonl(path, [])
    refused(path, str(path), "no text in it")


def test_a_corpus_of_empty_documents(tmp_path: Path) -> None:
    for name in ("a", "b"):
        parquet(tmp_path / f"{name}.parquet", [""] * 10)
    refused(tmp_path, "a.parquet", "no text in it")
    refused(tmp_path / "a.parquet", "a.parquet", "no text in it")


def test_an_empty_last_file_leaves_nothing_for_validation(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", texts("a", 3))
    jsonl(tmp_path / "b.jsonl", [])
    refused(tmp_path, "b.jsonl", "no text in it")


def test_one_document_only(tmp_path: Path) -> None:
    refused(jsonl(tmp_path / "a.jsonl", ["alone"]), "a.jsonl", "one document only")


def test_a_parquet_file_without_a_text_column_names_those_it_has(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", ["x", "y"], column="words")
    refused(path, str(path), "no column 'text'", "words, n")


def test_a_text_column_without_text_is_named(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [1, 2, 3])
    refused(path, str(path), "'text' holds int64, not text")


def test_a_torn_parquet_file(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", texts("a", 200))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, str(path), "cannot be read as parquet")
    path.write_bytes(b"not parquet at all")
    refused(path, str(path), "cannot be read as parquet")


@pytest.mark.parametrize("row", ["{", "hello", '{"text": 3}', '{"content": "x"}', '"x"', "null"])
def test_a_broken_jsonl_row_is_named_by_its_line(row: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "x"}}\n\n{row}\n{{"text": "y"}}\n')
    refused(path, f"{path}, line 3: ")


def test_a_torn_or_damaged_gz(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl.gz", [f"{i} {i * i}" for i in range(500)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, str(path), "cannot be read")
    path.write_bytes(b"not gzip at all")
    refused(path, str(path), "cannot be read")
    for place in range(20, len(whole), len(whole) // 20):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        refused(path, str(path))


def test_an_extension_that_lanbot_does_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.docx"
    path.write_text("x")
    error = refused(path, str(path))
    assert ".parquet" in error.remedy


def test_an_unknown_builtin_corpus() -> None:
    error = refused("builtin:wrld", "builtin:wrld")
    assert "builtin:world" in error.remedy


def test_a_hub_corpus_that_is_not_in_the_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANBOT_MIRROR", str(tmp_path))
    refused("hf:HuggingFaceFW/fineweb-edu", "HuggingFaceFW/fineweb-edu", str(tmp_path / "pretrain/mix_edu"))
    refused("hf:some/one/folder@main", "some/one", str(tmp_path / "some/one/folder"))


def test_a_torn_or_damaged_zst(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl.zst", [f"{i} {i * i}" for i in range(500)])
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], whole[:-1], b"not zstd at all"):
        path.write_bytes(data)
        refused(path, str(path), "cannot be read")
    path.write_bytes(whole + whole)
    assert sum(map(len, split_of(path))) == 1_000


def test_a_jsonl_row_that_is_not_utf8_is_named_or_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "x"}\n{"text": "\xff"}\n{"text": "y"}\n')
    refused(path, f"{path}, line 2: not UTF-8")
    train, held_out = open_corpus(str(path), 0, skip_bad_rows=True)
    assert [*train.once(), *held_out.once()] == ["x", "y"]


def test_a_parquet_row_that_is_not_utf8_is_named_or_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    column = pa.array([b"a", b"b", b"c", b"\xff", b"", b"d"]).cast(pa.string(), safe=False)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": column}), path, row_group_size=2)
    refused(path, f"{path}, row group 1, row 1: not UTF-8")
    train, held_out = open_corpus(str(path), 0, skip_bad_rows=True)
    assert (sorted(train.once()), list(held_out.once())) == (["a", "b", "c"], ["d"])
    assert f"{path}, row group 1, row 1: not UTF-8" in capsys.readouterr().err


def test_broken_rows_of_a_corpus_are_skipped_and_counted_only_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n{"text": \n{"words": "two"}\n{"text": "three"}\n{"text": "four"}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2") as caught:
        open_corpus(str(path), 0)
    assert "skip_bad_rows" in caught.value.remedy
    train, held_out = open_corpus(str(path), 0, skip_bad_rows=True)
    assert sorted([*train.once(), *held_out.once()]) == ["four", "one", "three"]
    assert capsys.readouterr().err.count("skipped") == 1, "the first is told, and only once"


def test_bad_rows_are_counted_once_wherever_training_stops(tmp_path: Path, chat_format: ChatFormat) -> None:
    lines = ["{" if i % 5 == 0 else json.dumps({"text": f"text {i}"}) for i in range(1_400)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines[:700]) + "\n")
    (tmp_path / "b.jsonl").write_text("\n".join(lines[700:]) + "\n")
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "held out"}) + "\n")

    def loader() -> TextLoader:
        train, _ = open_corpus(str(tmp_path), 0, skip_bad_rows=True)
        return TextLoader(train, chat_format, 1, 64, 200)

    whole, counts = loader(), []
    while whole.next_batch() is not None:
        counts.append((whole.notes(), whole.state()))
    assert counts[0][0]["bad"] > 0 and counts[-1][0]["epochs"] >= 1
    first_epoch = max(notes["bad"] for notes, _ in counts if notes["epochs"] == 0)
    assert first_epoch == 280
    for stop in range(0, 190, 19):
        later = loader()
        later.load_state(json.loads(json.dumps(counts[stop][1])))
        later.next_batch()
        assert later.notes() == counts[stop + 1][0]
