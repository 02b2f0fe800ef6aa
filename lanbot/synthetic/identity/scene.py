"""What a conversation is about: the slots of its templates, each drawn when a template first names it.

A slot is a bank of words.txt, or one of DRAW below. {a_thing} is "a lamp", {Thing} and {A_thing} begin with a capital,
{topic2} is another topic than {topic}. Facts about the bot are given: they are never drawn.
"""

import re
from typing import Any

from lanbot.config.recipe import Identity
from lanbot.synthetic.world.chats import OTHERS
from lanbot.synthetic.world.grammar import Rng, Row, fill, new_rows, rows, sections
from lanbot.synthetic.world.scene import HE, IN_WORDS, SHE, WORDS, an, held_out, made_up, plural
from lanbot.tools.words import content_words


def _words(block: str) -> tuple[str, ...]:
    return tuple(block.split())


COMPANIES = {
    "train": ("OpenAI", "Google", "Apple", "Amazon", "Meta", "Microsoft", "Anthropic", "Samsung", "Sony"),
    "test": ("IBM", "DeepMind", "Baidu", "Nvidia", "xAI"),
}
WOMEN = SHE + _words("""Astrid Bianca Chloe Delia Elif Farida Gloria Hilda Ines Joana Keiko Lotte Mina Nadine Oksana
    Priya Rania""")
MEN = HE + _words("""Anders Bastian Cyrus Dario Emil Farid Gustav Hiro Ismail Jorge Kofi Lorenzo Mateo Niko Olaf Piotr
    Raul""")
NAMES = {
    (split, women): tuple(name for name in (WOMEN if women else MEN) if held_out(name) == (split == "test"))
    for split in ("train", "test")
    for women in (True, False)
}
HER_ROLES = _words("sister aunt mother daughter niece grandmother landlady girlfriend")
HIS_ROLES = _words("brother uncle father son nephew grandfather landlord boyfriend")
ROLES = _words("cousin neighbor boss teacher roommate colleague coach friend dentist doctor student")
SPLIT_WORDS = {
    split: tuple(word for word in WORDS if held_out(word) == (split == "test") and len(word) > 3)
    for split in ("train", "test")
}
USER = ("trade", "home", "age", "mood", "where", "clock", "today", "weather", "daytime")
"""What the user says of themselves: it stays for the whole conversation."""
FAMILIES = {"trade": "job", "home": "city", "today": "weekday"}
"""Slots that draw from another's bank, and never the same: {home} is not {city}."""
FOLDER = "identity/"
"""Where the templates are, under data/."""

_SWAPS = {
    **{"i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself", "i'm": "you're", "i've": "you've"},
    **{"i'll": "you'll", "i'd": "you'd", "you": "me", "your": "my", "yours": "mine", "yourself": "myself"},
}
_AFTER = {"i": {"am": "are", "was": "were"}, "you": {"are": "am", "were": "was"}}
_YOU_DO = set(
    _words("are were can could may have had do did will would need want like ask tell say told said gave put left lent")
)


def table(file: str, section: str, split: str) -> tuple[Row, ...]:
    """The rows of what a user says: those of training, or for tests those that training never uses."""
    return new_rows(FOLDER + file, section) if split == "test" else rows(FOLDER + file, section, split)


def answers(file: str, section: str) -> tuple[Row, ...]:
    """The rows of what the bot says, the same for both splits; () if there are none."""
    return sections(FOLDER + file).get(section, ())


def languages() -> tuple[str, ...]:
    """Those whose greetings are known, besides English."""
    return tuple(sections(FOLDER + "hellos"))


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def low(text: str) -> str:
    """Without a capital at the beginning, unless it is a name's or that of "I"."""
    first = text.partition(" ")[0]
    return text[:1].lower() + text[1:] if first.strip(",").lower() in _LOWER else text


_LOWER = set(
    _words("""
    a an the my your our this that these those there it he she we they you what who whom whose which how where when
    why do does did is are am was were can could may might must will would shall should have has had tell say give name
    and or so if in on at by to under with from for be bring keep behind nobody somebody everybody spell write let
    arr fog midnight come hand before aren't isn't don't describe introduce sum
    """)
)


def swapped(text: str) -> str:
    """What the bot says of itself, in the user's mouth: "show you my sums" -> "show me your sums"."""
    pieces, before, told = _PIECE.findall(text), "", []
    for i, piece in enumerate(pieces):
        word = piece.lower()
        following = pieces[i + 2].lower() if i + 2 < len(pieces) else ""
        new = _AFTER.get(before, {}).get(word) or _SWAPS.get(word, piece)
        if word == "you" and following in _YOU_DO:
            new = "I"
        told.append(capital(new) if i == 0 and piece[0].isupper() else new)
        before = word if word.strip() else before
    return "".join(told)


