"""lanbot memory."""

from typing import TYPE_CHECKING, Literal

from lanbot.cli.shared import Uses, open_run
from lanbot.core.console import table, visible
from lanbot.core.errors import UserError

if TYPE_CHECKING:
    from lanbot.tools.memory import Entry, Memory

Action = Literal["list", "show", "add", "edit", "forget", "search"]
USES = Uses(
    "lanbot memory RUN", list="", show="NUMBER", add="TEXT", edit="NUMBER TEXT", forget="NUMBER ...", search="WORDS"
)
SHOWN = 80  # characters of a text in a list


def memory(run: str, action: Action = "list", *given: str) -> None:
    """Look at what a run's agent remembers, and change it.

    Args:
        run: A run's name or folder.
        action: What to do: list, show NUMBER, add TEXT, edit NUMBER TEXT, forget NUMBER ..., search WORDS.
        given: What the action needs.
    """
    from lanbot.tools.memory import Memory
    from lanbot.tools.tool import ToolError

    path = open_run(run).folder / "agent" / "memory.db"
    kept = Memory(path if path.exists() or action == "add" else None, source="lanbot memory")
    try:
        _ACTIONS[action](kept, list(given))
    except ToolError as error:
        raise UserError(f"{run}: {error}", f"List what there is: lanbot memory {run}.") from None
    finally:
        kept.close()


def _list(kept: "Memory", given: list[str]) -> None:
    USES.check("list", not given)
    _print(kept.entries())


def _show(kept: "Memory", given: list[str]) -> None:
    USES.check("show", len(given) == 1)
    entry = _entry(kept, _number("show", given[0]))
    print(visible(entry.text))
    print(f"remembered {entry.time or 'at an unknown time'} in {visible(entry.source) or 'an unknown conversation'}")


def _add(kept: "Memory", given: list[str]) -> None:
    USES.check("add", bool(given))
    print(kept.remember(" ".join(given)))


def _edit(kept: "Memory", given: list[str]) -> None:
    USES.check("edit", len(given) > 1)
    number = _number("edit", given[0])
    kept.edit(number, " ".join(given[1:]))
    print(f"edited {number}")


def _forget(kept: "Memory", given: list[str]) -> None:
    USES.check("forget", bool(given))
    for entry in [_entry(kept, _number("forget", one)) for one in given]:  # all of them, or none
        print(kept.forget(entry.number))


def _search(kept: "Memory", given: list[str]) -> None:
    USES.check("search", bool(given))
    _print(kept.search(" ".join(given)))


_ACTIONS = {"list": _list, "show": _show, "add": _add, "edit": _edit, "forget": _forget, "search": _search}


def _print(entries: "list[Entry]") -> None:
    rows = [(entry.number, entry.time, visible(entry.source), _short(visible(entry.text))) for entry in entries]
    print(table(rows, ("number", "time", "conversation", "text"), left=4) if rows else "nothing is remembered")


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 4] + " ..."


def _entry(kept: "Memory", number: int) -> "Entry":
    from lanbot.tools.tool import ToolError

    for entry in kept.entries():
        if entry.number == number:
            return entry
    raise ToolError(f"nothing is remembered as {number}")


def _number(action: str, text: str) -> int:
    USES.check(action, text.isdecimal() and len(text) < 19)
    return int(text)
