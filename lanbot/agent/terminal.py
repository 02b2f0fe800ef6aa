"""An agent on a terminal: streamed turns, questions about calls, and conversations with a few commands."""

import re
import sys
from functools import partial

from lanbot.agent.commands import COMMANDS, completions, run_command
from lanbot.agent.events import Turn
from lanbot.agent.keyboard import Keyboard
from lanbot.agent.live import Lines, Live
from lanbot.agent.permissions import terminal_ask
from lanbot.agent.session import OpenAgent
from lanbot.core.console import say
from lanbot.core.errors import UserError
from lanbot.tools.permissions import Answer, Ask
from lanbot.tools.question import Question

GAUGE = 0.5
"""From this part of the context on, the prompt says how full it is."""


def asking(live: Live) -> Ask | None:
    """Asks the user about a call, below what is shown of the turn; None where nobody can be asked."""
    ask = terminal_ask()

    def below(question: Question) -> Answer:
        live.close()
        assert ask is not None
        return ask(question)

    return None if ask is None else below


def show_turn(opened: OpenAgent, live: Live | Lines, request: str | None) -> Turn:
    """One turn, printed while it happens. request: None goes on with the turn that was cut off."""
    try:
        return opened.go_on(live) if request is None else opened.ask(request, live)
    finally:
        live.close()


def reply(opened: OpenAgent, live: Live, request: str | None) -> None:
    """One turn of a conversation."""
    if problem := opened.problem_of(show_turn(opened, live, request)):
        say(f"({problem.problem})")


def converse(opened: OpenAgent, live: Live) -> None:
    """Reads requests and commands from stdin until there are no more."""
    keyboard = Keyboard(opened.home / "history.jsonl", partial(completions, opened))
    if keyboard.interactive:
        say(f"You are talking to {opened.name}. /help lists the commands; Tab completes them.")
        if opened.cut_off:
            say("(the last turn was interrupted; /continue goes on with it)")
    stopped = False  # by Ctrl-C, just now
    while True:
        try:
            if keyboard.interactive:
                print(flush=True)
            request = keyboard.read(_prompt(opened)).strip()
        except EOFError:
            break
        except KeyboardInterrupt:
            if stopped or not keyboard.interactive:
                break
            say("\n(Ctrl-C again, Ctrl-D or /quit leaves)")
            stopped = True
            continue
        stopped = False
        if request == "/quit":
            break
        if request:
            _answer(opened, live, request, keyboard.interactive)
    if keyboard.interactive and opened.number:
        say(f"(session {opened.number}: --resume {opened.number} goes on with it)")


def _answer(opened: OpenAgent, live: Live, request: str, interactive: bool) -> None:
    """Runs a command or asks the model. Ctrl-C ends this alone."""
    command = re.fullmatch(r"(/[a-z]+)(?: +(\S+))?", request)
    try:
        if command and command[1] in COMMANDS and (COMMANDS[command[1]].argument or not command[2]):
            if run_command(opened, command[1], command[2] or ""):
                reply(opened, live, None)
        elif command and not command[2]:
            say(f"no command {request}; there are: {' '.join(COMMANDS)} (/{request} asks it)")
        else:
            reply(opened, live, request[1:] if request.startswith("//") else request)
    except UserError as error:
        say(str(error))
    except KeyboardInterrupt:
        if not interactive:
            raise
        say("(interrupted)")


def _prompt(opened: OpenAgent) -> str:
    if not sys.stdin.isatty() or not opened.agent.messages:
        return "> "
    use = opened.agent.context_use()
    full = (use.system + use.tools + use.messages) / use.context
    return f"[{full:.0%} of the context] > " if full >= GAUGE else "> "
