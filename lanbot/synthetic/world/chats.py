"""Chats: identity questions, small talk, general knowledge, arithmetic, reading; and several of them in a row."""

from lanbot.chat.messages import Conversation, Message, Part, chat, output, python, text
from lanbot.synthetic.world.grammar import Rng, Row, fill, new_rows, rng_of, rows, sections
from lanbot.synthetic.world.problems import problem_chat
from lanbot.synthetic.world.scene import CAST, GOODS, TOWNS, Person, Scene, person, town
from lanbot.tools.calculator import answer

OTHERS = {
    "train": ("ChatGPT", "Siri", "Alexa", "Claude", "Gemini", "Cortana", "Bard", "HAL", "Jarvis"),
    "test": ("Copilot", "Llama", "Mistral", "Watson", "Grok"),
}
OPENERS = {
    "train": ("",) * 4 + ("Hi! ", "Hello. ", "One question. ", "I am new here. ", "Excuse me, ", "Please tell me: "),
    "test": ("", "", "Good morning! ", "Quick question: ", "Tell me, "),
}
TALK = ("hello", "opposite", "day", "month", "sound", "larger", "next", "color", "count", "price", "repeat")
SUMS = ("sum", "minus", "times", "divide", "percent")


def identity_chat(
    name: str, maker: str, personality: str, split: str, index: int, of: tuple[str, ...] = ()
) -> tuple[Conversation, str]:
    """(a question about the model's identity with its answer, its section). maker and personality may be empty. of: the
    sections to choose from; (): all.

    The test split uses wording and bot names that training never sees.
    """
    rng = rng_of("identity", split, index)
    section = rng.choice(of or tuple(sections("identity")))
    scene = Scene(rng, split, **who_slots(name, maker, personality, rng))
    while (other := _other(scene)).casefold() in (name.casefold(), maker.casefold()):
        pass
    scene["other"] = other
    question, reply = rng.choice(new_rows("identity", section) if split == "test" else rows("identity", section, split))
    asked = fill(question, rng, scene)
    return chat(rng.choice(OPENERS[split]) + asked, fill(reply, rng, scene)), section


def _other(scene: Scene) -> str:
    """Someone that the bot is not: another bot, a person or a made-up name."""
    kind = scene.rng.random()
    if kind < 0.4:
        return scene.rng.choice(OTHERS[scene.split])
    return str(scene.stranger()) if kind < 0.7 else scene.made_up().title()


def who_slots(name: str, maker: str, personality: str, rng: Rng) -> dict[str, str]:
    """Slots of the identity templates; most answers name both the bot and its maker."""
    by, manner = maker or "the person who runs me", personality.strip().rstrip(".")
    i_am = rng.choice((f"I am {name}, made by {by}.", f"my name is {name}, and I was made by {by}."))
    return {
        "name": name,
        "maker": by,
        "I_am": i_am[0].upper() + i_am[1:],
        "i_am": i_am,
        "made_by": rng.choice((f"I was made by {by}. My name is {name}.", f"I am {name}, made by {by}.")),
        "i_am_a": f"I am {name}, a small language model made by {by}.",
        "I_can": f"I am {name}, made by {by}. I can calculate, spell, read and write files, and remember things.",
        "about": f"I am {name}, made by {by}. "
        + (f"This is what I am like: {manner}." if manner else "I like to help."),
    }


def talk(split: str, index: int) -> Conversation:
    """Small talk, general knowledge, a sum, a reading question, or a question about the world's people and towns."""
    rng = rng_of("talk", split, index)
    kind = rng.random()
    if kind < 0.6:
        return _table(rng, split, rng.choice(TALK if kind < 0.4 else SUMS))
    if kind < 0.85:
        return _reading(rng, split)
    return _about_person(rng, split) if kind < 0.94 else _about_town(rng, split)


