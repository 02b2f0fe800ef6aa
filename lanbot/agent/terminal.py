"""An agent on a terminal: streamed turns, and conversations with a few commands."""

import re
import select
import sys

from lanbot.agent.events import Called, Compacted, Event, OnEvent, Streamed, Turn
from lanbot.agent.limits import problem_of
from lanbot.agent.loop import Agent
from lanbot.agent.session import Session
from lanbot.chat.display import Terminal
from lanbot.chat.formats.base import Event as Piece
from lanbot.core.console import say, visible
from lanbot.core.errors import UserError

COMMANDS = {
    "/help": "show the commands; a question may start with // for /",
    "/new": "start a new conversation; files and memory stay",
    "/files": "list the files of the workspace",
    "/memory": "show what it remembers",
    "/quit": "leave; so do Ctrl-D and Ctrl-C",
}


def show_turn(agent: Agent, request: str) -> Turn:
    """One turn, printed while it is generated."""
    shown = Terminal(sys.stdout)
    try:
        return agent.turn(request, showing(shown))
    finally:
        shown.close()


def showing(shown: Terminal) -> OnEvent:
    """A listener that prints what is generated and what calls return."""

    def hear(event: Event) -> None:
        if isinstance(event, Streamed):
            shown(Piece(event.kind, event.part, event.text, event.invented))
        elif isinstance(event, Called):
            for piece in Piece("open", "output"), Piece("piece", "output", event.output), Piece("close", "output"):
                shown(piece)
        elif isinstance(event, Compacted):
            say(f"(The conversation no longer fits into the context: {event.how}.)")

    return hear


def reply(agent: Agent, request: str) -> None:
    """One turn of a conversation."""
    turn = show_turn(agent, request)
    if problem := problem_of(turn.ended, agent.limits, agent.model.context_length):
        say(f"({problem.problem})")


def converse(session: Session, name: str) -> None:
    """Reads requests and commands from stdin until there are no more."""
    interactive = sys.stdin.isatty()
    pastes_whole = interactive and line_editing()
    if interactive:
        say(f"You are talking to {name}. {' '.join(COMMANDS)}")
    while True:
        try:
            if interactive:
                print(flush=True)
            request = input("> " if interactive else "")
            while interactive and not pastes_whole and _input_waits():
                request += "\n" + input()
        except (EOFError, KeyboardInterrupt):
            return
        request = request.strip()
        if request == "/quit":
            return
        if request in COMMANDS:
            _command(request, session)
        elif re.fullmatch("/[a-z]+", request):
            say(f"no command {request}; there are: {' '.join(COMMANDS)} (/{request} asks it)")
        elif request:
            try:
                reply(session.agent, request[1:] if request.startswith("//") else request)
            except UserError as error:
                say(str(error))
            except KeyboardInterrupt:
                if not interactive:
                    raise


def line_editing() -> bool:
    """Turns on line editing and history for input(). Returns whether a paste of several lines stays one message."""
    try:
        import readline
    except ImportError:
        return False
    if "libedit" in (readline.__doc__ or ""):
        return False
    readline.parse_and_bind("set enable-bracketed-paste on")
    return True


def _input_waits() -> bool:
    """Whether more input is waiting, sooner than anybody types: the rest of a paste."""
    try:
        return bool(select.select([sys.stdin], [], [], 0.02)[0])
    except (OSError, ValueError):
        return False


def _command(command: str, session: Session) -> None:
    if command == "/help":
        print("\n".join(f"{name:8} {what}" for name, what in COMMANDS.items()))
    elif command == "/new":
        session.new()
        say("(a new conversation)")
    elif command == "/files":
        print("\n".join(map(visible, session.workspace.names())) or "(empty)")
    elif command == "/memory":
        print("\n".join(f"{number}: {visible(text)}" for number, text in session.memory.all()) or "(empty)")
