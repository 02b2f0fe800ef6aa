"""JSON rows of .jsonl and .json files, plain or compressed, each with its place in the file.

A .json file is an array, read item by item, or has a row on each line as a .jsonl file has.
"""

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lanbot.core.errors import UserError

SKIP = "Fix the row; in a mixture's part or in [base], skip_bad_rows = true leaves broken rows out."
HEAD = 1 << 16
"""Bytes at the start of a file by which its kind and encoding are known."""
MAX_ITEM = 1 << 26
"""Characters of an array's item; longer than that, it is taken for broken."""

_ENCODINGS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32"}
_ENCODINGS |= {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}  # after UTF-32, which begins alike
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_GAP = re.compile(r"[\s,]*")


def half_pair(text: str) -> bool:
    """Whether half of a surrogate pair is in it, which no tokenizer encodes and no file keeps."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def parse(row: bytes) -> Any:
    """A row. Raises ValueError that says what is wrong with it."""
    try:
        value = json.loads(row.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if _ESCAPED_SURROGATE.search(row) and half_pair(json.dumps(value, ensure_ascii=False)):
        raise ValueError("holds half of a surrogate pair, which is not text")
    return value


def read_jsonl(path: Path, bad_rows: list[str] | None = None) -> Iterator[tuple[str, Any]]:
    """(place, parsed row) of a file; a place is "PATH, line 3" or "PATH, item 3". Empty lines are skipped.

    A row that cannot be parsed raises UserError naming its place, or is appended to `bad_rows` if that is given.
    Lines end at \\n alone: U+2028 and U+0085 may stand inside a row.
    """
    try:
        with open_bytes(path) as file:
            head = file.read(HEAD)
        with open_bytes(path) as file:
            array = is_array(path, head)
            for number, line in enumerate(items(path, file) if array else file, 1):
                if not line.strip():
                    continue
                place = f"{path}, {'item' if array else 'line'} {number}"
                try:
                    row = parse(line)
                except ValueError as error:
                    if bad_rows is None:
                        raise UserError(f"{place}: {error}", SKIP) from None
                    bad_rows.append(f"{place}: {error}")
                    continue
                yield place, row
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: no such file", "Check the path.")
    return UserError(f"{path}: cannot be read ({error})", "Check the file; a .gz or .zst may be cut short.")


def is_array(path: Path, head: bytes) -> bool:
    """Whether a file that begins with `head` is one JSON array. A line of a .jsonl file may be a list too."""
    first, _, rest = head.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")
    first = first.strip()
    if not first.startswith(b"["):
        return False
    if ".jsonl" in path.suffixes:
        return first in (b"[", b"[{") or first.endswith(b",")
    return not (first.endswith(b"]") and rest.lstrip().startswith(b"["))


def items(path: Path, file: Any) -> Iterator[bytes]:
    """The items of a JSON array, each as one line. Raises UserError where one is not JSON: the next cannot be found."""
    decoder, text, at, number = json.JSONDecoder(), "", 0, 0
    try:
        source = io.TextIOWrapper(file, encoding="utf-8-sig", newline="\n")
        while "[" not in text:
            text += source.read(HEAD)
        at = text.index("[") + 1
        while True:
            gap = _GAP.match(text, at)
            at = gap.end() if gap else at
            if text[at : at + 1] == "]":
                return
            try:
                _, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                more = source.read(max(HEAD, len(text) - at))
                if not more or len(text) - at > MAX_ITEM:
                    raise ValueError(f"not JSON ({error})") from None
                text, at = text[at:] + more, 0
                continue
            number += 1
            yield text[at:end].replace("\n", " ").encode()
            at = end
    except ValueError as error:
        raise UserError(f"{path}, item {number + 1}: {error}", "Fix the file.") from None


def open_bytes(path: Path) -> Any:
    """A file of bytes, decompressed if its name ends in .gz or .zst; UTF-16 and UTF-32 with a byte order mark become
    UTF-8. Raises UserError for those without a mark, OSError, EOFError and zlib.error."""
    if path.suffix == ".zst":
        import pyarrow as pa

        file: Any = io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    else:
        file = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115
    head = file.peek(HEAD)[:HEAD]
    encoding = next((name for mark, name in _ENCODINGS.items() if head.startswith(mark)), "")
    if not encoding and head.count(0) <= len(head) // 4:
        return file
    with file:
        try:
            if encoding:
                return io.BytesIO(file.read().decode(encoding).encode())
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: damaged {encoding} ({error})", "Save it as UTF-8.") from None
    raise UserError(
        f"{path}: not UTF-8: its zero bytes look like UTF-16 or UTF-32 without a byte order mark",
        "Save it as UTF-8: iconv -f UTF-16LE -t UTF-8 OLD > NEW.",
    )
