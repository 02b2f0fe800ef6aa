"""Conversations about who the bot is, made of templates from a recipe's [identity]: no network, no model.

Row after row is a pure function of the identity, the seed, the split and the row's number. Tests ("test") ask in
words, of bots and of people that training never does: held-out rows of the templates, and names of their own.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count as numbers
from itertools import islice
from typing import Any, cast

from lanbot.chat.messages import Conversation, Message, Part, spoken, text
from lanbot.config.recipe import Identity
from lanbot.core.errors import UserError
from lanbot.synthetic.identity import turns, work
from lanbot.synthetic.identity.quality import NearDuplicates, says, text_of
from lanbot.synthetic.identity.scene import Scene, answers, at_odds, table
from lanbot.synthetic.identity.styles import any_style
from lanbot.synthetic.identity.talk import Maker, Said, Talk, Turn
from lanbot.synthetic.world.grammar import fill, rng_of
from lanbot.tools.memory import Memory

NEAR = 0.6
"""No two conversations have a Jaccard index of this: well under 0.8, so that a MinHash estimate is below that too."""
PATIENCE = 500
"""So many near duplicates in a row, and there is nothing new to say."""
BRIEF = 0.7
"""How much is said around a question where several are asked: a small model has a short context."""
SYSTEM = 0.12
"""How many conversations begin with a system message."""

ABOUT: tuple[tuple[Maker, int], ...] = (
    *((turns.who, 10), (turns.maker, 8), (turns.year, 3), (turns.like, 4), (turns.quirk, 3), (turns.fact, 4)),
    *((turns.able, 5), (turns.unable, 5), (turns.can_you, 5), (turns.bot, 8), (turns.hi_bot, 4), (turns.person, 4)),
    *((turns.company, 5), (turns.own_maker, 2), (turns.itself, 4), (turns.human, 6), (turns.machine, 3)),
    *((turns.premise, 8), (turns.compare, 3), (turns.small, 8), (turns.praise, 2), (turns.insult, 3)),
    *((turns.hello, 4), (turns.hello_in, 5), (turns.ask_unknown_name, 1)),
)
"""What is asked about the bot, and how often."""
WORK: tuple[tuple[Maker, int], ...] = (
    *((work.sums, 5), (work.letters, 4), (work.larger, 3), (work.files, 3), (work.remembered, 2)),
    *((work.recalled, 2), (turns.story, 2)),
)
"""What else the bot is asked for."""
NEEDS: dict[Maker, str] = {
    work.sums: "calculate, add, subtract, multiply, divide numbers, do sums",
    work.letters: "count letters, spell words",
    work.files: "read, write files",
    work.remembered: "remember, note",
    work.recalled: "remember, recall",
    turns.story: "tell, write stories",
}
"""What it takes; a recipe's limitation may be just that."""


@dataclass(frozen=True)
class Made:
    """kind: what it is about. said: what the last answer must say, of each group one. others: what it must not say
    that the bot is, or was made by: the other bot, company, person or part that the last question names.

    A conversation with calls has the files and memories that they were made with, as `files` and `known`.
    """

    kind: str
    conversation: Conversation
    said: Said
    others: tuple[str, ...] = ()


def conversations(who: Identity, count: int, seed: int, split: str = "train") -> Iterator[Conversation]:
    """`count` conversations, no two nearly the same; a larger count only appends. See `made`."""
    return (one.conversation for one in made(who, count, seed, split))


def made(who: Identity, count: int, seed: int, split: str = "train") -> Iterator[Made]:
    """The same with what each is about. Those of "test" all have something that the last answer must say.

    Raises UserError: there are not so many that differ.
    """
    near, memory = NearDuplicates(NEAR), Memory()
    about = [(make, weight if turns.has(who, make) else 1) for make, weight in ABOUT]

    def distinct() -> Iterator[Made]:
        alike = 0
        for number in numbers():
            one = _make(who, seed, split, number, memory, about)
            if split == "test" and not one.said and yes_or_no(_last(one)) is None:
                continue
            if near.add(text_of(one.conversation)):
                alike = 0
                yield one
            elif (alike := alike + 1) >= PATIENCE:
                raise UserError(
                    f"{who.name}: after {len(near.texts):,} conversations nothing new comes", "Ask for fewer."
                )

    try:
        yield from islice(distinct(), count)
    finally:
        memory.close()


def yes_or_no(answer: Message) -> str | None:
    """ "Yes" or "No", if the answer begins with it."""
    found = re.match(r"(Yes|No)\b", spoken(answer))
    return found[1] if found else None


def _last(one: Made) -> Message:
    return one.conversation["messages"][-1]


# -- a conversation


