"""Bounds a turn's calls: as many as are allowed, and none again and again."""

from collections.abc import Callable
from dataclasses import dataclass, field

from lanbot.tools.tool import CallHandler

STEP_LIMIT, REPEATED = "step limit", "repeated call"
"""Why a call was refused."""
REPEATS = 2
"""How often the same call, or the same cycle of calls, may be made in a row; the next is an error and is not run."""
LONGEST_CYCLE = 3
SAME_CALL = "error: the same call again; its result is above"
SAME_CYCLE = "error: the same calls again; their results are above"


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
