"""How users write: each has a way of their own, which is put on what they say."""

from collections.abc import Callable

from lanbot.synthetic.world.grammar import Rng

EMOJI = (
    "🙂",
    "😀",
    "😄",
    "😂",
    "🤔",
    "😎",
    "👋",
    "🎉",
    "❤️",
    "🙏",
    "😴",
    "😭",
    "🙄",
    "😡",
    "✨",
    "🔥",
    "🐱",
    "🍕",
    "🚀",
)
SHORT = {
    **{"you": "u", "are": "r", "your": "ur", "please": "pls", "what": "wat", "because": "cuz", "and": "n"},
    **{"really": "rly", "about": "abt", "with": "w", "people": "ppl", "know": "kno"},
}
"""What somebody in a hurry writes."""


def _plain(text: str, rng: Rng) -> str:
    return text


def _lower(text: str, rng: Rng) -> str:
    """No capitals, and no sign at the end."""
    return text.lower().rstrip(".?!") or text


def _no_capitals(text: str, rng: Rng) -> str:
    return text.lower()


def _typos(text: str, rng: Rng) -> str:
    """One or two of the long words misspelled, not beyond recognition; names stay, and what has digits or quotes."""
    words = text.split(" ")
    may = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha() and word.islower()]
    for i in (rng.choice(may) for _ in range(min(len(may), rng.randint(1, 2)))):
        word = words[i]
        at = rng.randint(1, len(word) - 3)
        swap = rng.random() < 0.6
        words[i] = word[:at] + (word[at + 1] + word[at] + word[at + 2 :] if swap else word[at] + word[at:])
    return " ".join(words)


def _emoji(text: str, rng: Rng) -> str:
    signs = rng.choice(EMOJI) * (1 if rng.random() < 0.8 else 2)
    return f"{text} {signs}"


def _loud(text: str, rng: Rng) -> str:
    return text.upper().rstrip(".") + rng.choice(("", "!", "!!"))


def _hurried(text: str, rng: Rng) -> str:
    words = [SHORT.get(word, word) if rng.random() < 0.8 else word for word in text.lower().split(" ")]
    return " ".join(words).rstrip(".")


def _child(text: str, rng: Rng) -> str:
    """Letters drawn out, and many signs."""
    end = text[-1]
    stretched = rng.choice((" pleeease", " haha", " hihi", " okayyy", " yaaay", " hmmmm"))
    return (text[:-1].rstrip() + stretched + end * rng.randint(1, 3)) if end in "?!." else text + stretched


def _formal(text: str, rng: Rng) -> str:
    before = ("Good day. ", "Dear assistant, ", "With respect: ", "If you permit: ", "Kindly attend to this. ")
    after = ("", "", " Thank you in advance.", " I await your answer.", " Yours sincerely.")
    return rng.choice(before) + text + rng.choice(after)


def _hesitant(text: str, rng: Rng) -> str:
    return rng.choice(("Um... ", "Hmm... ", "Uh, well... ", "Er... ", "So, um... ", "Well... ")) + text


STYLES: dict[str, tuple[Callable[[str, Rng], str], float]] = {
    "plain": (_plain, 46),
    "lower": (_lower, 11),
    "no capitals": (_no_capitals, 6),
    "typos": (_typos, 9),
    "emoji": (_emoji, 8),
    "loud": (_loud, 2),
    "hurried": (_hurried, 5),
    "child": (_child, 4),
    "formal": (_formal, 4),
    "hesitant": (_hesitant, 5),
}
"""How each writes, and how many of a hundred do so."""

_ALL = [write for write, weight in STYLES.values() for _ in range(int(weight))]


def any_style(rng: Rng) -> Callable[[str, Rng], str]:
    style: Callable[[str, Rng], str] = rng.choice(_ALL)
    return style
