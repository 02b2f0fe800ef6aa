"""Beginnings of prompts whose keys and values are held, so that they are computed once."""

from collections import OrderedDict
from collections.abc import Sequence

from lanbot.inference.slots import Held

SHORTEST = 16
"""Tokens below which a shared beginning is not worth a copy."""
MOST = 128
"""Sequences that are held: all are compared with each new prompt."""


class Prefixes:
    """Sequences that ended, the least recently used dropped first beyond `budget` bytes."""

    def __init__(self, budget: int) -> None:
        self.budget, self.bytes = budget, 0
        self._held: OrderedDict[int, Held] = OrderedDict()
        self._number = 0

    def add(self, held: Held) -> None:
        """Keeps a sequence; those that are its beginning are dropped."""
        for number in [n for n, old in self._held.items() if shared(old.ids, held.ids) == len(old.ids)]:
            self.bytes -= self._held.pop(number).bytes
        if held.bytes > self.budget:
            return
        self._number += 1
        self._held[self._number] = held
        self.bytes += held.bytes
        while self.bytes > self.budget or len(self._held) > MOST:
            self.bytes -= self._held.popitem(last=False)[1].bytes

    def longest(self, prompt: Sequence[int]) -> tuple[int, Held | None]:
        """The sequence that shares most of the prompt's beginning, and how many tokens; (0, None) if none does."""
        best, found = 0, None
        for number, held in self._held.items():
            if (n := shared(held.ids, prompt)) > best:
                best, found = n, number
        if found is None:
            return 0, None
        self._held.move_to_end(found)
        return best, self._held[found]

    def clear(self) -> None:
        self._held.clear()
        self.bytes = 0


def shared(a: Sequence[int], b: Sequence[int], least: int = SHORTEST) -> int:
    """How many tokens two sequences begin with alike; 0 if they are fewer than `least`."""
    n = min(len(a), len(b))
    if n < least or a[:least] != b[:least]:
        return 0
    if a[:n] == b[:n]:
        return n
    low, high = least, n  # the first `low` tokens are equal, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle)
    return low
