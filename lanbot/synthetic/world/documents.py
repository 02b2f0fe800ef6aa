"""Raw text about the world, for base training, including the split's chats as plain text."""

import zlib
from collections.abc import Callable

from lanbot.chat.messages import Conversation, parts
from lanbot.synthetic.world import chats, errands, problems
from lanbot.synthetic.world.grammar import Rng, fill, rng_of, rows, sections
from lanbot.synthetic.world.scene import CAST, GOODS, IN_WORDS, TOWNS, TRAIN_WORDS, Scene, made_up, person, town


def document(split: str, index: int) -> str:
    """A text of 6 to 110 words, 40 on average."""
    rng = rng_of("document", split, index)
    while True:
        content = rng.choice(DOCUMENTS)(rng, split)
        if (zlib.crc32(content.encode()) % 4 == 0) == (split == "test"):  # each text belongs to one split
            return content


def _story(rng: Rng, split: str) -> str:
    start, event, end = (rows("stories", section, split) for section in ("start", "event", "end"))
    scene = Scene(rng, split, thing=rng.choice(GOODS))
    parts = (rng.choice(start), *rng.sample(event, 2), rng.choice(end))
    return " ".join(fill(row[0], rng, scene) for row in parts)


def _lives(rng: Rng, split: str) -> str:
    paragraphs = []
    for w in map(person, rng.sample(CAST, 2)):
        facts = enumerate(rng.sample(sections("stories")["person"], 6))
        paragraphs.append(" ".join(chats.of_person(row, rng.randrange(2), w, rng, i % 3 == 0) for i, row in facts))
    return "\n".join(paragraphs)


def _place(rng: Rng, split: str) -> str:
    t, w = town(rng.choice(TOWNS)), person(rng.choice(CAST))
    facts = [fill(row[rng.randrange(2)], rng, {"t": t}) for row in rng.sample(sections("stories")["town"], 4)]
    scene = Scene(rng, split)
    return " ".join(facts) + f" On a {scene['weather']} {scene['day']} {w} came to {t} for {scene['c']} days."


def _how_to(rng: Rng, split: str) -> str:
    scene = Scene(rng, split)
    task, *steps = (fill(cell, rng, scene) for cell in rng.choice(rows("stories", "how_to", split)))
    words = ("First,", "Then", "Next,", "After that,", "At last,")
    listed = " ".join(f"{word} {step}." for word, step in zip(words, steps, strict=False))
    return f'"How do you {task}?" asked {scene["p"]}. {scene["w"]} knew how to {task}. "{listed}" It was easy.'


def _lines(rng: Rng, one: Callable[[], str], fewest: int, most: int) -> str:
    return "\n".join(one() for _ in range(rng.randint(fewest, most)))


def _facts(rng: Rng, split: str) -> str:
    """General knowledge, worded as in the answers of the chats."""

    def one() -> str:
        scene = Scene(rng, split, thing=rng.choice(GOODS))
        section = rng.choice(chats.TALK[1:-1])
        return fill(rows("talk", section, "train")[0][1], rng, scene)

    return _lines(rng, one, 5, 9)


def _arithmetic(rng: Rng, split: str) -> str:
    """Sums in digits and in words."""
    say, scene = IN_WORDS, Scene(rng, split)

    def one() -> str:
        a, b, c, d = map(scene.number, (1, 1, 2, 2), (49, 49, 9, 9))
        return rng.choice(
            (
                f"{a} + {b} = {a + b}, and {say[a]} plus {say[b]} is {say[a + b]}.",
                f"{a + b} - {b} = {a}, and {say[a + b]} minus {say[b]} is {say[a]}.",
                f"{c} * {d} = {c * d}, and {say[c]} times {say[d]} is {say[c * d]}.",
                f"{c * d} / {c} = {d}, and {say[c * d]} divided by {say[c]} is {say[d]}.",
            )
        )

    return _lines(rng, one, 4, 6)


def _spelling(rng: Rng, split: str) -> str:
    """Words and made-up words, letter by letter."""

    def one() -> str:
        word = rng.choice(TRAIN_WORDS) if rng.random() < 0.6 else made_up(rng)
        if rng.random() < 0.5:
            return f"{word}: {'-'.join(word)}"
        return f"The word {word} is spelled {'-'.join(word)}."

    return _lines(rng, one, 6, 12)


def _copies(rng: Rng, split: str) -> str:
    """Random names, words and numbers, repeated: the model learns to copy."""
    scene = Scene(rng, split)

    def unit() -> str:
        kind = rng.random()
        if kind < 0.3:
            return str(scene.stranger())
        if kind < 0.6:
            return str(scene.of("words"))
        return scene.made_up() if kind < 0.8 else str(scene.number(2, 9_999))

    units = [unit() for _ in range(rng.randint(3, 9))]
    joint = rng.choice((" ", " ", ", ", "\n", " and "))
    line = joint.join(units)
    kind = rng.random()
    if kind < 0.4:
        return "\n".join([line] * rng.randint(2, 4))
    if kind < 0.6:  # repeats each one immediately
        return "\n".join(f'{one}: say("{one}") {one}.' for one in units)
    opening, closing = rng.choice((('"', '"'), ("(", ")"), ('("', '")'), ("", ".")))
    return f"{line}. " + joint.join(f"{opening}{one}{closing}" for one in units)


def _pairs(rng: Rng, split: str) -> str:
    """Who has what, then questions about it in another order."""
    owned = {}
    for _ in range(rng.randint(3, 6)):
        scene = Scene(rng, split)
        owned[scene["p"]] = (scene["thing"], scene.number(2, 9_999))
    lines = [f"{name} has the {thing} and the number {number}." for name, (thing, number) in owned.items()]
    names = list(owned)
    rng.shuffle(names)
    for name in names:
        thing, number = owned[name]
        asked = (f"Who has the {thing}? {name}.", f"What has {name}? The {thing}.", f"{name}'s number? {number}.")
        lines.append(rng.choice(asked))
    return " ".join(lines)


def _lesson(rng: Rng, split: str) -> str:
    """Chats as plain text."""

    def one() -> str:
        index, kind = rng.randrange(1 << 40), rng.random()
        if kind < 0.4:
            return plain(problems.problem_chat(split, index))
        return plain(chats.talk(split, index) if kind < 0.7 else errands.errand_chat(split, index))

    return _lines(rng, one, 1, 3)


def plain(conversation: Conversation) -> str:
    """A conversation as text: calls in brackets with their output."""
    lines = []
    for message in conversation["messages"]:
        shapes = {"text": "{}", "python": "[{}", "output": " = {}]"}
        said = "".join(shapes[part["type"]].format(part["text"]) for part in parts(message))
        lines.append(("Question: " if message["role"] == "user" else "Answer: ") + said)
    return "\n".join(lines)


DOCUMENTS: tuple[Callable[[Rng, str], str], ...] = (
    *(_story, _lives, _place, _how_to, _facts, _arithmetic),
    *(_spelling, _spelling, _spelling, _copies, _copies, _copies, _copies, _pairs, _pairs),
    *(_lesson, _lesson, _lesson, _lesson),
)
