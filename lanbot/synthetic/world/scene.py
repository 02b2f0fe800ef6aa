"""The contents of the world, and Scene: the people and things of one text, drawn when a template names them.

A fact depends on its subject's name only: Mia has the same job in every text. Names, nouns, words and numbers above 12
belong to one split each; results (sums, products), priced goods and the short lists (jobs, foods, ...) to both.
"""

import zlib
from functools import cache
from importlib.resources import files
from typing import Any

from lanbot.synthetic.world.grammar import Rng


def _words(block: str) -> tuple[str, ...]:
    return tuple(block.split())


def _pairs(block: str) -> tuple[tuple[str, str], ...]:
    """Rows separated by semicolons, cells by |."""
    rows = [row.strip().split("|") for row in block.replace("\n", ";").split(";") if row.strip()]
    return tuple((left, right) for left, right in rows)


def held_out(word: str) -> bool:
    """Whether a word or number belongs to the test split: one in eight does."""
    return zlib.crc32(word.encode()) % 8 == 0


WORDS = _words(files("lanbot.synthetic").joinpath("words.txt").read_text("utf-8"))
TRAIN_WORDS = tuple(word for word in WORDS if not held_out(word))
_SYLLABLES = tuple(dict.fromkeys(word[i : i + 3] for word in TRAIN_WORDS for i in range(0, len(word) - 2, 3)))
SHE = _words("""Mia Anna Lily Emma Rosa Nora Zoe Ella Ruby Clara Ivy Maya Alice Julia Hanna Sofia Lena Tara
    Nina Vera Greta Amina Freya Leila Carmen Dora Edith Fatima Gwen Helga Irene Jade Kira Lucia Molly Nadia
    Olive Paula Rita Sara Tess Uma Wendy Yara Zelda Bella Celia Daisy""")
HE = _words("""Tom Ben Sam Max Leo Adam Noah Omar Paul Hugo Ivan Jack Karl Luke Mark Nick Oscar Peter Ravi
    Simon Theo Victor Will Yusuf Arthur Bruno Carlos David Edgar Felix George Henry Isaac Jonas Kevin Liam
    Martin Nils Otto Pedro Quinn Robert Stefan Tariq Uwe Walter Anton Boris""")
CAST = tuple(name for pair in zip(SHE[:8], HE[:8], strict=True) for name in pair)
"""People with facts: job, town, pet, ..."""
TOWNS = _words("Oakford Millbrook Stonehill Redwater Ashby Fernley Greenport Windmere")
"""Towns with facts."""
JOBS = _pairs("""baker|bakes bread; teacher|teaches children; doctor|helps sick people; farmer|grows wheat
    painter|paints houses; driver|drives the bus; cook|makes soup; tailor|sews coats; gardener|plants trees
    sailor|sails a ship; miner|digs for coal; singer|sings songs; writer|writes books; builder|builds walls
    nurse|looks after the ill; engineer|repairs machines""")
ANIMALS = _pairs("""dog|barks; cat|meows; horse|neighs; duck|quacks; cow|moos; goat|bleats; pig|grunts
    owl|hoots; hen|clucks; frog|croaks; mouse|squeaks; snake|hisses; lion|roars; bee|buzzes; sheep|bleats
    wolf|howls; bird|sings""")
PETS = _words("Coco Rex Bubbles Shadow Pepper Lucky Biscuit Snowy Bandit Pip Rocky Ginger Socks Smoky Waffle")
FOODS = _words("soup pizza rice bread cheese cake salad pasta pie curry honey porridge")
COLORS = _words("red blue green yellow purple orange pink brown black white gray")
HOBBIES = _words("painting swimming reading fishing singing dancing chess cycling cooking hiking")
PLACES = _words("""garden kitchen school library market park shop museum station tower barn cellar hall castle bakery
    office harbor mill garage attic""")
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words("January February March April May June July August September October November December")
WEATHER = _words("sunny rainy windy cold warm foggy snowy cloudy")
PRICES = {
    thing: int(coins)
    for thing, coins in _pairs("""apple|2; pear|3; lemon|4; carrot|2; egg|3; cookie|5; candle|6; pencil|4; book|12
    cup|7; plate|8; hat|15; ball|9; kite|14; lamp|20; basket|11; bottle|6; chair|25; stamp|2; button|3; ticket|10
    spoon|5; flower|4; shirt|16; pillow|8; ladder|30; hammer|13; mirror|18; drum|24; blanket|17""")
}
"""Coins for one."""
GOODS = tuple(PRICES)
MORE_GOODS = _words("""marble sticker balloon shell stone card toy doll coin cake cap bag pen map nut plum grape melon
    onion tomato bean muffin pancake sandwich cherry ribbon scarf glove sock boot belt ring bell key brick nail rope
    bowl pot fork jar box brush towel carpet clock radio photo letter poster magnet puzzle robot feather leaf seed
    rose tulip tree bush fish rabbit chicken lamb duckling kitten bun donut pizza olive mango peach crayon ruler
    notebook eraser bead block badge""")
