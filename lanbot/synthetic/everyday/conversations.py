"""The kinds of everyday conversation and their shares."""

from collections.abc import Callable
from functools import cache

from lanbot.chat.messages import Conversation
from lanbot.synthetic.everyday import before, files, letters, remembering, talk
from lanbot.synthetic.everyday.desk import Desk
from lanbot.synthetic.world.grammar import rng_of

KINDS: dict[str, tuple[int, Callable[[Desk], None]]] = {
    "small talk": (11, talk.small_talk),
    "identity": (8, talk.identity),
    "story": (4, talk.story),
    "unknown": (7, talk.unknown),
    "world": (24, talk.world),
    "before": (13, before.said_before),
    "sums": (7, letters.sums),
    "letters": (11, letters.letters),
    "problems": (9, letters.problems),
    "files": (23, files.errand),
    "memory": (12, remembering.memory),
}
"""Weights and makers."""


def everyday(split: str, index: int, who: tuple[str, str, str] = ("LanBot", "", "")) -> Conversation:
    """A conversation of any kind. who: the bot's name, its maker and its personality."""
    rng = rng_of("everyday", split, index)
    desk = Desk(rng, split, who)
    rng.choice(_makers())(desk)
    return desk.conversation


@cache
def _makers() -> tuple[Callable[[Desk], None], ...]:
    return tuple(make for weight, make in KINDS.values() for _ in range(weight))
