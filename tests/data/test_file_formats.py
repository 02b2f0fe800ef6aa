"""Files as other programs write them: columns, encodings, arrays, hidden files, splits."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lanbot.chat.formats.base import ChatFormat
from lanbot.core import jsonl as jsonl_module
from lanbot.core.errors import UserError
from lanbot.data.corpus import Corpus, open_corpus
from lanbot.data.file_formats import SAMPLE_BYTES, SAMPLES, sampled_digest
from lanbot.data.loader import TextLoader
from lanbot.data.rows import Rows

TEXTS = [f"text {i}" for i in range(40)]


def lines(path: Path, texts: list[str], key: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({key: text}) + "\n" for text in texts))
    return path


def read(source: Path | str, **settings: str) -> list[str]:
    """All that is trained and validated on, sorted."""
    return sorted(document for corpus in open_corpus(str(source), 0, **settings) for document in corpus.once())  # type: ignore[arg-type]


def both(source: Path | str) -> tuple[list[str], list[str]]:
    train, validation = open_corpus(str(source), 0)
    return sorted(train.once()), list(validation.once())


def refused(source: Path | str, **settings: str) -> UserError:
    with pytest.raises(UserError) as caught:
        read(source, **settings)
    assert str(caught.value).count("\n") == 1
    return caught.value


# -- arrays ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_json_array_is_read_item_by_item(
    name: str, indent: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "a.jsonl" and indent is None:
        pytest.skip("a line of a .jsonl file may be a list")
    monkeypatch.setattr(jsonl_module, "HEAD", 64)  # items lie over the bounds of what is read at a time
    rows = [{"text": text + ' [{"\n é\u2028' * (i % 9), "n": [i, {}]} for i, text in enumerate(TEXTS)]
    path = tmp_path / name
    path.write_text("\ufeff " + json.dumps(rows, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read(path) == sorted(row["text"] for row in rows)
    indexed = Rows([path])
    assert [indexed[i] for i in range(len(indexed))] == rows
    assert indexed.where(6) == f"{path}, item 7"


def test_a_json_file_may_have_a_row_on_each_line(tmp_path: Path) -> None:
    assert read(lines(tmp_path / "a.json", TEXTS)) == sorted(TEXTS)
    (tmp_path / "b.json").write_text('[{"role": "user"}]\n[{"role": "user"}]\n')
    assert len(Rows([tmp_path / "b.json"])) == 2


@pytest.mark.parametrize("text", ['[{"text": "a"}, {"text": ]', '[{"text": "a"}, {"text": "b"}', '[{"text": "a"}, '])
def test_a_broken_array_is_named_with_its_item(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    assert f"{tmp_path / 'a.json'}, item " in refused(tmp_path / "a.json").problem
    with pytest.raises(UserError, match=r"a\.json, item \d: not JSON"):
        Rows([tmp_path / "a.json"])


def test_json_files_beside_others_are_about_the_data(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", TEXTS)
    (tmp_path / "dataset_infos.json").write_text('{"default": {}}')
    assert read(tmp_path) == sorted(TEXTS)


# -- columns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.string_view(), pa.dictionary(pa.int16(), pa.string()),
     pa.dictionary(pa.int32(), pa.large_string())],
    ids=str,
)  # fmt: skip
def test_parquet_as_pandas_and_polars_write_it(kind: pa.DataType, tmp_path: Path) -> None:
    column = pa.array([None, "", *TEXTS]).cast(kind)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet", row_group_size=10)
    assert read(tmp_path / "a.parquet") == sorted(TEXTS)
    assert Rows([tmp_path / "a.parquet"])[5] == {"text": TEXTS[3]}


def test_the_column_of_the_text(tmp_path: Path) -> None:
    for name in ("Text", "content"):
        pq.write_table(pa.table({"id": list(range(40)), name: TEXTS}), tmp_path / "a.parquet", row_group_size=10)
        assert read(tmp_path / "a.parquet") == sorted(TEXTS)
        assert read(lines(tmp_path / "a.jsonl", TEXTS, key=name)) == sorted(TEXTS)
    pq.write_table(pa.table({"Text": TEXTS, "content": TEXTS[::-1]}), tmp_path / "a.parquet")
    error = refused(tmp_path / "a.parquet")
    assert "it has Text, content" in error.problem and "base.data_column" in error.remedy
    assert read(tmp_path / "a.parquet", column="content") == sorted(TEXTS)
    assert read(lines(tmp_path / "b.jsonl", TEXTS, key="body"), column="body") == sorted(TEXTS)
    assert "data_column" in refused(tmp_path / "b.jsonl").remedy
    assert "'words'" in refused(tmp_path / "a.parquet", column="words").problem


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_half_a_surrogate_pair_is_a_bad_row(name: str, tmp_path: Path) -> None:
    rows = ['{"text": "x"}', r'{"text": "\ud83d"}', r'{"text": "\ud83d\ude00"}']
    path = tmp_path / name
    path.write_text("\n".join(rows) if name == "a.jsonl" else f"[{', '.join(rows)}]")
    assert " 2: holds half of a surrogate pair" in refused(path).problem
    train, validation = open_corpus(str(path), 0, skip_bad_rows=True)
    assert [*train.once(), *validation.once()] == ["x", "\U0001f600"]
    with pytest.raises(UserError, match="2: holds half of a surrogate pair"):
        Rows([path])[1]


# -- encodings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Zürich\nnoël\n", encoding=encoding)
    (tmp_path / "b.jsonl").write_text('{"text": "Zürich"}\n{"text": "noël"}\n', encoding=encoding)
    assert read(tmp_path) == ["Zürich", "Zürich\nnoël\n", "noël"]


@pytest.mark.parametrize(
    ("encoding", "said"), [("utf-16-le", "UTF-16"), ("utf-32-be", "UTF-32"), ("latin-1", "Latin-1"), ("cp932", "UTF-8")]
)
def test_another_encoding_is_refused_by_file_and_name(encoding: str, said: str, tmp_path: Path) -> None:
    text = ("日本語の文章です。" if encoding == "cp932" else "Größe für Zürich") * 100
    (tmp_path / "a.txt").write_text(text, encoding=encoding)
    (tmp_path / "b.txt").write_text("x")
    error = refused(tmp_path)
    assert str(tmp_path / "a.txt") in error.problem and said in error.problem and "iconv" in error.remedy


# -- which files -------------------------------------------------------------------------------------------


def test_hidden_files_are_left_out_with_a_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.txt", "b.txt", "._a.txt", "__MACOSX/._b.txt", ".cache/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert both(tmp_path) == (["a.txt"], ["b.txt"])
    assert f"{tmp_path}: 3 hidden files are left out" in capsys.readouterr().err


def test_a_folder_of_parts_that_is_called_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "out.parquet"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    for i in range(3):
        pq.write_table(pa.table({"text": TEXTS[i::3]}), folder / f"part-0000{i}-c000.snappy.parquet")
    for source in (folder, tmp_path, tmp_path / "*.parquet"):
        assert read(source) == sorted(TEXTS)


@pytest.mark.parametrize(
    ("names", "train", "validation"),
    [
        ("train test", "train", "test"),
        ("train val test", "train", "val"),
        ("corpus-dev corpus-train more", "corpus-train more", "corpus-dev"),
        ("data/train-00000 data/validation-00000 data/validation-00001", "data/train-00000", "data/validation"),
        ("eval/a train/a train/b", "train/a train/b", "eval/a"),
        ("unit-test-code attest developer", "attest developer", "unit-test-code"),
        ("TEST a", "a", "TEST"),
    ],
)
def test_a_split_that_is_named_so_is_validation(
    names: str, train: str, validation: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names.split():
        lines(tmp_path / "set" / f"{name}.jsonl", [name, f"{name} too"])
    trained, validated = both(tmp_path / "set")
    assert trained == sorted(text for name in train.split() for text in (name, f"{name} too"))
    assert all(text.startswith(validation) for text in validated) and validated
    if "unit-test" not in names:
        assert "validation is " in capsys.readouterr().err
    assert both(tmp_path / "set" / "**" / "*.jsonl") == (trained, validated)


def test_held_out_files_alone_are_not_trained_on_unless_one_is_named(tmp_path: Path) -> None:
    for name in ("test", "dev"):
        lines(tmp_path / f"{name}.jsonl", TEXTS)
    assert "held-out" in refused(tmp_path).problem
    assert read(tmp_path / "test.jsonl") == sorted(TEXTS)


# -- files that change -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_a_corpus_that_changed_under_its_name_is_refused(count: int, tmp_path: Path, chat_format: ChatFormat) -> None:
    paths = [lines(tmp_path / f"{i}.jsonl", TEXTS) for i in range(count)]

    def loader() -> TextLoader:
        return TextLoader(open_corpus(str(tmp_path), 0)[0], chat_format, rows=1, T=16, steps=9)

    state = loader().state()
    loader().load_state(state)
    paths[0].write_text(paths[0].read_text().replace("text 7", "text 8"))
    with pytest.raises(UserError, match="the data changed since this phase began"):
        loader().load_state(state)


def test_a_digest_samples_all_of_a_small_file_and_the_ends_of_a_large_one(tmp_path: Path) -> None:
    path, size = tmp_path / "a", SAMPLES * SAMPLE_BYTES
    path.write_bytes(bytes(size))
    digests = {sampled_digest(path)}
    for place in (0, 1, size // 2, SAMPLE_BYTES, size - 1):
        path.write_bytes(bytes(place) + b"x" + bytes(size - place - 1))
        digests.add(sampled_digest(path))
    path.write_bytes(bytes(size + 1))
    assert len(digests | {sampled_digest(path)}) == 7


def test_the_fingerprint_is_that_of_what_is_trained_on(tmp_path: Path) -> None:
    def fingerprint() -> str:
        corpus: Corpus = open_corpus(str(tmp_path), 0)[0]
        return corpus.fingerprint

    lines(tmp_path / "a.jsonl", TEXTS)
    lines(tmp_path / "b.jsonl", TEXTS)
    before = fingerprint()
    lines(tmp_path / "b.jsonl", TEXTS[::-1])
    assert fingerprint() == before