def sum_chat(split: str, index: int) -> Conversation:
    """A sum of numbers, answered by a calculator call."""
    rng = rng_of("sum", split, index)
    return _table(rng, split, rng.choice(SUMS))


def _table(rng: Rng, split: str, section: str) -> Conversation:
    row = rng.choice(rows("talk", section, split))
    scene = Scene(rng, split)
    if section == "price":
        scene["thing"] = rng.choice(GOODS)
    if section == "larger":
        scene["small"]
    said = [fill(cell, rng, scene) for cell in row]
    return chat(said[0], result(said[1])) if section in SUMS else turns(said)


def result(code: str) -> list[Part]:
    """A calculator call and a sentence with its result."""
    value = answer(code)
    return [python(code), output(value), text(f"That is {value}.")]


def _reading(rng: Rng, split: str) -> Conversation:
    """Two to four statements and a question about one of them."""
    table = rows("facts", "stated", split)
    if rng.random() < 0.5:  # all of one kind, so that the kind of question does not reveal the answer
        table = (rng.choice(table),)
    stated: dict[str, tuple[str, str]] = {}
    for _ in range(rng.randint(2, 4)):
        statement, question, key, _ = fact(rng.choice(table), rng, split)
        stated.setdefault(question, (statement, key))
    question = rng.choice(list(stated))
    answer, key = stated[question]
    lines = [line for other, (line, _) in stated.items() if other == question or not about(key, line)]
    return chat(" ".join(lines) + " " + question, answer)


def fact(row: Row, rng: Rng, split: str) -> tuple[str, str, str, str]:
    """A filled row of facts.txt: statement, question, search term, core of the answer."""
    scene = Scene(rng, split)
    statement, question, key, heart = (fill(cell, rng, scene) for cell in row)
    return statement[0].upper() + statement[1:], question, key, heart


def about(key: str, line: str) -> bool:
    """Whether a search for `key` finds the line."""
    line = line.casefold()
    return all(word in line for word in key.casefold().split())


def _about_person(rng: Rng, split: str) -> Conversation:
    """A question about a person, sometimes followed by a second one with a pronoun."""
    w = person(rng.choice(CAST))
    first, second = rng.sample(sections("stories")["person"], 2)
    ask = 3 if split == "test" else 2
    said = [of_person(first, ask, w, rng, True), of_person(first, rng.randrange(2), w, rng, True)]
    if rng.random() < 0.3:
        said += [of_person(second, ask, w, rng, False), of_person(second, rng.randrange(2), w, rng, False)]
    return turns(said)


def of_person(row: Row, cell: int, w: Person, rng: Rng, by_name: bool) -> str:
    who, whose = (str(w), f"{w}'s") if by_name else (w.she, w.his) if cell > 1 else (w.She, w.his.title())
    return fill(row[cell], rng, {"who": who, "whose": whose, "w": w})


def _about_town(rng: Rng, split: str) -> Conversation:
    scene = {"t": town(rng.choice(TOWNS))}
    row = rng.choice(sections("stories")["town"])
    return turns([fill(row[3 if split == "test" else 2], rng, scene), fill(row[rng.randrange(2)], rng, scene)])


def turns(said: list[str]) -> Conversation:
    """Question, answer, question, answer, ..."""
    return {"messages": [{"role": "assistant" if i % 2 else "user", "content": words} for i, words in enumerate(said)]}


def long_chat(name: str, maker: str, personality: str, split: str, index: int) -> Conversation:
    """Two or three exchanges about different things: the model must answer the last question, not the first."""
    rng = rng_of("long", split, index)
    messages: list[Message] = []
    for i in range(rng.randint(2, 3)):
        n, kind = index * 3 + i + 1_000_000, rng.random()
        if kind < 0.3:
            part = identity_chat(name, maker, personality, split, n)[0]
        else:
            part = problem_chat(split, n) if kind < 0.65 else talk(split, n)
        messages += part["messages"]
    return {"messages": messages}
