"""What a node says of itself in its run's store: that it is done, that it failed, how far it is, or nothing."""

import json
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanbot.cloud import records
from lanbot.config.run import DONE
from lanbot.core.errors import UserError

if TYPE_CHECKING:
    from lanbot.cloud.records import Record
    from lanbot.cloud.stores import Store

FILES = ("done.json", "failed.json", "status.json")
MARK = "launched.json"
"""Written by the launching machine, to see that a store without news can be read at all: to a token without access, a
private repository of the hub is one that does not exist."""
SILENT = timedelta(minutes=30)
"""Without a status, which is written every two minutes at most, after which something is wrong."""


def outcome(said: Mapping[str, Mapping[str, Any]]) -> str:
    """ "done", or "failed" and why, once the node has said that; "" before."""
    if "done.json" in said:
        return "done"
    return f"failed: {said['failed.json'].get('reason')}" if "failed.json" in said else ""


def reported(record: "Record", said: Mapping[str, Mapping[str, Any]]) -> datetime | None:
    """When the launch's newest machine last wrote its status; None if only an earlier one did, or none."""
    text = str(said.get("status.json", {}).get("time", ""))
    try:
        return None if text == record.node.heard else datetime.fromisoformat(text)
    except ValueError:
        return None


def silent_since(record: "Record", said: Mapping[str, Mapping[str, Any]]) -> datetime | None:
    """Its last report or, before the first one, when it was first seen active; None if it is not active."""
    node = record.node
    if node.state != "active" or not node.active:
        return None
    return reported(record, said) or datetime.fromisoformat(node.active)


def warning(record: "Record", said: Mapping[str, Mapping[str, Any]]) -> str:
    """What to do about a machine that has been silent for long; "" if there is none."""
    since = silent_since(record, said)
    if since is None or records.now() - since < SILENT:
        return ""
    when = f"{since.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    what = f"{record.run}: its machine has written nothing to {record.job.get('store')} since {when}, it may be stuck"
    return f"{what}. Look: lanbot cloud logs {record.run}. End it: lanbot cloud down {record.run}."


def said(record: "Record") -> dict[str, dict[str, Any]]:
    """The contents of those of FILES that are there. Raises UserError."""
    store, prefix, found = record.job["store"], _prefix(record), {}
    with (
        opened(store, "read", "Check it, and its credentials.") as held,
        tempfile.TemporaryDirectory() as folder,
    ):
        names = held.names(prefix).keys()
        if prefix + MARK not in names and not record.hosts:
            problem = f"{store}: cannot be read from here, {prefix}{MARK} of the launch is not to be seen"
            raise UserError(problem, "Check the credentials: HF_TOKEN or AWS variables, in .env or the environment.")
        for file in sorted(names & {prefix + file for file in FILES}):
            local = Path(folder, file.removeprefix(prefix))
            held.pull(file, local)
            found[local.name] = json.loads(local.read_text(encoding="utf-8"))
    return {file: value if isinstance(value, dict) else {} for file, value in found.items()}


def clear(record: "Record") -> None:
    """Forgets what the node of an earlier launch said, and leaves MARK. Raises UserError if the store cannot be written
    and read.

    Without a mark for own hosts: their store may be a folder that only they have.
    """
    prefix = _prefix(record)
    with opened(record.job["store"], "used", "Check --store, and that its credentials may write.") as store:
        prove(store, prefix)
        store.delete(sorted(store.names(prefix).keys() & {prefix + file for file in FILES}))
        if not record.hosts:
            store.push({prefix + MARK: json.dumps({"time": record.started}).encode()})


def prove(store: "Store", prefix: str) -> None:
    """Pushes a small file, reads it back and removes it, as a machine will do all the time. Raises what fails."""
    name, content = f"{prefix}proof-{secrets.token_hex(4)}", secrets.token_bytes(64)
    store.push({name: content})
    try:
        with tempfile.TemporaryDirectory() as folder:
            store.pull(name, Path(folder, "proof"))
            if Path(folder, "proof").read_bytes() != content:
                raise OSError(f"{name} was read back with other contents")
    finally:
        store.delete([name])


def phases_done(store: str, run: str) -> set[str]:
    """The phases of a run that are done in a store, where a machine would take them up. Raises UserError."""
    prefix = f"runs/{run}/"
    with opened(store, "read", "Check --store, and its credentials.") as there:
        names = [name.removeprefix(prefix) for name in there.names(prefix)]
    done = {name.partition("/")[0] for name in names if name.partition("/")[2] in DONE}
    return done if "recipe.toml" in names else set()


def listed(url: str) -> list[str]:
    """The names of a store's or a source's files. Raises UserError."""
    with opened(url, "read", "Check its name, and its credentials.") as store:
        return sorted(store.names())


@contextmanager
def opened(store: str, verb: str, remedy: str) -> "Iterator[Store]":
    """An open store; what its client raises becomes a UserError: it cannot be `verb`."""
    from lanbot.cloud.stores import open_store

    try:
        yield open_store(store)
    except UserError:
        raise
    except Exception as error:  # every client has its own
        why = " ".join(str(error).split())[:300]  # some clients explain themselves on many lines
        raise UserError(f"{store}: cannot be {verb} ({why or type(error).__name__})", remedy) from None


def _prefix(record: "Record") -> str:
    return f"runs/{record.run}/node/"
