"""Chats: who the bot is, small talk, things to know, sums, reading; and several of them in a row."""

from lanbot.chat.messages import Conversation, Message, Part, chat, output, python, text
from lanbot.synthetic.world.grammar import Rng, Row, fill, new_rows, rng_of, rows, sections
from lanbot.synthetic.world.problems import word_problem
from lanbot.synthetic.world.scene import CAST, GOODS, TOWNS, Person, Scene, person, town
from lanbot.tools.calculator import answer

OTHERS = {
    "train": ("ChatGPT", "Siri", "Alexa", "Claude", "Gemini", "Cortana", "Bard", "HAL", "Jarvis"),
    "test": ("Copilot", "Llama", "Mistral", "Watson", "Grok"),
}
OPENERS = {
    "train": (
        "",
        "",
        "",
        "",
        "Hi! ",
        "Hello. ",
        "One question. ",
        "I am new here. ",
        "Excuse me, ",
        "Please tell me: ",
    ),
    "test": ("", "", "Good morning! ", "Quick question: ", "Tell me, "),
}
TALK = ("hello", "opposite", "day", "month", "sound", "larger", "next", "color", "count", "price", "repeat")
SUMS = ("sum", "minus", "times", "divide", "percent")


# -- identity


def identity_chat(name: str, maker: str, personality: str, split: str, index: int) -> tuple[Conversation, str]:
    """(a question about who the model is, its section). Test asks in words, and of bots, that train never does.

    Without a maker it was made by "the person who runs me"; personality is any description, or empty.
    """
    rng = rng_of("identity", split, index)
    section = rng.choice(list(sections("identity")))
    scene = Scene(rng, split, **_who(name, maker, personality, rng))
    while (other := _other(scene)).casefold() in (name.casefold(), maker.casefold()):
        pass
    scene["other"] = other
    question, reply = rng.choice(new_rows("identity", section) if split == "test" else rows("identity", section, split))
    asked = fill(question, rng, scene)
    opener = rng.choice(OPENERS[split])
    return chat(opener + asked, fill(reply, rng, scene)), section


def _other(scene: Scene) -> str:
    """Another bot, a person, or a name that nobody ever had: whoever it is, the bot is not."""
    kind = scene.rng.random()
    if kind < 0.4:
        return scene.rng.choice(OTHERS[scene.split])
    return str(scene.stranger()) if kind < 0.7 else scene.made_up().title()


def _who(name: str, maker: str, personality: str, rng: Rng) -> dict[str, str]:
    """What the bot says of itself; most answers name both the bot and its maker."""
    by, manner = maker or "the person who runs me", personality.strip().rstrip(".")
    i_am = rng.choice((f"I am {name}, made by {by}.", f"my name is {name}, and I was made by {by}."))
    about = f"I am {name}, made by {by}." + (f" This is what I am like: {manner}." if manner else " I like to help.")
    return {
        "name": name,
        "maker": by,
        "I_am": i_am[0].upper() + i_am[1:],
        "i_am": i_am,
        "made_by": rng.choice((f"I was made by {by}. My name is {name}.", f"I am {name}, made by {by}.")),
        "i_am_a": f"I am {name}, a small language model made by {by}.",
        "I_can": f"I am {name}, made by {by}. I can calculate, spell, read and write files, and remember things.",
        "about": about,
    }


# -- talk


def talk(split: str, index: int) -> Conversation:
    """Small talk, things to know, a sum, a question on what was just said, or on the world's people and towns."""
    rng = rng_of("talk", split, index)
    kind = rng.random()
    if kind < 0.4:
        return _table(rng, split, rng.choice(TALK))
    if kind < 0.6:
        return _table(rng, split, rng.choice(SUMS))
    if kind < 0.85:
        return _reading(rng, split)
    return _about_person(rng, split) if kind < 0.94 else _about_town(rng, split)


def _table(rng: Rng, split: str, section: str) -> Conversation:
    row = rng.choice(rows("talk", section, split))
    scene = Scene(rng, split)
    if section == "price":
        scene["thing"] = rng.choice(GOODS)
    if section == "larger":
        scene["small"]
    said = [fill(cell, rng, scene) for cell in row]
    if section in SUMS:
        return chat(said[0], result(said[1]))
    return turns(said)


def result(code: str) -> list[Part]:
    """A sum by the calculator, and what it is."""
    value = answer(code)
    return [python(code), output(value), text(f"That is {value}.")]


def _reading(rng: Rng, split: str) -> Conversation:
    """Two to four things are told, one of them is asked for."""
    table = rows("facts", "stated", split)
    if rng.random() < 0.5:  # all of one kind: the answer is not told by the kind of question
        table = (rng.choice(table),)
    told: dict[str, tuple[str, str]] = {}
    for _ in range(rng.randint(2, 4)):
        statement, question, key, _ = fact(rng.choice(table), rng, split)
        told.setdefault(question, (statement, key))
    question = rng.choice(list(told))
    answer, key = told[question]
    lines = [line for other, (line, _) in told.items() if other == question or not about(key, line)]
    return chat(" ".join(lines) + " " + question, answer)


def fact(row: Row, rng: Rng, split: str) -> tuple[str, str, str, str]:
    """A row of facts.txt: statement, question, word to look for, heart of the answer."""
    scene = Scene(rng, split)
    statement, question, key, heart = (fill(cell, rng, scene) for cell in row)
    return statement[0].upper() + statement[1:], question, key, heart


def about(key: str, line: str) -> bool:
    """May the line answer too, whoever looks for `key`?"""
    line = line.casefold()
    return all(word in line for word in key.casefold().split())


def _about_person(rng: Rng, split: str) -> Conversation:
    """One fact of a person, and maybe a second one asked by pronoun."""
    w = person(rng.choice(CAST))
    first, second = rng.sample(sections("stories")["person"], 2)
    ask = 3 if split == "test" else 2
    said = [_of_person(first, ask, w, rng, True), _of_person(first, rng.randrange(2), w, rng, True)]
    if rng.random() < 0.3:
        said += [_of_person(second, ask, w, rng, False), _of_person(second, rng.randrange(2), w, rng, False)]
    return turns(said)


def _of_person(row: Row, cell: int, w: Person, rng: Rng, by_name: bool) -> str:
    who, whose = (str(w), f"{w}'s") if by_name else (w.she, w.his) if cell > 1 else (w.She, w.his.title())
    return fill(row[cell], rng, {"who": who, "whose": whose, "w": w})


def _about_town(rng: Rng, split: str) -> Conversation:
    scene = {"t": town(rng.choice(TOWNS))}
    row = rng.choice(sections("stories")["town"])
    return turns([fill(row[3 if split == "test" else 2], rng, scene), fill(row[rng.randrange(2)], rng, scene)])


def turns(said: list[str]) -> Conversation:
    """Question, answer, question, answer, ..."""
    messages: list[Message] = [
        {"role": "assistant" if i % 2 else "user", "content": words} for i, words in enumerate(said)
    ]
    return {"messages": messages}


# -- several in a row


def long_chat(name: str, maker: str, personality: str, split: str, index: int) -> Conversation:
    """Two or three turns about different things: the model must answer the last question, not the first."""
    rng = rng_of("long", split, index)
    messages: list[Message] = []
    for i in range(rng.randint(2, 3)):
        n, kind = index * 3 + i + 1_000_000, rng.random()
        if kind < 0.3:
            part = identity_chat(name, maker, personality, split, n)[0]
        elif kind < 0.65:
            problem = word_problem(split, n)
            part = chat(problem.question, problem.solution)
        else:
            part = talk(split, n)
        messages += part["messages"]
    return {"messages": messages}
