"""How varied conversations are, and which are nearly the same.

Words are runs of letters and digits, lower-cased. Two texts are compared by their shingles, every five words in a row:
the Jaccard index of the two sets. Candidates are found by MinHash with banding (Broder 1997), then compared exactly.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lanbot.chat.messages import Conversation, parts, spoken

SHINGLE = 5
"""Words."""
HASHES = 128
MISSED = 1e-4
"""The chance that a pair at the threshold is no candidate."""

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_RNG = np.random.default_rng(5)
_FACTORS = _RNG.integers(1 << 62, size=HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_SHIFTS = _RNG.integers(1 << 62, size=HASHES, dtype=np.uint64)


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def says(answer: str, text: str) -> bool:
    """Is `text` in the answer, whatever the case, and not as a part of a longer word or number?

    Letters of other scripts may follow: there a word has no space after it.
    """
    text = re.escape(text.casefold())
    return re.search(rf"(?<![a-z0-9]){text}(?![a-z0-9]|[.,]\d)", answer.casefold()) is not None


def text_of(conversation: Conversation) -> str:
    """All that is said, a line a message."""
    return "\n".join(spoken(message) for message in conversation["messages"])


def distinct_n(conversations: Iterable[Conversation], n: int = 4) -> float:
    """Different n-grams of words, of all n-grams; none reaches over the end of a message. 0 if there are none."""
    seen: set[tuple[str, ...]] = set()
    total = 0
    for conversation in conversations:
        for message in conversation["messages"]:
            grams = _grams(words_of(spoken(message)), n)
            seen.update(grams)
            total += len(grams)
    return len(seen) / total if total else 0.0


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def shingles(text: str) -> frozenset[str]:
    """The text's shingles; a text of fewer words is one shingle."""
    words = words_of(text)
    return frozenset(" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    both = len(one & other)
    return both / (len(one) + len(other) - both)


class NearDuplicates:
    """Texts of which no two have a Jaccard index of `threshold` or more.

    Bands are so narrow that a pair at the threshold is missed with a chance of MISSED at most.
    """

    def __init__(self, threshold: float = 0.8) -> None:
        self.threshold = threshold
        widths = (width for width in (4, 3, 2, 1) if (1 - threshold**width) ** (HASHES // width) < MISSED)
        self.width = next(widths, 1)
        self.texts: list[frozenset[str]] = []
        self.bands: list[dict[bytes, list[int]]] = [{} for _ in range(HASHES // self.width)]

    def add(self, text: str) -> bool:
        """Takes the text up if none of those before is nearly the same. Was it?"""
        found = shingles(text)
        keys: list[bytes] = []
        if self.closest(found, keys)[0] >= self.threshold:
            return False
        self.keep(found, keys)
        return True

    def closest(self, found: frozenset[str], keys: list[bytes]) -> tuple[float, int]:
        """(Jaccard index, number) of the candidate that has most in common, (0, -1) if there is none.

        The keys of the text's bands are left in `keys`.
        """
        hashes = np.array([zlib.crc32(shingle.encode()) for shingle in found], dtype=np.uint64)
        signature = ((hashes[:, None] * _FACTORS + _SHIFTS) >> np.uint64(32)).min(axis=0).astype(np.uint32).tobytes()
        size = 4 * self.width
        keys[:] = [signature[i * size : (i + 1) * size] for i in range(len(self.bands))]
        near: set[int] = set()
        for band, key in zip(self.bands, keys, strict=True):
            near.update(band.get(key, ()))
        return max(((jaccard(found, self.texts[i]), i) for i in near), default=(0.0, -1))

    def keep(self, found: frozenset[str], keys: Sequence[bytes]) -> None:
        for band, key in zip(self.bands, keys, strict=True):
            band.setdefault(key, []).append(len(self.texts))
        self.texts.append(found)


def closest_pair(texts: Iterable[str]) -> tuple[float, int, int]:
    """(Jaccard index, number, number) of the two texts that have most in common; below 0.5 it may be another pair."""
    near = NearDuplicates(0.6)
    best = (0.0, -1, -1)
    for number, text in enumerate(texts):
        keys: list[bytes] = []
        found = shingles(text)
        index, other = near.closest(found, keys)
        near.keep(found, keys)
        best = max(best, (index, other, number))
    return best


def stats(conversations: Sequence[Conversation]) -> dict[str, Any]:
    """Figures of a set: how many, how long, how varied; what shares have a system message, tools, several turns."""
    count = len(conversations)
    turns, words, answer_words = 0, 0, 0
    shares = Counter({"system": 0, "tools": 0, "multi_turn": 0})
    first: Counter[str] = Counter()
    for conversation in conversations:
        messages = conversation["messages"]
        answers = [message for message in messages if message["role"] == "assistant"]
        turns += len(answers)
        answer_words += sum(len(words_of(spoken(answer))) for answer in answers)
        words += sum(len(words_of(spoken(message))) for message in messages)
        shares["system"] += messages[0]["role"] == "system"
        shares["tools"] += any(part["type"] == "python" for answer in answers for part in parts(answer))
        shares["multi_turn"] += len(answers) > 1
        first.update(word for answer in answers for word in words_of(spoken(answer))[:1])
    return {
        "count": count,
        "turns": turns,
        "words": words,
        "words_per_answer": answer_words / max(1, turns),
        **{f"distinct_{n}": distinct_n(conversations, n) for n in (1, 2, 3, 4)},
        **{f"{name}_share": shares[name] / max(1, count) for name in shares},
        "closest_pair": closest_pair(map(text_of, conversations)),
        "first_words": first.most_common(8),
    }
