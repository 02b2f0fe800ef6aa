"""How the bot speaks, by its personality; and how users type."""

import re
from collections.abc import Callable

from lanbot.config.recipe import Identity
from lanbot.synthetic.world.grammar import Rng
from lanbot.synthetic.world.scene import COLORS, FOODS
from lanbot.tools.words import words

MANNERS = {
    "warm": "warm friendly kind cheerful happy caring sweet enthusiastic optimistic sunny loving gentle encouraging",
    "formal": "formal polite courteous professional respectful proper butler dignified serious correct",
    "dry": "dry terse brief short concise laconic blunt direct point sober sarcastic grumpy plain factual",
    "playful": "playful funny witty humorous humor humour joking jokes puns silly mischievous cheeky ironic lively",
    "calm": "calm patient thoughtful wise quiet serene careful slow gentle relaxed soft",
}
"""Each manner of topics.txt, and the words of a personality that stand for it."""
UNCONTRACTED = {
    **{"I'm": "I am", "I'll": "I will", "I've": "I have", "I'd": "I would", "can't": "cannot", "don't": "do not"},
    **{"didn't": "did not", "doesn't": "does not", "isn't": "is not", "wasn't": "was not", "won't": "will not"},
    **{"haven't": "have not", "hasn't": "has not", "wouldn't": "would not", "that's": "that is", "it's": "it is"},
    **{"you're": "you are", "what's": "what is", "there's": "there is", "who's": "who is", "you'll": "you will"},
    **{"we'll": "we will", "hi": "hello", "bye": "goodbye", "thanks": "thank you"},
}
_CONTRACTED = re.compile(rf"\b(?:{'|'.join(UNCONTRACTED)})\b", re.I)
SHORT = {
    **{"you": "u", "are": "r", "your": "ur", "please": "pls", "what": "wat", "because": "cuz", "and": "n"},
    **{"really": "rly", "about": "abt", "with": "w", "people": "ppl", "know": "kno", "thanks": "thx", "okay": "k"},
}
"""What somebody in a hurry types."""
KEPT = {*FOODS, *COLORS, "hamster", "parrot", "rabbit"}
"""Words that the bot may have to say again."""
QUESTIONING, GREETING = ("🤔", "🙏", "👀"), ("🙂", "👋", "😄")


def manners(who: Identity) -> list[str]:
    """The manners that the personality names, "not too formal" aside; none if it names none."""
    said = set(words(re.sub(r"\b(?:not|never|less) (?:too |very )?\w+", " ", who.personality, flags=re.I)))
    return [manner for manner, known in MANNERS.items() if said & set(known.split())]


def spoken_in(manner: str, answer: str) -> str:
    """The answer in a manner: without exclamation where that does not suit, formally without contractions."""
    if manner in ("formal", "dry", "calm"):
        answer = re.sub(r" ?!", ".", answer.replace("¡", ""))
    return _CONTRACTED.sub(_whole, answer) if manner == "formal" else answer


def _whole(found: re.Match[str]) -> str:
    full = {key.lower(): value for key, value in UNCONTRACTED.items()}[found[0].lower()]
    return full[0].upper() + full[1:] if found[0][0].isupper() else full


def _lower(text: str, rng: Rng) -> str:
    return text.lower()


def _bare(text: str, rng: Rng) -> str:
    """Lower case without punctuation at the end."""
    return text.lower().rstrip(".?! ") or text


def _no_mark(text: str, rng: Rng) -> str:
    return text.rstrip(".?") or text


def _typo(text: str, rng: Rng) -> str:
    """In one of the longer words two letters are swapped, one is left out or doubled; what others repeat stays."""
    pieces = text.split(" ")
    may = [
        i for i, word in enumerate(pieces) if len(word) > 3 and word.isalpha() and word.islower() and word not in KEPT
    ]
    if not may:
        return _bare(text, rng)
    word = pieces[i := rng.choice(may)]
    at = rng.randint(1, len(word) - 2)
    wrong = rng.choice((word[at + 1] + word[at], word[at + 1], word[at] * 2 + word[at + 1]))
    pieces[i] = word[:at] + wrong + word[at + 2 :]
    return " ".join(pieces)


def _hurried(text: str, rng: Rng) -> str:
    return " ".join(SHORT.get(word, word) for word in _bare(text, rng).replace("'", "").split(" "))


def _loud(text: str, rng: Rng) -> str:
    return text.upper()


def _emoji(text: str, rng: Rng) -> str:
    """After questions and short exclamations only."""
    signs = QUESTIONING if text.endswith("?") else GREETING if text.endswith("!") and len(text) < 20 else ("",)
    return f"{text} {rng.choice(signs)}".rstrip()


def _kind(text: str, rng: Rng) -> str:
    return f"{text} {rng.choice(('Thanks!', 'Thank you!'))}" if text.endswith("?") else text


def _plain(text: str, rng: Rng) -> str:
    return text


TYPING: tuple[tuple[Callable[[str, Rng], str], int], ...] = (
    *((_plain, 42), (_bare, 18), (_lower, 8), (_no_mark, 8), (_typo, 8), (_hurried, 6), (_kind, 4)),
    *((_emoji, 4), (_loud, 2)),
)
"""How users type, and how many of a hundred do so."""
_TYPING = [typed for typed, share in TYPING for _ in range(share)]


def typing(rng: Rng) -> Callable[[str, Rng], str]:
    """A user's way to type."""
    return rng.choice(_TYPING)
