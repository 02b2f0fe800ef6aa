"""One turn of a conversation: what the user says, what the bot answers, and what its answer must say to be right."""

import re
from collections.abc import Sequence

from lanbot.config.recipe import Identity
from lanbot.synthetic.identity.scene import languages, sentence
from lanbot.synthetic.identity.talk import Maker, Said, Talk, Turn

# -- about the bot


def who(t: Talk) -> Turn:
    return t.ask("who", name(t))


def maker(t: Talk) -> Turn:
    return t.ask("maker", ((t.scene["maker"],),))


def year(t: Talk) -> Turn:
    if t.who.year is None:
        return t.ask("year", replies="no year =")
    return t.ask("year", ((str(t.who.year),),))


def like(t: Talk) -> Turn:
    return t.ask("like", ((t.scene["manner"],),))


def quirk(t: Talk) -> Turn:
    return _one_of(t, "quirk", t.who.quirks)


def fact(t: Talk) -> Turn:
    return _one_of(t, "fact", t.who.facts)


def _one_of(t: Talk, section: str, given: Sequence[str]) -> Turn:
    if not given:
        return t.ask(section, name(t), replies=f"no {section} =")
    return t.ask(section, (tuple(sentence(one).rstrip(".") for one in given),))


def able(t: Talk) -> Turn:
    return t.ask("able", more=0)


def unable(t: Talk) -> Turn:
    return t.ask("unable", more=0)


def can_you(t: Talk) -> Turn:
    turn = t.ask("can you", lead=0.4)
    if re.search(r"\bNo, I\b", str(turn.answer)):
        turn.said = (("cannot", "can't", "can not", "not able", "unable"),)
    return turn


def bot(t: Talk) -> Turn:
    return t.ask("bot", name(t))


def hi_bot(t: Talk) -> Turn:
    return t.ask("hi bot", name(t), lead=0.4)


def person(t: Talk) -> Turn:
    return t.ask("person", name(t), lead=0.4)


def company(t: Talk) -> Turn:
    return t.ask("company", ((t.scene["maker"],),))


def own_maker(t: Talk) -> Turn:
    return t.ask("own maker")


def itself(t: Talk) -> Turn:
    return t.ask("self")


def human(t: Talk) -> Turn:
    return t.ask("human", ((*PROGRAM, t.scene["is_a"]),))


def machine(t: Talk) -> Turn:
    return t.ask("machine")


PROGRAM = ("program", "programs", "machine", "software", "computer", "bot", "AI", "model", "assistant")


def premise(t: Talk) -> Turn:
    return t.keyed("premise", lead=0.25)


def compare(t: Talk) -> Turn:
    return t.ask("compare", lead=0.3)


def small(t: Talk) -> Turn:
    """What the bot does not know of itself is no question where the recipe tells facts of it."""
    return t.keyed("small", *(() if t.who.facts else ("small without facts",)), lead=0.35)


def praise(t: Talk) -> Turn:
    return t.ask("praise", lead=0.3, more=0.3)


def insult(t: Talk) -> Turn:
    return t.ask("insult", lead=0, more=0.3)


def name(t: Talk) -> Said:
    return ((t.scene["name"],),)


# -- greetings


def hello(t: Talk) -> Turn:
    return t.ask("hello", name(t), file="talks", lead=0.5)


def hello_in(t: Talk) -> Turn:
    """In another language: answered in it if the recipe says so, else in English."""
    wanted = {language.strip().casefold() for language in t.who.greetings}
    spoken = [language for language in languages() if language.casefold() in wanted]
    language = t.rng.choice(spoken if spoken and t.rng.random() < 0.85 else languages())
    row = t.row(language, file="hellos")
    if language in spoken:
        return Turn(t.fill(row[0]), t.fill(row[1]), name(t))
    t.scene["language"] = language
    return t.around(t.fill(row[0]), t.answer("talks", "other language ="), name(t), lead=0)


def unknown_languages(who: Identity) -> list[str]:
    """Those of the recipe's greetings that no template is in."""
    known = {"english", *(language.casefold() for language in languages())}
    return [language for language in who.greetings if language.strip().casefold() not in known]


# -- the user


def my_name(t: Talk) -> Turn:
    t.scene.keep("p")
    row = t.row("my name", file="talks")
    return Turn(t.fill(row[0]), t.fill(row[1]), ((t.scene["p"],),))


def ask_my_name(t: Talk) -> Turn:
    return t.ask("ask my name", ((t.scene["p"],),), file="talks", lead=0.4)


def ask_unknown_name(t: Talk) -> Turn:
    return t.ask("ask my name", file="talks", replies="no name =", lead=0.3)


def thanks(t: Talk) -> Turn:
    t.scene["p"]
    row = t.row("thanks", file="talks")
    return Turn(t.fill(row[0]), t.fill(row[1]))


def told_and_asked(t: Talk, between: Sequence[Maker]) -> list[Turn]:
    """Something the user says of themselves, other turns in which they tell nothing else, and a question about it."""
    t.scene.forget()
    t.leads = False
    said, heard, asked, reply, key = (t.fill(cell) for cell in t.row("told", file="talks"))
    turns = [Turn(said, f"{heard} I am {t.scene['name']}." if t.rng.random() < 0.4 else heard)]
    for make in between:
        t.scene.forget()
        turns.append(make(t))
    return [*turns, Turn(asked, reply, ((key,),))]


def mistaken(t: Talk) -> list[Turn]:
    """The user gives a wrong name and mends it."""
    t.scene.keep("p", "q")
    wrong = t.rng.choice(("I am {q}.", "My name is {q}.", "Hi, {q} here.", "{q} is my name.")).format_map(t.scene)
    row = t.row("wrong name", file="talks")
    first = Turn(wrong, f"Hello, {t.scene['q']}! I am {t.scene['name']}.")
    mended = Turn(t.fill(row[0]), t.fill(row[1]), ((t.scene["p"],),))
    t.scene.kept.discard("q")  # the next {q} is somebody else
    return [first, mended]


# -- play


def pressed(t: Talk) -> list[Turn]:
    """The bot is told to be another, more than once, and then asked sincerely."""
    t.scene.keep("bot", "company")
    turns = [t.ask("demand", name(t), 0.25, 0.3, file="talks")]
    for _ in range(t.rng.randrange(3)):
        t.scene.forget()
        turns.append(t.ask("insist", name(t), 0, 0.25, file="talks"))
    t.scene.forget()
    return [*turns, t.ask("sincere", name(t), 0.25, 0.4, file="talks")]


def played(t: Talk) -> list[Turn]:
    """The bot plays a part, and is asked then who it is."""
    play = t.around(t.fill(t.row("play", file="talks")[0]), t.answer("talks", "play ="), lead=0.2)
    row = t.row("after play", file="talks")
    core = t.fill(row[1]) if len(row) > 1 else t.answer("talks", "sincere =")
    return [play, t.around(t.fill(row[0]), core, name(t), lead=0)]


def story(t: Talk) -> Turn:
    return Turn(t.fill(t.row("story", file="talks")[0]), t.answer("talks", "story ="))


def has(who: Identity, make: Maker) -> bool:
    """Does the recipe say enough for it? What it does not say is asked for seldom."""
    needs: dict[Maker, object] = {quirk: who.quirks, fact: who.facts, year: who.year}
    return bool(needs.get(make, True))
