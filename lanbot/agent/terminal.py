"""An agent on a terminal: a turn as it comes, and a conversation with its small commands."""

import sys
from collections.abc import Callable
from typing import TextIO

from lanbot.agent.loop import Agent
from lanbot.agent.session import RunTools
from lanbot.agent.transcript import ANSWERED, MARGIN, STEP_LIMIT, Turn
from lanbot.chat.display import DIM, RESET, Stream, colours
from lanbot.chat.formats.base import Event
from lanbot.core.console import say, visible
from lanbot.core.errors import UserError

COMMANDS = {
    "/help": "what can be typed here",
    "/new": "begin a new conversation; files and memory stay",
    "/files": "the files of the workspace",
    "/memory": "what it remembers",
    "/quit": "leave; so do an empty line, Ctrl-D and Ctrl-C",
}


class Lines:
    """Prints a turn token by token as a transcript shows it: calls and outputs on lines of their own, dimmed."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.colours = colours(out)
        self.part, self.margins, self.open = "text", MARGIN["text"], False

    def __call__(self, event: Event) -> None:
        if event.kind in ("open", "close"):
            self._end()
            self.part = event.part if event.kind == "open" else "text"
            self.margins = MARGIN[self.part]
        elif event.kind == "piece":
            self._write(event.text)
        self.out.flush()

    def close(self) -> None:
        self._end()
        self.out.flush()

    def _write(self, piece: str) -> None:
        for line in piece.splitlines(keepends=True):
            if not self.open:
                first, other = self.margins
                self.out.write((DIM if self.colours and self.part != "text" else "") + first)
                self.margins = (other, other)
            self.out.write(visible(line.rstrip("\r\n")))  # a file's text must not steer the terminal
            self.open = True
            if line[-1] in "\r\n":
                self._break()

    def _end(self) -> None:
        if self.open:
            self._break()

    def _break(self) -> None:
        self.out.write((RESET if self.colours and self.part != "text" else "") + "\n")
        self.open = False


def show_turn(agent: Agent, request: str, make: Callable[[TextIO], Lines | Stream] = Stream) -> Turn:
    """One turn, printed as it comes."""
    forgotten = agent.forgotten
    stream = make(sys.stdout)
    try:
        turn = agent.turn(request, stream)
    finally:
        stream.close()
    if agent.forgotten > forgotten:
        say("(The beginning of this conversation no longer fits into the context and was left out.)")
    return turn


def limit_reached(agent: Agent, turn: Turn) -> UserError | None:
    """What stopped a turn before its answer was done, and what to do about it."""
    if turn.ended == ANSWERED:
        return None
    if turn.ended == STEP_LIMIT:
        problem = f"stopped by the step limit: it went on after {agent.max_steps} calls"
        return UserError(problem, "More are allowed by agent.max_steps in the run's recipe.toml.")
    context = agent.engine.model.config.context
    limit = f"a turn of {agent.sampling.max_tokens:,} tokens, a context of {context:,}"
    return UserError(
        f"stopped by the token limit: {limit}", "Longer turns are allowed by agent.max_tokens in the run's recipe.toml."
    )


def reply(agent: Agent, request: str) -> None:
    """One turn of a conversation."""
    stopped = limit_reached(agent, show_turn(agent, request))
    if stopped is not None:
        say(f"({stopped.problem})")


def converse(agent: Agent, tools: RunTools, name: str) -> None:
    """Reads requests and commands from stdin until there are no more."""
    interactive = sys.stdin.isatty()
    if interactive:
        say(f"You are talking to {name}. {' '.join(COMMANDS)}")
    while True:
        try:
            request = input("\n> " if interactive else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if request in ("", "/quit"):
            return
        if request.startswith("/"):
            _command(request, agent, tools)
            continue
        try:
            reply(agent, request)
        except UserError as error:
            say(str(error))
        except KeyboardInterrupt:
            if not interactive:
                raise


def _command(command: str, agent: Agent, tools: RunTools) -> None:
    if command == "/help":
        print("\n".join(f"{name:8} {what}" for name, what in COMMANDS.items()))
    elif command == "/new":
        agent.new()
        say("(a new conversation)")
    elif command == "/files":
        print("\n".join(tools.workspace.names()) or "(empty)")
    elif command == "/memory":
        print("\n".join(f"{number}: {visible(text)}" for number, text in tools.memory.all()) or "(empty)")
    else:
        say(f"no command {command}; there are: {' '.join(COMMANDS)}")