_PIECE = re.compile(r"[\w']+|[^\w']+")


class Scene(dict[str, Any]):
    """The slots of one conversation: a pure function of the rng's state, the split and the bot."""

    def __init__(self, rng: Rng, split: str, who: Identity) -> None:
        super().__init__(about(who))
        self.rng, self.split, self.who = rng, split, who
        self.kept = {*self, *USER}
        self.names: set[str] = set()
        """Of people: none comes twice."""

    def forget(self) -> None:
        """The next turn is about something else."""
        for slot in [slot for slot in self if slot not in self.kept]:
            del self[slot]

    def keep(self, *slots: str) -> None:
        self.kept.update(slots)

    def beside(self) -> "Scene":
        """A scene of its own, of the same user and bot."""
        other = Scene(self.rng, self.split, self.who)
        other.update({slot: self[slot] for slot in self.kept if slot in self})
        other.names = self.names
        return other

    def __missing__(self, slot: str) -> Any:
        value = self._draw(slot)
        self[slot] = value
        return value

    def _draw(self, slot: str) -> Any:
        if slot in DRAW:
            return DRAW[slot](self)
        if slot[0].isupper():
            return capital(str(self[slot[0].lower() + slot[1:]]))
        if slot.startswith("a_"):
            return an(str(self[slot[2:]]))
        if slot.endswith("_u"):
            return swapped(str(self[slot[:-2]]))
        if slot.endswith("_low"):
            return low(str(self[slot[:-4]]))
        return self.other(slot)

    def other(self, slot: str) -> Any:
        """From a bank, and not what another of the kind is: {city2} is not {city}, {can2} speaks of other things than
        {can}."""
        base = FAMILIES.get(slot, slot.rstrip("23"))
        bank = answers("words", slot) or answers("words", base)
        family = (base, base + "2", base + "3", *(name for name, of in FAMILIES.items() if of == base))
        taken = tuple(str(self[name]) for name in family if name in self)
        for _ in range(20):
            value = DRAW[base](self) if base in DRAW else fill(self.rng.choice(bank)[0], self.rng, self)
            if not (at_odds(value, taken) if base in PHRASES else str(value).split()[0] in map(_first, taken)):
                break
        return value

    def name(self, women: bool) -> str:
        pool = NAMES[self.split, women]
        free = [name for name in pool if name not in self.names and name not in self["name"] + self["maker"]]
        name = str(self.rng.choice(free or pool))
        self.names.add(name)
        return name


def about(who: Identity) -> dict[str, str]:
    """What the bot is, as slots."""
    maker = who.creator.strip() or "the person who runs me"
    given = {
        "name": who.name.strip(),
        "maker": maker,
        "maker_you": swapped(maker) if not who.creator.strip() else maker,
        "is_a": who.description.strip().removeprefix("I am ").rstrip(".") or "a small language model",
        "manner": who.personality.strip().rstrip(".") or "helpful",
    }
    return given | ({} if who.year is None else {"year": str(who.year)})


def sentence(text: str) -> str:
    """One of the recipe's sentences: "I end with a pun" -> "I end with a pun."."""
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else text + "."


def _others(s: Scene, names: tuple[str, ...]) -> str:
    own = {s["name"].casefold(), *s["maker"].casefold().split(), s["maker"].casefold()}
    return str(s.rng.choice([name for name in names if name.casefold() not in own]))


def _bot(s: Scene) -> str:
    """Another bot, or a name that no bot ever had."""
    if s.rng.random() < 0.6:
        return _others(s, OTHERS[s.split])
    while True:
        name = made_up(s.rng).title()
        if held_out(name) == (s.split == "test") and name.casefold() != s["name"].casefold():
            return name


def _kin(s: Scene) -> str:
    woman = s.rng.random() < 0.5
    s["role_of"] = s.rng.choice((HER_ROLES if woman else HIS_ROLES) if s.rng.random() < 0.5 else ROLES)
    s["she"], s["his"], s["him"] = ("she", "her", "her") if woman else ("he", "his", "him")
    s["kin_name"] = s.name(woman)
    return f"{s['role_of']} {s['kin_name']}"


def _role_play(s: Scene, slot: str) -> str:
    text = fill(s.rng.choice(answers("words", "roleplay"))[0], s.rng, s)
    s["role_play"], _, s["role_line"] = text.partition("|")
    return str(s[slot])


