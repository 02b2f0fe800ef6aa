"""General questions without answers: about the world, for advice, for a few lines of text; none about the bot."""

from functools import cache

from lanbot.synthetic.world.grammar import Rng, fill, rng_of, rows

FILE = "general/questions"
KINDS = ("place", "thing", "person", "animal", "advice", "write", "list", "word", "fact", "talk")
SLOTS = {
    "country": "country", "thing": "things", "person": "persons", "animals": "animals", "skill": "skills",
    "subject": "subjects", "kinds": "kinds", "word": "words", "word2": "words",
}  # fmt: skip
"""Which section a slot is drawn from."""


@cache
def questions(split: str, count: int) -> tuple[str, ...]:
    """`count` different ones, of each kind as many; a larger count only appends. Those of "train" are of rows and lists
    that "test" adds to."""
    found: dict[str, None] = {}
    number = 0
    while len(found) < count:
        rng = rng_of("general question", split, number)
        found.setdefault(_question(rng, split, KINDS[number % len(KINDS)]))
        number += 1
        if number > 100 * count:
            raise ValueError(f"there are not {count:,} different questions")
    return tuple(found)


def _question(rng: Rng, split: str, kind: str) -> str:
    slots = {slot: rng.choice(rows(FILE, section, split))[0][0] for slot, section in SLOTS.items()}
    return fill(rng.choice(rows(FILE, kind, split))[0], rng, slots)
