"""How varied conversations are, and which are nearly the same.

Texts are compared by the Jaccard index of their shingles, every five words in a row; an inverted index finds them.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from lanbot.chat.messages import Conversation, parts, spoken


def words_of(text: str) -> list[str]:
    """The words, lower-cased: letters and digits, also with an apostrophe or hyphen inside."""
    return re.findall(r"\w+(?:['’-]\w+)*", text.lower())


def says(answer: str, text: str) -> bool:
    """Whether the answer contains the text, in any letter case, and not as part of a longer word or number.

    Letters of other scripts may follow: they are written without spaces.
    """
    text = re.escape(text.casefold())
    return re.search(rf"(?<![a-z0-9]){text}(?![a-z0-9]|[.,]\d)", answer.casefold()) is not None


class NearDuplicates:
    """Conversations, to be searched for the most similar one."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.index: defaultdict[str, list[int]] = defaultdict(list)

    def add(self, conversation: Mapping[str, Any], below: float = 2.0) -> tuple[float, int]:
        """(Jaccard index, number) of the most similar conversation added before, (0, -1) if none shares a shingle.

        The conversation is added if that index is less than `below`. Fewer than five words are one shingle.
        """
        words = words_of("\n".join(map(spoken, conversation["messages"])))
        shingles = {" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))}
        shared = Counter(number for shingle in shingles for number in self.index.get(shingle, ()))
        indices = ((n / (len(shingles) + self.sizes[number] - n), number) for number, n in shared.items())
        closest = max(indices, default=(0.0, -1))
        if closest[0] < below:
            for shingle in shingles:
                self.index[shingle].append(len(self.sizes))
            self.sizes.append(len(shingles))
        return closest


def distinct_n(texts: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams of words as a fraction of all, none across texts; 0 if there are none."""
    grams = Counter(gram for words in texts for gram in zip(*(words[i:] for i in range(n)), strict=False))
    return len(grams) / max(1, grams.total())


def stats(conversations: Sequence[Conversation]) -> dict[str, Any]:
    """Size, length and variety, the shares with a system message, tools, several turns, and the most similar pair."""
    answers = [[m for m in one["messages"] if m["role"] == "assistant"] for one in conversations]
    answered = [words_of(spoken(answer)) for row in answers for answer in row]
    texts = [words_of(spoken(message)) for one in conversations for message in one["messages"]]
    tools = [any(part["type"] == "python" for answer in row for part in parts(answer)) for row in answers]
    near, count = NearDuplicates(), max(1, len(conversations))
    return {
        "count": len(conversations),
        "turns": len(answered),
        "words": sum(map(len, texts)),
        "words_per_answer": sum(map(len, answered)) / max(1, len(answered)),
        **{f"distinct_{n}": distinct_n(texts, n) for n in (1, 2, 3, 4)},
        "system_share": sum(one["messages"][0]["role"] == "system" for one in conversations) / count,
        "tools_share": sum(tools) / count,
        "multi_turn_share": sum(len(row) > 1 for row in answers) / count,
        "closest_pair": max(((*near.add(one), i) for i, one in enumerate(conversations)), default=(0.0, -1, -1)),
        "first_words": Counter(words[0] for words in answered if words).most_common(8),
    }