def _two_numbers(s: Scene, slot: str) -> str:
    number = s.rng.randint
    if s.rng.random() < 0.3:  # 9.11 and 9.9
        whole = number(1, 40)
        x, y = f"{whole}.{number(1, 9)}", f"{whole}.{number(1, 9)}{number(1, 9)}"
    else:
        x, y = str(number(13, 999)), str(number(13, 999))
    if x == y:
        y = str(float(y) + 1) if "." in y else str(int(y) + 1)
    s["x"], s["y"] = (x, y) if s.rng.random() < 0.5 else (y, x)
    return str(s[slot])


def _first(words: str) -> str:
    return words.split()[0]


def at_odds(words: str, opposite: tuple[str, ...]) -> bool:
    """Does it speak of what one of the opposite list speaks of? Then the bot should not say it."""
    mine = _meant(words)
    return any(mine & _meant(one) for one in opposite)


def _meant(words: str) -> set[str]:
    """One thing or several: "files" is "file"."""
    return {word.rstrip("s") for word in content_words(words)}


def _of_bank(s: Scene, kinds: tuple[str, ...], opposite: tuple[str, ...]) -> str:
    """Something of a bank that the recipe does not say the opposite of."""
    for _ in range(50):
        row = s.rng.choice(answers("words", s.rng.choice(kinds)))
        words = fill(row[0], s.rng, s)
        if not at_odds(words, opposite):
            break
    return words


def _of_who(s: Scene, own: tuple[str, ...], kinds: tuple[str, ...], opposite: tuple[str, ...]) -> str:
    """Something that the bot can or cannot do: now and then one of the recipe's, if it has any."""
    if own and s.rng.random() < 0.1:
        return str(s.rng.choice(own)).strip().rstrip(".")
    return _of_bank(s, kinds, opposite)


def _clock(s: Scene) -> str:
    hour = s.rng.choice(IN_WORDS[1:13])
    return (
        str(s.rng.choice(("ten past", "a quarter past", "half past", "a quarter to", "five to", "twenty to")))
        + f" {hour}"
    )


PHRASES = {"can", "cannot", "tool_can", "human"}
CAN = ("tool_can",) * 3 + ("talk_can",)
"""What the tools do, and less often what they are not needed for."""
DRAW: dict[str, Any] = {
    "p": lambda s: s.name(s.rng.random() < 0.5),
    "q": lambda s: s.name(s.rng.random() < 0.5),
    "kin": _kin,
    **{slot: lambda s, slot=slot: (s["kin"], s[slot])[1] for slot in ("role_of", "she", "his", "him", "kin_name")},
    "bot": _bot,
    "company": lambda s: _others(s, COMPANIES[s.split]),
    "things": lambda s: plural(s["thing"]),
    "role_play": lambda s: _role_play(s, "role_play"),
    "role_line": lambda s: _role_play(s, "role_line"),
    "can": lambda s: _of_who(s, s.who.capabilities, CAN, s.who.limitations),
    "tool_can": lambda s: _of_bank(s, ("tool_can",), s.who.limitations),
    "cannot": lambda s: _of_who(s, s.who.limitations, ("cannot",), s.who.capabilities),
    "bodily": lambda s: _of_bank(s, ("cannot",), s.who.capabilities),
    "human": lambda s: _of_bank(s, ("human",), s.who.capabilities),
    "quirk": lambda s: sentence(s.rng.choice(s.who.quirks)),
    "fact": lambda s: sentence(s.rng.choice(s.who.facts)),
    "k": lambda s: str(s.rng.randint(3, 12)),
    "m": lambda s: str(s.rng.randint(13, 99)),
    "n": lambda s: str(s.rng.randint(13, 400)),
    "big": lambda s: str(int(s["m"]) + s.rng.randint(13, 900)),
    "times_k": lambda s: str(int(s["k"]) * s.rng.randint(3, 90)),
    "age": lambda s: str(s.rng.randint(7, 79)),
    "x": lambda s: _two_numbers(s, "x"),
    "y": lambda s: _two_numbers(s, "y"),
    "clock": _clock,
    "word": lambda s: s.rng.choice(SPLIT_WORDS[s.split]),
    "letter": lambda s: s.rng.choice(s["word"]),
    "spelled": lambda s: "-".join(s["word"]),
    "file": lambda s: s.rng.choice(SPLIT_WORDS[s.split]) + s.rng.choice((".txt", ".txt", ".md")),
}
"""How a slot that is no bank is drawn."""