OPPOSITES = _pairs("""big|small; hot|cold; fast|slow; old|young; happy|sad; light|dark; open|closed; wet|dry
    full|empty; long|short; early|late; rich|poor; loud|quiet; clean|dirty; strong|weak; high|low; hard|soft
    good|bad; new|old; thick|thin; near|far; easy|difficult; heavy|light; left|right; up|down; day|night
    wide|narrow; tall|short; warm|cool; true|false; sweet|sour; safe|dangerous; large|little; deep|shallow""")
COLORED = _pairs("""sky|blue; grass|green; snow|white; milk|white; coal|black; sun|yellow; banana|yellow; blood|red
    cherry|red; tomato|red; leaf|green; night|black; carrot|orange; pig|pink; sea|blue; lemon|yellow; frog|green
    rose|red; chocolate|brown; strawberry|red; elephant|gray; bear|brown; cloud|white; swan|white""")
MASS = {"grass", "snow", "milk", "coal", "blood", "chocolate"}
ONES = _words("""zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen""")
TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
IN_WORDS = ONES + tuple(ten if i == 0 else f"{ten}-{ONES[i]}" for ten in TENS for i in range(10))
"""0 to 99."""
HELLOS = ("Hello", "Hi", "Hey", "Good morning", "Good evening")
STEMS = _words("""notes plan list diary prices trip garden letter ideas work school party house recipe report story
    names facts log todo money town weather books guests keys codes phone rooms menu""")
ONSETS = _words("b d f g h j k l m n p r s t v w z br dr kl st tr gr pl sh ch th")
CODAS = ("", "", "", "n", "r", "l", "s", "m", "k", "t", "nd", "rt")


class Person(str):
    """A name with its pronouns."""

    she: str
    him: str
    his: str
    She: str

    @classmethod
    def of(cls, name: str, woman: bool) -> "Person":
        person = cls(name)
        person.she, person.him, person.his = ("she", "her", "her") if woman else ("he", "him", "his")
        person.She = person.she.title()
        return person


_NAMES = {*SHE, *HE}
REAL = tuple(Person.of(name, woman) for names, woman in ((SHE, True), (HE, False)) for name in names[8:])


