"""The commands of a conversation on a terminal."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from lanbot.agent.keyboard import last_word
from lanbot.agent.session import OpenAgent
from lanbot.core.console import say, table, visible
from lanbot.core.errors import UserError

TITLE = 50  # characters of a request in a list
BAR = 40  # characters of the context's picture


class Command(NamedTuple):
    does: str
    argument: str = ""


COMMANDS = {
    "/help": Command("show the commands; a question may start with // for /"),
    "/new": Command("start a new conversation; files and memory stay"),
    "/sessions": Command("list the conversations that are kept"),
    "/resume": Command("go on with another conversation", "[ID]"),
    "/fork": Command("go on with a copy of this one, or of its first turns", "[TURNS]"),
    "/continue": Command("go on with a turn that was interrupted when the program ended"),
    "/files": Command("list the files of the workspace"),
    "/memory": Command("show what it remembers"),
    "/context": Command("show what fills the context"),
    "/compact": Command("make room in the context now"),
    "/tools": Command("list the tools"),
    "/permissions": Command("show the rules about calls"),
    "/quit": Command("leave; so do Ctrl-D, and Ctrl-C twice"),
}


def run_command(opened: OpenAgent, name: str, argument: str) -> bool:
    """Prints what a command shows. Returns whether the turn that was cut off is to be continued. Raises UserError."""
    if name == "/continue":
        if not opened.cut_off:
            raise UserError("no turn was interrupted", "Ask something.")
        return True
    _RUN[name](opened, argument)
    return False


def completions(opened: OpenAgent, line: str) -> Iterable[str]:
    """Whole words that the last word of a line may become: commands at its beginning, names of files elsewhere."""
    word = last_word(line)
    if line == word and word.startswith("/"):
        return [name for name in COMMANDS if name.startswith(word)]
    return [name for name in opened.workspace.names() if word and name.startswith(word)]


def _help(opened: OpenAgent, _: str) -> None:
    shown = {f"{name} {one.argument}".strip(): one.does for name, one in COMMANDS.items()}
    width = max(map(len, shown))
    print("\n".join(f"{name:{width}} {does}" for name, does in shown.items()))


def _new(opened: OpenAgent, _: str) -> None:
    opened.new()
    say("(a new conversation)")


def _sessions(opened: OpenAgent, _: str) -> None:
    kept = opened.sessions.listing() if opened.sessions else []
    rows = []
    for one in kept:
        begun, here = one.created[:16].replace("T", " "), " *" if one.id == opened.number else ""
        rows.append((f"{one.id}{here}", begun, one.turns, one.state, _title(one.title)))
    print(table(rows, ("session", "begun (UTC)", "turns", "ended", "first request"), left=5) if rows else "(none)")


def _title(text: str) -> str:
    line = visible(" ".join(text.split()))
    return line if len(line) <= TITLE else f"{line[: TITLE - 4]} ..."


def _resume(opened: OpenAgent, which: str) -> None:
    opened.resume(which or "last")
    asked = sum(message["role"] == "user" for message in opened.agent.messages)
    say(f"(session {opened.number}, {asked} request{'s' * (asked != 1)} so far)")
    if opened.cut_off:
        say("(its last turn was interrupted; /continue goes on with it)")


def _fork(opened: OpenAgent, turns: str) -> None:
    if turns and not turns.isdecimal():
        raise UserError(f"/fork {turns}: not a number of turns", "Write /fork, or /fork 2.")
    say(f"(session {opened.fork(int(turns) if turns else None)} is the copy)")


def _files(opened: OpenAgent, _: str) -> None:
    print("\n".join(map(visible, opened.workspace.names())) or "(empty)")


def _memory(opened: OpenAgent, _: str) -> None:
    print("\n".join(f"{number}: {visible(text)}" for number, text in opened.memory.all()) or "(empty)")


def _context(opened: OpenAgent, _: str) -> None:
    use = opened.agent.context_use()
    pieces = {
        "system message": use.system,
        "tools": use.tools,
        "conversation": use.messages,
        "kept for the answer": use.answer,
        "free": max(0, use.free),
    }
    signs, bar = "stc.-", ""
    for sign, tokens in zip(signs, pieces.values(), strict=True):
        bar += sign * round(BAR * tokens / use.context)
    rows = [(sign, name, f"{tokens:,}") for sign, (name, tokens) in zip(signs, pieces.items(), strict=True)]
    print(f"[{bar[:BAR]}] {use.context:,} tokens\n{table(rows, ('', 'what', 'tokens'), left=2)}")


def _compact(opened: OpenAgent, _: str) -> None:
    say(f"({opened.compact() or 'there is nothing to shorten'})")


def _tools(opened: OpenAgent, _: str) -> None:
    rows = [
        (tool.name, tool.kind, visible(tool.description.partition("\n")[0])) for tool in opened.tools.toolset.values()
    ]
    print(table(rows, ("tool", "kind", "does"), left=3))


def _permissions(opened: OpenAgent, _: str) -> None:
    policy = opened.permissions.policy
    scopes = {
        "deny": policy.deny,
        "always, you said": policy.always,
        "ask": policy.ask,
        "allow": policy.allow,
        "allow by default": policy.defaults,
    }
    rows = [(scope, visible(str(rule))) for scope, rules in scopes.items() for rule in rules]
    print(table(rows, ("in this order", "calls"), left=2))
    print(
        "Anything else is asked about." if opened.permissions.ask else "Anything else is refused: nobody can be asked."
    )


_RUN: dict[str, Callable[[OpenAgent, str], None]] = {
    "/help": _help,
    "/new": _new,
    "/sessions": _sessions,
    "/resume": _resume,
    "/fork": _fork,
    "/files": _files,
    "/memory": _memory,
    "/context": _context,
    "/compact": _compact,
    "/tools": _tools,
    "/permissions": _permissions,
}
