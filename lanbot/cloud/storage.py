"""What a node says of itself in its run's store: that it is done, that it failed, how far it is."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanbot.core.errors import UserError

if TYPE_CHECKING:
    from lanbot.cloud.records import Record

FILES = ("done.json", "failed.json", "status.json")


def outcome(record: "Record") -> str:
    """ "done", or "failed" and why, once the node has written that; "" before. Raises UserError if the store fails."""
    found = said(record)
    if "done.json" in found:
        return "done"
    return f"failed: {found['failed.json'].get('reason')}" if "failed.json" in found else ""


def said(record: "Record") -> dict[str, dict[str, Any]]:
    """The contents of those of FILES that are there. Raises UserError."""
    from lanbot.cloud.stores import open_store

    prefix, found = _prefix(record), {}
    try:
        store = open_store(record.job["store"])
        names = store.names(prefix)
        with tempfile.TemporaryDirectory() as folder:
            for file in FILES:
                if prefix + file in names:
                    store.pull(prefix + file, Path(folder, file))
                    found[file] = json.loads(Path(folder, file).read_text(encoding="utf-8"))
    except UserError:
        raise
    except Exception as error:  # every client has its own
        raise UserError(f"{record.job['store']}: cannot be read ({error})", "Check it, and its credentials.") from None
    return {file: value if isinstance(value, dict) else {} for file, value in found.items()}


def clear(record: "Record") -> None:
    """Forgets what the node of an earlier launch said. Raises UserError if the store cannot be written."""
    from lanbot.cloud.stores import open_store

    prefix = _prefix(record)
    try:
        store = open_store(record.job["store"])
        store.delete(sorted(store.names(prefix).keys() & {prefix + file for file in FILES}))
    except UserError:
        raise
    except Exception as error:
        remedy = "Check --store, and that its credentials may write."
        raise UserError(f"{record.job['store']}: cannot be used ({error})", remedy) from None


def _prefix(record: "Record") -> str:
    return f"runs/{record.run}/node/"
