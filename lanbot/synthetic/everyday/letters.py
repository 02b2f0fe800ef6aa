"""Sums, letters of a word, and word problems, as people put them."""

from lanbot.synthetic.everyday.desk import Desk
from lanbot.synthetic.world.chats import result
from lanbot.synthetic.world.problems import solve


def sums(desk: Desk) -> None:
    said, code = sum_in_words(desk)
    desk.scene["e"] = said
    desk.ask(desk.line("sums", "sum"))
    desk.parts().extend(result(code))


def sum_in_words(desk: Desk) -> tuple[str, str]:
    """A sum as people say or write it, and as the calculator reads it."""
    rng, n = desk.rng, desk.scene.number
    space = rng.choice((" ", " ", ""))
    kind = rng.randrange(11)
    top = rng.choice((30, 99, 999))
    a, b, c = n(2, top), n(2, top), n(2, 60)
    if kind <= 1:
        return rng.choice((f"{a}{space}+{space}{b}", f"{a} plus {b}", f"{a} and {b} together")), f"{a}+{b}"
    if kind == 2:
        return rng.choice((f"the sum of {a} and {b}", f"{a} added to {b}", f"{a} + {b}")), f"{a}+{b}"
    if kind <= 4:
        a, b = max(a, b) + 1, min(a, b)
        signs = (f"{space}-{space}", " minus ", " less ", " take away ", " - ")
        return f"{a}{rng.choice(signs)}{b}", f"{a}-{b}"
    if kind <= 6:
        b = n(2, 12) if rng.random() < 0.7 else n(2, 40)
        signs = (f"{space}*{space}", f"{space}x{space}", " times ", " x ", " multiplied by ")
        return f"{a}{rng.choice(signs)}{b}", f"{a}*{b}"
    if kind == 7:
        d = n(2, 12)
        a = d * n(2, 60)
        return rng.choice((f"{a}{space}/{space}{d}", f"{a} divided by {d}", f"{a} over {d}", f"{a} : {d}")), f"{a}/{d}"
    if kind == 8:
        joint = rng.choice((" + ", "+", " plus "))
        said, code = joint.join(map(str, (a, b, c))), f"{a}+{b}+{c}"
        return rng.choice((said, said, f"the total of {a}, {b} and {c}", f"{a}, {b} and {c} together")), code
    if kind == 9:
        half = rng.random() < 0.5
        a = 2 * n(2, top) if half else a
        doubles = ("twice {}", "two times {}", "double of {}", "{} doubled")
        wording = rng.choice(("half of {}", "the half of {}", "{} halved") if half else doubles)
        return wording.format(a), f"{a}/2" if half else f"{a}*2"
    sign, other = rng.choice("+-"), n(2, 12)
    a, b = max(a, b) + 1, min(a, b)
    said = f"({a}{space}{sign}{space}{b}){space}*{space}{other}"
    return said, f"({a}{sign}{b})*{other}"


def letters(desk: Desk) -> None:
    """A word in letters, the first, the last, how many, how often one is in it, or the word backwards."""
    section = desk.rng.choice(("spell", "spell", "spell", "count", "count", "first", "last", "length", "backwards"))
    word = quoted_word(desk)
    desk.scene["letter"] = desk.rng.choice(word if desk.rng.random() < 0.9 else "aeiorst")
    desk.ask(desk.line("sums", section))
    spelled = "-".join(word)
    if section == "spell":
        desk.say(spelled)
    elif section == "backwards":
        desk.say(f"{spelled}: {'-'.join(reversed(word))}")
    elif section in ("count", "length"):
        count_letters(desk, word, desk.scene["letter"] if section == "count" else "")
    else:
        desk.say(f"{spelled}: the {section} letter is {word[0 if section == 'first' else -1]}.")


def quoted_word(desk: Desk) -> str:
    """Draws a word, in quotes or not, for the slot {word}."""
    word = desk.draw("word")
    desk.scene["word"] = f'"{word}"' if desk.rng.random() < 0.3 else word
    return word


def count_letters(desk: Desk, word: str, letter: str = "") -> None:
    """How often a letter is in the word; without a letter, how many it has."""
    spelled = "-".join(word)
    desk.say(f"{spelled}: ")
    got = desk.call(f"'{spelled}'.count('{letter}')" if letter else f"'{spelled}'.count('-')+1")
    desk.say(f"\n#### {got}")


def problems(desk: Desk) -> None:
    row = desk.row("sums", "problems")
    asked = desk.fill(row[0])
    desk.user(asked.replace("..", ".").replace(" .", ".") + "?")
    desk.parts().extend(solve(row[1], desk.scene))
