"""JSON lines, plain or compressed: each row with its number, a broken one as an error that names its line."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lanbot.core.errors import UserError

SKIP = "Mend the line; in a mixture's part or in [base], skip_bad_rows = true leaves broken rows out."


def read_jsonl(path: Path, bad_rows: list[str] | None = None) -> Iterator[tuple[int, Any]]:
    """(line number from 1, parsed row) of a .jsonl, .jsonl.gz or .jsonl.zst file; empty lines are passed over.

    A row that is not JSON raises UserError naming file and line, or is appended to `bad_rows` if that is given.
    Lines end at \\n alone: U+2028 and U+0085 may stand inside a row.
    """
    try:
        with open_bytes(path) as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError) as error:
                    what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not JSON"
                    problem = f"{path}, line {number}: {what} ({error})"
                    if bad_rows is None:
                        raise UserError(problem, SKIP) from None
                    bad_rows.append(problem)
                    continue
                yield number, row
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", "Check the path.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: cannot be read ({error})", "Check the file; a .gz or .zst may be cut short."
        ) from None


def open_bytes(path: Path) -> Any:
    """A file of bytes, unpacked as it is read if its name ends in .gz or .zst."""
    if path.suffix == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
