"""What bounds a turn: its calls, tokens, seconds and dollars. The agent, evaluations and RL use the same."""

from collections.abc import Callable
from dataclasses import dataclass

from lanbot.config import agent as config
from lanbot.core.errors import UserError
from lanbot.tools.bounded import REPEATED, STEP_LIMIT

ANSWERED, NO_ANSWER = "answered", "empty answer"
TOKEN_LIMIT, CONTEXT_LIMIT = "token limit", "context limit"
TIME_LIMIT, COST_LIMIT = "time limit", "cost limit"
OPEN_CALL, UNREADABLE_CALL = "unfinished call", "unreadable call"
INTERRUPTION, FAILURE = "interruption", "failure"
"""Why a turn ended, besides REPEATED and STEP_LIMIT of the bound calls."""

NOT_RUN = "error: not run: {}"
CUT = "... [{:,} characters cut] ..."
MOST_LETTERS = 32
"""Of a token, when a text is too long to be counted."""


@dataclass(frozen=True)
class Limits:
    """Of one turn. None: no limit."""

    max_steps: int = 8  # calls. One more returns an error, another ends the turn.
    max_tokens: int = 256  # that the model writes
    max_seconds: float | None = None
    max_cost: float | None = None  # dollars, of an endpoint with prices
    max_call_seconds: float | None = 60.0  # of one call, for tools without limits of their own

    @classmethod
    def of(cls, settings: config.Agent) -> "Limits":
        """Those of a recipe, where 0 is no limit."""
        return cls(
            settings.max_steps,
            settings.max_tokens,
            settings.max_seconds or None,
            settings.max_cost or None,
            settings.max_call_seconds or None,
        )


@dataclass
class Spent:
    """What a turn has used. began: on the clock that `over` is asked with."""

    began: float
    tokens: int = 0
    cost: float = 0.0

    def over(self, limits: Limits, now: float) -> str:
        """The limit that was reached; "" if none was."""
        if self.tokens >= limits.max_tokens:
            return TOKEN_LIMIT
        if self.late(limits, now):
            return TIME_LIMIT
        if limits.max_cost is not None and self.cost >= limits.max_cost:
            return COST_LIMIT
        return ""

    def late(self, limits: Limits, now: float) -> bool:
        return limits.max_seconds is not None and now - self.began >= limits.max_seconds


def shortened(text: str, room: int, count: Callable[[str], int]) -> str:
    """The text, or its head and tail with a line that says how much was cut, in at most `room` tokens by `count`.

    Where not even that line fits, the line.
    """
    most = max(0, room) * MOST_LETTERS
    if len(text) <= most and count(text) <= room:
        return text
    low, high = 0, min(len(text) - 1, most)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(_ends(text, middle)) <= room else (low, middle - 1)
    return _ends(text, low)


def _ends(text: str, kept: int) -> str:
    """The text with so many characters kept, two thirds of them at its head."""
    tail = kept // 3
    head, mark = text[: kept - tail], CUT.format(len(text) - kept)
    return "\n".join(piece for piece in (head, mark, text[len(text) - tail :] if tail else "") if piece)


def problem_of(ended: str, limits: Limits, context: int) -> UserError | None:
    """Why a turn has no complete answer, and what to do about it; None if it has. context: the model's, in tokens."""
    recipe = "in the run's recipe.toml."
    told = {
        NO_ANSWER: ("the model answered nothing", "Ask in other words, or train it longer."),
        OPEN_CALL: ("the answer ended inside a call that was never closed", "Ask in other words."),
        UNREADABLE_CALL: ("the model wrote calls that cannot be read", "Ask in other words, or set agent.constrained."),
        REPEATED: ("the model made the same calls again and again", "Ask in other words."),
        STEP_LIMIT: (f"no answer after {limits.max_steps} calls", f"Increase agent.max_steps {recipe}"),
        TOKEN_LIMIT: (f"a turn of {limits.max_tokens:,} tokens", f"Increase agent.max_tokens {recipe}"),
        CONTEXT_LIMIT: (f"the model's context of {context:,} tokens is full", "Ask for less at once."),
        TIME_LIMIT: (f"{limits.max_seconds or 0:g} seconds for a turn", f"Increase agent.max_seconds {recipe}"),
        COST_LIMIT: (f"${limits.max_cost or 0:g} for a turn", f"Increase agent.max_cost {recipe}"),
        INTERRUPTION: ("interrupted", "Ask again, or for something else."),
        FAILURE: ("the turn failed", "Ask again."),
    }
    if ended == ANSWERED:
        return None
    problem, remedy = told.get(ended, (f"ended by the {ended}", "Ask again."))
    return UserError(f"stopped by the {ended}: {problem}" if ended.endswith("limit") else problem, remedy)