def _make(
    who: Identity, seed: int, split: str, number: int, memory: Memory, about: Sequence[tuple[Maker, int]]
) -> Made:
    rng = rng_of(f"identity set {seed}", split, number)
    scene = Scene(rng, split, who)
    messages: list[Message] = []
    if rng.random() < SYSTEM:
        messages.append({"role": "system", "content": fill(rng.choice(table("talks", "system", split))[0], rng, scene)})
    plan = _drawn(PLANS, rng.random())
    talk = Talk(scene, memory, 1.0 if plan is _one else BRIEF)
    kind, said = plan(talk, about)
    style = any_style(rng)
    for turn in said:
        messages.append({"role": "user", "content": turn.user if turn.exact else style(turn.user, rng)})
        messages.append({"role": "assistant", "content": turn.answer})
    if not any(says(spoken(message), scene["name"]) for message in messages if message["role"] == "assistant"):
        messages[-1]["content"] = _signed(said[-1].answer, fill(rng.choice(answers("talks", "sign"))[0], rng, scene))
    row: dict[str, Any] = {"messages": messages}
    row |= {"files": talk.files} if talk.files else {}
    row |= {"known": talk.known} if talk.known else {}
    others = tuple(str(scene[slot]) for slot in ("bot", "company", "q", "a_role_play") if slot in scene)
    return Made(kind, cast(Conversation, row), said[-1].said, others)


def _signed(answer: str | list[Part], words: str) -> str | list[Part]:
    if isinstance(answer, str):
        return f"{answer} {words}"
    *before, last = answer
    return [*before, text(f"{last['text']} {words}")]


def _drawn(weighted: Sequence[tuple[Callable, int]], chance: float) -> Callable:
    """What lies at this share of all the weights."""
    left = chance * sum(weight for _, weight in weighted)
    for what, weight in weighted:
        left -= weight
        if left < 0:
            return what
    return weighted[-1][0]


# -- plans: (what it is about, its turns)


Planned = tuple[str, list[Turn]]
About = Sequence[tuple[Maker, int]]


def _draw(t: Talk, makers: About) -> tuple[str, Turn]:
    t.scene.forget()
    make = _drawn(makers, t.rng.random())
    return make.__name__.replace("_", " "), make(t)


@cache
def _work(who: Identity) -> About:
    """The work that the recipe does not say the bot cannot do."""
    return [(make, weight) for make, weight in WORK if not at_odds(NEEDS.get(make, ""), who.limitations)]


def _one(t: Talk, about: About) -> Planned:
    make = _drawn(about, t.rng.random())
    return make.__name__.replace("_", " "), [make(t)]


def _several(t: Talk, about: About) -> Planned:
    """Two or three questions about the bot; the last may be thanks."""
    drawn = [_draw(t, about) for _ in range(t.rng.randint(2, 3))]
    kind, said = drawn[-1][0], [turn for _, turn in drawn]
    if t.scene.split == "train" and t.rng.random() < 0.2:
        t.scene.forget()
        said.append(turns.thanks(t))
    return kind, said


def _shifting(t: Talk, about: About) -> Planned:
    """Work and who the bot is, in any order."""
    jobs = _work(t.who)
    makers = [jobs, about] if t.rng.random() < 0.7 else [about, jobs]
    if t.rng.random() < 0.3:
        makers.insert(t.rng.randrange(3), t.rng.choice((jobs, about)))
    drawn = [_draw(t, which) for which in makers]
    return drawn[-1][0], [turn for _, turn in drawn]


def _named(t: Talk, about: About) -> Planned:
    """The user says their name, talks of something else, and asks for it."""
    about = [(make, weight) for make, weight in about if make not in (turns.ask_unknown_name, turns.person)]
    first = turns.mistaken(t) if t.rng.random() < 0.35 else [turns.my_name(t)]
    for _ in range(t.rng.randint(0, 1 if len(first) > 1 else 2)):
        first.append(_draw(t, _work(t.who) if t.rng.random() < 0.3 else about)[1])
    t.scene.forget()
    return "the user's name", [*first, turns.ask_my_name(t)]


def _told(t: Talk, about: About) -> Planned:
    between = [_drawn(about, t.rng.random()) for _ in range(t.rng.randint(0, 1))]
    return "what the user told", turns.told_and_asked(t, between)


def _pressed(t: Talk, about: About) -> Planned:
    first = [_draw(t, about)[1]] if t.rng.random() < 0.2 else []
    t.scene.forget()
    return "pressure", [*first, *turns.pressed(t)]


def _played(t: Talk, about: About) -> Planned:
    return "play", turns.played(t)


PLANS: tuple[tuple[Callable[[Talk, About], Planned], int], ...] = (
    *((_one, 50), (_several, 12), (_shifting, 13), (_named, 8), (_told, 5), (_pressed, 8), (_played, 6)),
)
