"""The permissions of an agent's session: rules of its recipe and of the command line, and a user at a terminal."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from lanbot.agent.events import Permission
from lanbot.config.agent import RULE, Permissions
from lanbot.core.console import say, visible
from lanbot.core.errors import UsageError
from lanbot.tools.permissions import OWN_FILES, Answer, Ask, Decision, Permitted, Policy
from lanbot.tools.question import Question
from lanbot.tools.toolbox import Toolbox
from lanbot.tools.workspace import Workspace

ANSWERS = {"o": "once", "once": "once", "a": "always", "always": "always", "n": "no", "no": "no", "": "no"}


def merged(recipe: Permissions, deny: Sequence[str], ask: Sequence[str], allow: Sequence[str]) -> Permissions:
    """The recipe's rules with those of --deny, --ask and --allow. What the recipe denies stays denied: all of deny is
    looked at before all of ask, and that before all of allow. Raises UsageError."""
    for option, rules in (("--deny", deny), ("--ask", ask), ("--allow", allow)):
        for rule in rules:
            if not RULE.fullmatch(rule.strip()):
                remedy = "Write a kind (read, write, network, execute), a tool, or tool(...) in quotes."
                raise UsageError(f"{option} {rule!r} is no rule", remedy)
    return Permissions((*recipe.deny, *deny), (*recipe.ask, *ask), (*recipe.allow, *allow))


def permit(
    tools: Toolbox,
    files: Workspace,
    settings: Permissions,
    home: Path,
    ask: Ask | None,
    on_event: Callable[[Permission], None] = lambda event: None,
) -> Permitted:
    """Puts permissions around a toolbox; a rule that can never match is said.

    home: the run's folder. ask: None where nobody can be asked; what was refused then is said once. on_event: hears of
    each decision.
    """
    own = files.folder is None or files.folder.is_relative_to(home.resolve() / "agent" / "files")
    further = [*(OWN_FILES if own else ()), *(["python"] if tools.sandboxed else [])]
    policy = Policy.of(settings, further, home)
    for line in policy.warnings(tools.toolset):
        say(f"warning: {visible(line)}")
    told: set[str] = set()

    def decided(decision: Decision) -> None:
        if decision.answer == "deny" and (key := f"{decision.tool}: {decision.by}") not in told:
            told.add(key)
            say(refusal(decision))
        on_event(Permission(decision.tool, decision.arguments, decision.answer, decision.by))

    made = Permitted(tools.toolset, policy, files, ask, decided)
    tools.wrap(lambda inner: made)
    return made


def refusal(decision: Decision) -> str:
    """Two lines for the user about a call that was not made: why, and what would allow it."""
    line = f"{decision.tool} was not allowed: {decision.by}"
    if decision.by.endswith("nobody can be asked"):
        line += f"\nAllow it with --allow '{decision.rule}', or in the recipe's agent.permissions."
    return visible(line)


def terminal_ask() -> Ask | None:
    """Asks the user if stdin and stderr are a terminal; else None."""
    return ask_on_terminal if sys.stdin.isatty() and sys.stderr.isatty() else None


def ask_on_terminal(question: Question) -> Answer:
    """Shows a call and reads once, always or no. What was typed before the question was shown does not count."""
    say(f"\n{question.text}")
    for _ in range(3):
        _forget_typed()
        print(f"Allow? [o]nce, [a]lways {question.always}, [n]o: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()  # not input(), which would keep the answer in the history of questions
        answer = ANSWERS.get(line.strip().lower())
        if answer is not None:
            return cast(Answer, answer)
    return "no"


def _forget_typed() -> None:
    with suppress(ImportError, OSError, ValueError):
        import termios

        with suppress(termios.error):
            termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
