"""Rows of files: all of them, in order, each with its place; a broken one is named when it is asked for."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lanbot.core.errors import UserError
from lanbot.data import rows as rows_module
from lanbot.data.rows import Rows

TEXTS = ["a", "b\u2028c\u0085d", "", "é👩‍🚀", "x" * 200]
DATA = [{"text": text, "n": i} for i, text in enumerate(TEXTS)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in DATA).encode()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.fixture(params=["parquet", "jsonl", "jsonl.gz", "jsonl.zst"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"c.{request.param}"
    if request.param == "parquet":
        pq.write_table(pa.Table.from_pylist(DATA), path, row_group_size=2)
    else:
        path.write_bytes({"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zstd}[request.param](LINES))
    return path


def test_every_row_is_there_in_order_whatever_the_kind_of_file(path: Path) -> None:
    rows = Rows([path, path])
    assert len(rows) == 10 and [rows[i] for i in range(10)] == DATA + DATA
    assert str(path) in rows.where(7) and rows.where(7).endswith((" 3",))
    with pytest.raises(IndexError):
        rows[10]


def test_lines_are_found_over_the_bounds_of_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "PIECE", 7)
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\n" + LINES.replace(b"\n", b"\n  \n\n") + b'"no end of line"')
    rows = Rows([path])
    assert [rows[i] for i in range(len(rows))] == [*DATA, "no end of line"]
    assert [rows.where(i).rpartition(" ")[2] for i in range(3)] == ["2", "5", "8"]


@pytest.mark.parametrize("line", [b"{", b"\xff\xfe", b'{"a": "\xe9"}', b"[" * 100_000])
def test_a_line_that_is_not_json_is_named_when_it_is_asked_for(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n')
    rows = Rows([path])
    assert (rows[0], rows[2]) == ({"a": 1}, {"a": 2})
    with pytest.raises(UserError) as caught:
        rows[1]
    assert caught.value.problem.startswith((f"{path}, line 3: not JSON", f"{path}, line 3: not UTF-8"))


def test_text_that_is_not_utf8_in_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    wrong = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\4\0\0\0\6\0\0\0"), pa.py_buffer(b"fine\xff\xfe"))
    pq.write_table(pa.table({"text": wrong}), path)
    rows = Rows([path])
    assert rows[0] == {"text": "fine"}
    with pytest.raises(UserError, match=r"c\.parquet, row 2: not UTF-8"):
        rows[1]


@pytest.mark.parametrize("kind", ["parquet", "jsonl.gz", "jsonl.zst"])
def test_a_torn_file_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"c.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(DATA), path)
        whole = path.read_bytes()
    else:
        whole = (gzip.compress if kind.endswith("gz") else zstd)(LINES)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        Rows([path])
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        Rows([tmp_path / "none.jsonl"])
