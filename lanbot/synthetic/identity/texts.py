"""The written texts: topics.txt, dialogues.txt, jobs.txt and languages.txt, parsed.

Every fourth text of a user is only for tests; what the bot says is the same for both splits.
"""

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from lanbot.config.recipe import Identity
from lanbot.synthetic.world.grammar import Cell, Row, cell, held_out_row, sections
from lanbot.tools.words import words


@dataclass(frozen=True)
class Topic:
    """Questions that the same answers fit."""

    kind: str
    needs: str = ""
    """The key of [identity] that it is about, or "no KEY"."""
    says: str = ""
    """What a right answer says."""
    agrees: bool | None = None
    """Whether a right answer says yes, or no."""
    unless: str = ""
    """Not asked if facts or quirks have one of these words: they may say otherwise."""
    weight: int = 1
    asks: list[Cell] = field(default_factory=list)
    answers: dict[str, list[Cell]] = field(default_factory=dict)
    """By manner; "" in any."""


@dataclass(frozen=True)
class Dialogue:
    """turns: (question, answer, how many other questions may follow)."""

    kind: str
    says: str = ""
    agrees: bool | None = None
    system: Cell = ()
    turns: list[tuple[Cell, Cell, int]] = field(default_factory=list)


def of_split(texts: list[Any], split: str) -> list[Any]:
    return [text for i, text in enumerate(texts) if held_out_row(i) == (split == "test")]


@cache
def topics(who: Identity) -> list[Topic]:
    """Those that fit the identity, each as often as its weight."""
    has = {key for key, value in vars(who).items() if (value.strip() if isinstance(value, str) else value)}
    told = set(words(" ".join(who.facts + who.quirks)))
    if {language.casefold() for language in who.greetings} <= {"english"}:
        has.discard("greetings")
    fitting = [one for one in _topics() if told.isdisjoint(words(one.unless))]
    fitting = [one for one in fitting if not one.needs or (one.needs.split()[-1] in has) != ("no " in one.needs)]
    return [topic for topic in fitting for _ in range(topic.weight)]


@cache
def _topics() -> list[Topic]:
    found: list[Topic] = []
    for line in filter(None, _lines("topics.txt")):
        if line.startswith("["):
            found.append(Topic(**_header(line)))
        else:
            mark, _, texts = line.partition(" ")
            told = found[-1].asks if mark == "?" else found[-1].answers.setdefault(mark[:-1], [])
            told.extend(map(cell, texts.split(" | ")))
    return found


@cache
def dialogues(split: str) -> list[Dialogue]:
    return of_split([one for one in _dialogues() if one.turns], split)


@cache
def systems() -> list[Cell]:
    """System messages that change nothing."""
    return [one.system for one in _dialogues() if not one.turns]


@cache
def _dialogues() -> list[Dialogue]:
    found: list[Dialogue] = []
    header: dict[str, Any] = {}
    for line in filter(None, _lines("dialogues.txt")):
        if line.startswith("["):
            header = _header(line)
            continue
        mark, _, told = line.strip().partition(" ")
        if not line.startswith(" "):
            found.append(Dialogue(**header, system=cell(told) if mark == "!" else ()))
        if mark == "?":
            asked, _, answer = told.partition(" > ")
            found[-1].turns.append((cell(asked), cell(answer.rstrip("~ ")), answer.count("~")))
    return found


@cache
def languages() -> list[tuple[str, dict[str, tuple[list[str], list[Cell]]]]]:
    """(language, {"hello": (greetings, answers), "who": (ways to ask who the bot is, answers)})."""
    found = []
    for line in filter(None, _lines("languages.txt")):
        language, hello, reply, asked, name = (part.split("|") for part in line.split(" => "))
        said = {"hello": (hello, list(map(cell, reply))), "who": (asked, list(map(cell, name)))}
        found.append((language[0], said))
    return found


def unknown_languages(who: Identity) -> list[str]:
    """Those of [identity] in which no greeting is written here."""
    known = {"english", *(language.casefold() for language, *_ in languages())}
    return [language for language in who.greetings if language.casefold() not in known]


@cache
def jobs(section: str, split: str) -> list[Row]:
    return of_split(list(sections("identity/jobs")[section]), split)


def _header(line: str) -> dict[str, Any]:
    """ "[year] needs year | says {year} | yes | weight 2" as arguments of Topic."""
    kind, _, options = line[1:].partition("]")
    found: dict[str, Any] = {"kind": kind}
    for option in filter(None, map(str.strip, options.split("|"))):
        name, _, value = option.partition(" ")
        if name in ("yes", "no"):
            found["agrees"] = name == "yes"
        else:
            found[name] = int(value) if name == "weight" else value
    return found


def _lines(name: str) -> list[str]:
    written = files("lanbot.synthetic").joinpath(f"identity/{name}").read_text("utf-8")
    return [line for line in written.split("\n") if not line.startswith("#")]
