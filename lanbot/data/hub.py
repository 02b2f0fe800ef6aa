"""Where data comes from: the hub, or a mirror folder that answers for it."""

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lanbot.errors import UserError

SKIP = "Mend the line; in a mixture's part or in [base], skip_bad_rows = true leaves broken rows out."


def mirror() -> Path | None:
    """The folder that answers for the hub: $LANBOT_MIRROR, which --mirror sets."""
    folder = os.environ.get("LANBOT_MIRROR")
    return Path(folder) if folder else None


def find(hub_id: str, mirror_path: str) -> Path:
    """The file or folder of a hub data set, in the mirror. Raises UserError if it is not there."""
    folder = mirror()
    if folder is None:
        raise UserError(
            f"{hub_id}: needs a mirror folder (downloading from the hub is not built yet)",
            "Pass --mirror DIR, or set LANBOT_MIRROR; docs/architecture.md shows its layout.",
        )
    path = folder / mirror_path
    if not path.exists():
        raise UserError(f"{hub_id}: the mirror has no {path}", "Check --mirror; docs/architecture.md shows its layout.")
    return path


def read_jsonl(path: Path, bad_rows: list[str] | None = None) -> Iterator[tuple[int, Any]]:
    """(line number from 1, parsed row) of a .jsonl or .jsonl.gz file; empty lines are passed over.

    A row that is not JSON raises UserError naming file and line, or is appended to `bad_rows` if that is given.
    Lines end at \\n alone: U+2028 and U+0085 may stand inside a row.
    """
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    problem = f"{path}, line {number}: not JSON ({error})"
                    if bad_rows is None:
                        raise UserError(problem, SKIP) from None
                    bad_rows.append(problem)
                    continue
                yield number, row
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", "Check the path.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error})", "Check the file; a .gz may be cut short.") from None