def an(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


_PLURALS = {"leaf": "leaves", "fish": "fish", "sheep": "sheep", "mouse": "mice", "wolf": "wolves"}


@cache
def plural(noun: str) -> str:
    if noun in _PLURALS:
        return _PLURALS[noun]
    if noun.endswith(("s", "x", "ch", "sh")) or noun == "tomato":
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


@cache
def person(name: str) -> Person:
    """One of CAST with the facts as attributes."""
    rng = Rng(f"person/{name}")
    who = Person.of(name, name in SHE)
    (job, job_does), (animal, sound) = rng.choice(JOBS), rng.choice(ANIMALS[:12])
    town, pet, food, color, hobby = map(rng.choice, (TOWNS, PETS, FOODS, COLORS, HOBBIES))
    facts = {"job": job, "a_job": an(job), "job_does": job_does, "animal": animal}
    facts |= {"an_animal": an(animal), "sound": sound, "town": town, "pet": pet, "food": food}
    vars(who).update(facts | {"color": color, "a_color": an(color), "hobby": hobby})
    return who


class Town(str):
    """A name with facts."""

    name: str
    next: str
    sight: str
    market: str
    food: str
    opens: str
    minutes: int


@cache
def town(name: str) -> Town:
    """One of TOWNS with the facts as attributes."""
    rng = Rng(f"town/{name}")
    made = Town(name)
    made.sight = rng.choice(_words("bridge tower museum castle library mill park fountain"))
    made.market, made.food = rng.choice(DAYS), rng.choice(FOODS)
    made.name, made.next = name, TOWNS[(TOWNS.index(name) + 1) % len(TOWNS)]
    made.opens, made.minutes = f"{rng.randint(7, 10)} o'clock", rng.randint(10, 90)
    return made


@cache
def _lists(split: str) -> dict[str, tuple[Any, ...]]:
    lists = {"people": REAL, "things": GOODS + MORE_GOODS, "stems": STEMS, "words": WORDS}
    return {k: tuple(word for word in words if held_out(word) == (split == "test")) for k, words in lists.items()}


class Scene(dict[str, Any]):
    """The slots of a template, drawn on first use."""

    def __init__(self, rng: Rng, split: str, **given: Any) -> None:
        super().__init__(given)
        self.rng, self.split = rng, split

    def __missing__(self, slot: str) -> Any:
        if slot in _JOINT:
            self.update(_JOINT[slot](self))
        else:
            self[slot] = _DRAW[slot](self)
        return self[slot]

    def of(self, kind: str) -> Any:
        return self.rng.choice(_lists(self.split)[kind])

    def number(self, low: int, high: int) -> int:
        """A number of this split from low to high; both splits share those up to 12."""
        test = self.split == "test"
        rng_random, width = self.rng.random, high - low + 1
        for _ in range(100):
            n = low + int(rng_random() * width)
            if n <= 12 or _HELD_NUMBER[n % 10_007] == test:
                return n
        while low > 12 and _HELD_NUMBER[low % 10_007] != test:
            low += 1
        return low

    def thing(self) -> str:
        """A noun, sometimes made up, so that the model must read it and cannot guess it."""
        return self.of("things") if self.rng.random() < 0.65 else self.made_up()

    def stem(self) -> str:
        """The stem of a file name."""
        kind = self.rng.random()
        return self.of("stems") if kind < 0.2 else self.of("words") if kind < 0.7 else self.made_up()

    def made_up(self) -> str:
        """A word that does not exist."""
        while True:
            word = "".join(self.rng.choice(_SYLLABLES) for _ in range(self.rng.randint(2, 3)))
            if held_out(word) == (self.split == "test"):
                return word

    def stranger(self) -> Person:
        """A name, often made up, so that the model must read it and cannot guess it."""
        return self.of("people") if self.rng.random() < 0.4 else self.invented()

    def invented(self) -> Person:
        choice, woman = self.rng.choice, self.rng.random() < 0.5
        while True:
            parts = [choice(ONSETS), choice("aeiou"), choice(CODAS), choice(ONSETS), choice("aeiou"), choice(CODAS)]
            if self.rng.random() < 0.3:
                parts = parts[1:]
            name = "".join(parts)
            if held_out(name) == (self.split == "test") and name.title() not in _NAMES:
                return Person.of(name.title(), woman)

    def other_stranger(self) -> Person:
        while True:
            name = self.stranger()
            if name != self["p"]:
                return name

    def new_town(self) -> str:
        return self.rng.choice(TOWNS) if self.rng.random() < 0.3 else str(self.invented()) + self.rng.choice(_TOWN_ENDS)

    def words(self) -> str:
        return " ".join(self.of("words") for _ in range(self.rng.randint(2, 5)))

    def sum(self) -> str:
        """An expression for the calculator."""
        n, shape = self.number, self.rng.randrange(6)
        if shape == 0:
            return f"{n(2, 999)}+{n(2, 999)}"
        if shape == 1:
            b = n(2, 400)
            return f"{n(b + 1, b + 500)}-{b}"
        if shape == 2:
            return f"{n(2, 99)}*{n(2, 99)}"
        if shape == 3:
            d = n(2, 12)
            return f"{d * n(2, 60)}/{d}"
        if shape == 4:
            return f"{n(2, 99)}+{n(2, 99)}+{n(2, 99)}"
        return f"({n(2, 60)}+{n(2, 60)})*{n(2, 12)}"


def made_up(rng: Rng) -> str:
    """A word that does not exist, of the train split."""
    return Scene(rng, "train").made_up()


_HELD_NUMBER = [zlib.crc32(str(n).encode()) % 8 == 0 for n in range(10_007)]
_TOWN_ENDS = ("ford", "ton", "by", "ville", "field", "port")


def _colored(s: Scene) -> dict[str, str]:
    thing, color = s.rng.choice(COLORED)
    noun = thing if thing in MASS else f"the {thing}" if thing in ("sky", "sun", "sea", "night") else an(thing)
    return {"of_color": color, "the_colored": noun, "The_colored": noun[0].upper() + noun[1:]}


def _two_numbers(s: Scene) -> dict[str, int]:
    top = s.rng.choice((20, 100, 1000))
    x, y = s.number(1, top), s.number(1, top)
    while x == y:
        y = s.number(1, top)
    return {"x": x, "y": y, "small": min(x, y), "large": max(x, y)}


def _successive(s: Scene, slot: str, names: tuple[str, ...]) -> dict[str, str]:
    i = s.rng.randrange(len(names))
    return {slot: names[i], f"next_{slot}": names[(i + 1) % len(names)]}


def _opposites(s: Scene) -> dict[str, str]:
    hot, cold = s.rng.choice(OPPOSITES)
    if s.rng.random() >= 0.5 and hot not in ("new", "heavy", "tall"):
        hot, cold = cold, hot
    return {"hot": hot, "cold": cold}


_JOINT: dict[str, Any] = {
    **dict.fromkeys(("w", "v"), lambda s: dict(zip("wv", map(person, s.rng.sample(CAST, 2)), strict=True))),
    **dict.fromkeys(("x", "y", "small", "large"), _two_numbers),
    **dict.fromkeys(("day", "next_day"), lambda s: _successive(s, "day", DAYS)),
    **dict.fromkeys(("month", "next_month"), lambda s: _successive(s, "month", MONTHS)),
    **dict.fromkeys(("hot", "cold"), _opposites),
    **dict.fromkeys(("animal", "sound"), lambda s: dict(zip(("animal", "sound"), s.rng.choice(ANIMALS), strict=True))),
    **dict.fromkeys(("of_color", "the_colored", "The_colored"), _colored),
}
"""How slots are drawn that belong together."""
_DRAW: dict[str, Any] = {
    "p": Scene.stranger,
    "q": Scene.other_stranger,
    "t": lambda s: town(s.rng.choice(TOWNS)),
    "town": Scene.new_town,
    "thing": Scene.thing,
    "things": lambda s: plural(s["thing"]),
    "a_thing": lambda s: an(s["thing"]),
    "A_thing": lambda s: an(s["thing"]).capitalize(),
    "price": lambda s: PRICES[s["thing"]],
    "place": lambda s: s.rng.choice(PLACES),
    "a_place": lambda s: an(s["place"]),
    "job": lambda s: s.rng.choice(JOBS)[0],
    "a_job": lambda s: an(s["job"]),
    "A_job": lambda s: an(s["job"]).capitalize(),
    "food": lambda s: s.rng.choice(FOODS),
    "color": lambda s: s.rng.choice(COLORS),
    "a_color": lambda s: an(s["color"]),
    "vehicle": lambda s: s.rng.choice(("bus", "train", "bike", "car", "boat", "tram")),
    "weather": lambda s: s.rng.choice(WEATHER),
    "hello": lambda s: s.rng.choice(HELLOS),
    "size": lambda s: s.rng.choice((12, 40, 40, 100, 100, 300)),
    "c": lambda s: s.number(2, 12),
    "d": lambda s: s.number(2, 12 if s.rng.random() < 0.7 else 40),
    "b": lambda s: s.number(2, max(3, s["size"] // 2)),
    "a": lambda s: s.number(s["b"] + s["c"] + 1, s["b"] + s["c"] + s["size"]),
    "n": lambda s: s["c"] * s["d"],
    "money": lambda s: s["c"] * s["d"] + s["b"],
    "twice": lambda s: 2 * s["a"],
    "left": lambda s: s["a"] - s["b"],
    "sum": lambda s: s["a"] + s["b"],
    "paid": lambda s: s["c"] * s["price"],
    "cw": lambda s: IN_WORDS[s["c"]] if s.rng.random() < 0.4 else str(s["c"]),
    "Cw": lambda s: s["cw"][0].upper() + s["cw"][1:],
    "k": lambda s: s.number(2, min(99, s["m"] - 1)),
    "m": lambda s: s.number(5, s.rng.choice((30, 99, 999))),
    "next_m": lambda s: s["m"] + 1,
    "long": lambda s: s.number(1_000, 9_999),
    "hour": lambda s: s.rng.randint(1, 12),
    "Hot": lambda s: s["hot"].title(),
    "an_animal": lambda s: an(s["animal"]),
    "An_animal": lambda s: an(s["animal"]).capitalize(),
    "words": Scene.words,
    "e": Scene.sum,
    "f": Scene.sum,
    "file": lambda s: s.stem() + s.rng.choice((".txt", ".txt", ".txt", ".md", ".csv")),
}
"""How every other slot is drawn."""
