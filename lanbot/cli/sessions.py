"""lanbot sessions."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lanbot.cli.shared import Uses, open_run
from lanbot.core.console import say, table, visible
from lanbot.core.errors import UsageError, UserError

if TYPE_CHECKING:
    from lanbot.agent.sessions import Sessions
    from lanbot.agent.trace import Trace
    from lanbot.chat.messages import Conversation

Action = Literal["list", "show", "trace", "fork", "export", "delete"]
USES = Uses(
    "lanbot sessions RUN",
    list="",
    show="ID",
    trace="ID --html FILE",
    fork="ID [--at TURN]",
    export="ID ... [--out FILE], or all",
    delete="ID ...",
)
SHOWN = 60  # characters of a title in a list


def sessions(
    run: str,
    action: Action = "list",
    *given: str,
    html: Path | None = None,
    at: int | None = None,
    out: Path | None = None,
) -> None:
    """Look at the conversations of a run's agent, copy and export them.

    Args:
        run: A run's name or folder.
        action: What to do: list, show ID, trace ID, fork ID, export ID ... or all, delete ID ...; the newest is last.
        given: What the action needs.
        html: trace: the page to write, with every call and output in full.
        at: fork: after which turn; default: the last.
        out: export: the file to write, rows of training data; default: the terminal.
    """
    options = {"html": ("trace", html), "at": ("fork", at), "out": ("export", out)}
    for name, (of, value) in options.items():
        if value is not None and action != of:
            raise UsageError(f"{action}: --{name} is not for it", f"Write {USES[of]}.")
    kept = _open(run)
    if kept is None:
        if action != "list" or given:
            raise UserError(f"{run}: no sessions yet", f"Its agent makes them: lanbot agent {run}.")
        print("no sessions yet")
        return
    with kept:
        if action == "list":
            USES.check("list", not given)
            _list(kept)
        elif action == "show":
            USES.check("show", len(given) == 1)
            _show(kept, given[0])
        elif action == "trace":
            USES.check("trace", len(given) == 1 and html is not None)
            _trace(kept, given[0], html)
        elif action == "fork":
            USES.check("fork", len(given) == 1)
            print(f"session {kept.fork(given[0], at)}")
        elif action == "export":
            USES.check("export", bool(given))
            _export(kept, given, out)
        else:
            USES.check("delete", bool(given))
            for id in [kept.find(which) for which in given]:  # all of them, or none
                print(f"deleted {kept.delete(id)}")


def _open(run: str) -> "Sessions | None":
    from lanbot.agent.sessions import Sessions

    path = open_run(run).folder / "agent" / "sessions.db"
    return Sessions(path) if path.exists() else None


def _list(kept: "Sessions") -> None:
    listed = kept.listing()
    priced = any(one.cost for one in listed)
    rows = []
    for one in listed:
        figures = (one.id, one.created.replace("T", " ")[:16], visible(one.state), one.turns, f"{one.tokens:,}")
        rows.append((*figures, *((f"${one.cost:.4f}",) if priced else ()), _short(one.title)))
    header = ("id", "begun", "ended", "turns", "tokens", *(("cost",) if priced else ()), "first request")
    print(table(rows, header, left=len(header)) if rows else "no sessions yet")


def _show(kept: "Sessions", which: str) -> None:
    from lanbot.agent.trace import as_text

    print(as_text(_traced(kept, which)))


def _trace(kept: "Sessions", which: str, html: Path | None) -> None:
    from lanbot.core.files import write_atomic
    from lanbot.report.trace_page import trace_page

    assert html is not None
    write_atomic(html, trace_page(_traced(kept, which)))
    print(html)


def _traced(kept: "Sessions", which: str) -> "Trace":
    from lanbot.agent.trace import trace

    about = kept.about(which)
    return trace(about, kept.events(about.id))


def _export(kept: "Sessions", given: tuple[str, ...], out: Path | None) -> None:
    from lanbot.core.files import write_atomic

    everything = list(given) == ["all"]
    ids = [one.id for one in kept.listing()] if everything else [kept.find(which) for which in given]
    rows = [json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(kept, ids, everything)]
    if not rows:
        raise UserError(f"{', '.join(given)}: nothing to export", "Only a turn that was answered is training data.")
    if out is None:
        sys.stdout.write("".join(rows))
        return
    write_atomic(out, "".join(rows))
    counted = f"{len(rows):,} conversation{'s' * (len(rows) != 1)}"
    print(f"{out}: {counted}; lanbot data show jsonl:{out} shows one with its loss")


def _rows(kept: "Sessions", ids: list[int], skip: bool) -> "Iterator[Conversation]":
    """skip: of sessions that cannot be exported, say so and go on."""
    from lanbot.agent.training_rows import training_row

    for id in ids:
        try:
            about = kept.about(id)
            events = [event for _, event in kept.events(id)]
            row = training_row(events, about.system, about.tools, f"session {id}")
        except UserError as error:
            if not skip:
                raise
            say(f"left out: {error.problem}")
            continue
        if row is None:
            say(f"left out: session {id}: no turn was answered")
        else:
            yield row


def _short(text: str) -> str:
    line = " ".join(visible(text).split())
    return line if len(line) <= SHOWN else line[: SHOWN - 4] + " ..."
