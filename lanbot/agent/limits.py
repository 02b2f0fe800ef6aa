"""What bounds a turn: its calls, tokens, seconds and dollars. The agent, evaluations and RL use the same."""

from collections.abc import Callable
from dataclasses import dataclass, field

from lanbot.config import agent as config
from lanbot.core.errors import UserError
from lanbot.tools.tool import CallHandler

ANSWERED, NO_ANSWER = "answered", "empty answer"
STEP_LIMIT, TOKEN_LIMIT, CONTEXT_LIMIT = "step limit", "token limit", "context limit"
TIME_LIMIT, COST_LIMIT = "time limit", "cost limit"
REPEATED, OPEN_CALL, UNREADABLE_CALL = "repeated call", "unfinished call", "unreadable call"
INTERRUPTION, FAILURE = "interruption", "failure"
"""Why a turn ended."""

REPEATS = 2
"""How often the same call, or the same cycle of calls, may be made in a row; the next is an error and is not run."""
LONGEST_CYCLE = 3
SAME_CALL = "error: the same call again; its result is above"
SAME_CYCLE = "error: the same calls again; their results are above"
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


@dataclass
class BoundedCalls:
    """The handler of one turn's calls: refuses repeated ones and those beyond max_steps; shortens what they return.

    A refused call is answered by an error. If the model goes on so, None ends the turn. made: the calls so far.
    """

    run: CallHandler
    max_steps: int
    shorten: Callable[[str], str] = lambda text: text
    made: list[str] = field(default_factory=list)
    refused: str = ""
    """Why the last call was not run, "" if it was."""

    def __call__(self, code: str) -> str | None:
        self.made.append(code)
        before, self.refused = self.refused, self._refusal()
        if not self.refused:
            result = self.run(code)
            return None if result is None else self.shorten(result)
        if self.refused == before or len(self.made) > self.max_steps + 1:  # it was warned
            return None
        if self.refused == STEP_LIMIT:
            return f"error: no more than {self.max_steps} calls; answer now"
        return SAME_CALL if self.made[-2] == code else SAME_CYCLE

    @property
    def left(self) -> int:
        """How many calls may still be made, the one that ends the turn included."""
        return max(0, self.max_steps + 2 - len(self.made))

    def _refusal(self) -> str:
        if len(self.made) > self.max_steps:
            return STEP_LIMIT
        cycles = range(1, LONGEST_CYCLE + 1)
        return REPEATED if any(_repeated(self.made, length) for length in cycles) else ""


def _repeated(calls: list[str], length: int) -> bool:
    """Whether the last call begins a cycle of so many calls once more than is allowed."""
    needed = REPEATS * length + 1
    last = calls[-needed:]
    return len(last) == needed and last[length:] == last[:-length]


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
