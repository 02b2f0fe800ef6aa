"""What the slots of the written texts stand for: [identity], and names and numbers drawn for one conversation."""

from typing import Any

from lanbot.config.recipe import Identity
from lanbot.synthetic.world.grammar import Rng
from lanbot.synthetic.world.scene import ANIMALS, COLORS, DAYS, FOODS, PETS, WORDS, Scene
from lanbot.tools.words import content_words

TOOLS = {
    "do sums": "calculate, do sums, math",
    "count letters": "count letters, spell words",
    "read and write files": "read, write files",
    "remember things for you": "remember, note",
}
"""What every bot can do with its tools, and what that takes: a recipe's limitation may be just that."""
LISTS = {
    "bot": "ChatGPT Siri Alexa Claude Gemini Cortana Copilot Llama Bard Mistral Grok DeepSeek Bixby Watson Jarvis Qwen",
    "stem": "notes shopping todo plan ideas trip party list letter recipes budget garden school work diary dinner",
    "company": "OpenAI Google Apple Amazon Meta Microsoft Anthropic Samsung IBM DeepMind Nvidia xAI Baidu Sony",
    "user": """
        Anna Ben Clara David Emma Felix Greta Hannah Ivan Julia Karim Lena Marco Nina Omar Paula Ravi Sara Tim
        Victor Wendy Yusuf Zoe Amir Bianca Chen Dina Elif Farid Grace Hugo Ines Jonas Keiko Lars Mei Noor Oscar Priya
        Rosa Sven Tara Umar Vera Wanda Yara Alice Bruno Carla Diego Ella Frank Gina Hasan Irene Jack Kim Leo Mia""",
    "city": """
        Berlin Paris London Madrid Rome Vienna Cardiff Lisbon Oslo Prague Dublin Zurich Boston Chicago Toronto
        Mumbai Seoul Nairobi Lima Sydney Cairo Osaka Porto Bergen Leeds Austin Denver Warsaw Athens Naples""",
}
APART = ("like", "but", "with", "never", "not", "or")
"""First words of a last part of a personality that "and" does not join."""
LOWER = ("my", "the", "a", "an", "it", "there", "when", "all", "some", "on", "in", "at", "we", "nobody", "every", "for")
"""First words that lose their capital within a sentence."""


def at_odds(takes: str, limitations: tuple[str, ...]) -> bool:
    """Whether a limitation is about what something takes."""
    needed = set(content_words(takes))
    return any(needed & set(content_words(limit)) for limit in limitations)


class Slots(dict[str, Any]):
    """Drawn when a template first names them. {color2} differs from {color}; {fact_low} begins without a capital,
    {creator_up} with one; {name_loud} is in capitals."""

    def __init__(self, rng: Rng, split: str, who: Identity) -> None:
        creator, self.rng, self.split, self.who = who.creator.strip() or "the person who runs me", rng, split, who
        self.world = Scene(rng, split)
        manner = clause(who.personality) or "helpful"
        *_, last = parts = manner.split(", ")
        manner = manner if " and " in manner or last.split(" ")[0] in APART else joined(parts, "and")
        super().__init__(name=who.name.strip(), creator=creator, year=str(who.year), manner=manner)
        self["what"] = lowered(who.description.strip().rstrip(".")) or "an AI assistant"
        self["creator_you"] = who.creator.strip() or "the person who runs you"
        self["tongues"] = joined([tongue for tongue in who.greetings if tongue.casefold() != "english"], "and")

    def __missing__(self, slot: str) -> Any:
        base, _, form = slot.rpartition("_")
        if form == "up":
            return self[base][:1].upper() + self[base][1:]
        if form == "low":
            return lowered(self[base])
        if form == "loud":
            return self[base].upper()
        self[slot] = self.drawn(slot)
        return self[slot]

    def renew(self, *slots: str) -> None:
        """These are drawn anew when next named."""
        for slot in slots:
            self.pop(slot, None)

    def drawn(self, slot: str) -> Any:
        if slot.endswith("2"):
            return next(value for value in iter(lambda: self.drawn(slot[:-1]), None) if value != self[slot[:-1]])
        if slot in LISTS:
            own = f"{self.who.name} {self.who.creator}".casefold()
            return self.rng.choice([w for w in _split(LISTS[slot].split(), self.split) if w.casefold() not in own])
        return _DRAWN[slot](self)


def _split(words: Any, split: str) -> list[str]:
    return [word for i, word in enumerate(words) if (i % 4 == 1) == (split == "test")]


def joined(items: Any, last: str) -> str:
    items = list(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}" if len(items) > 1 else "".join(items)


def lowered(sentence: str) -> str:
    """As it stands within a sentence; a name keeps its capital."""
    first = sentence.split(" ")[0].lower()
    return sentence[:1].lower() + sentence[1:] if first in LOWER else sentence


def clause(told: str) -> str:
    """ "Explain sums." as it stands after "I can"."""
    told = told.strip().rstrip(".")
    return told[:1].lower() + told[1:] if told[1:2].islower() else told


def sentence(told: str) -> str:
    """With a full stop if it ends with no mark."""
    return told.strip() + ("" if told.strip().endswith((".", "!", "?", "…")) else ".")


def _tools(s: Slots) -> list[str]:
    return [tool for tool, takes in TOOLS.items() if not at_odds(takes, s.who.limitations)]


def _can(s: Slots) -> str:
    """All of the recipe's and the tools, or some."""
    tools, own = _tools(s), list(map(clause, s.who.capabilities))
    if s.rng.random() < 0.6:
        tools = s.rng.sample(tools, min(len(tools), 2))
        own = s.rng.sample(own, min(len(own), 3))
    return joined([*own, *tools], "and") or "talk with you"


_DRAWN: dict[str, Any] = {
    "can": _can,
    "some_can": lambda s: s.rng.choice([*map(clause, s.who.capabilities), *_tools(s)] or ["talk with you"]),
    "cannot": lambda s: (
        joined(map(clause, s.rng.sample(limits := s.who.limitations, len(limits))[:3]), "or") or "see or hear"
    ),
    "ability": lambda s: clause(s.rng.choice(s.who.capabilities)),
    "inability": lambda s: clause(s.rng.choice(s.who.limitations)),
    "quirk": lambda s: sentence(s.rng.choice(s.who.quirks)),
    "fact": lambda s: sentence(s.rng.choice(s.who.facts)),
    "madeup": lambda s: str(s.world.invented()),
    "animal": lambda s: s.rng.choice([animal for animal, _ in ANIMALS[:2]] + ["hamster", "parrot", "rabbit"]),
    "pet": lambda s: s.rng.choice(_split(PETS, s.split)),
    "food": lambda s: s.rng.choice(_split(FOODS, s.split)),
    "color": lambda s: s.rng.choice(_split(COLORS, s.split)),
    "weekday": lambda s: s.rng.choice(DAYS),
    "number": lambda s: str(s.world.number(18, 90)),
    "word": lambda s: s.rng.choice([word for word in _split(WORDS, s.split) if len(word) > 3]),
    "letter": lambda s: s.rng.choice(s["word"]),
    "file": lambda s: f"{s.drawn('stem')}.txt",
    "note": lambda s: "",
    "k": lambda s: s.world.number(2, 12),
    "m": lambda s: s.world.number(11, 99),
    "n": lambda s: s.world.number(3, 99),
    "x": lambda s: s.world.number(10, 999),
    "y": lambda s: next(n for n in iter(lambda: s.world.number(10, 999), None) if n != s["x"]),
    "big": lambda s: s.world.number(100, 999),
    "times_k": lambda s: s["k"] * s.world.number(3, 40),
}
