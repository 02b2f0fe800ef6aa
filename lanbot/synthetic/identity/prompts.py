"""What an endpoint is asked for: the kind of conversation, and a persona, style and topic drawn for each number."""

import random
import tomllib
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from typing import Any

from lanbot.config.recipe import Identity
from lanbot.tools.memory import Memory
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import Workspace

TURNS = ("once", "twice", "once", "three times", "twice")
"""How often the user speaks, in turn."""


@cache
def texts() -> dict[str, Any]:
    """prompts.toml."""
    return tomllib.loads(files("lanbot.synthetic").joinpath("identity/prompts.toml").read_text("utf-8"))


def draw(kind: str, seed: int, number: int) -> dict[str, str]:
    """{"persona", "style", "topic", "turns"} of a conversation.

    Each list is cycled in an order that depends on the seed and kind: after any number of conversations, the numbers
    of times that two entries were used differ by one at most.
    """
    drawn = {"turns": TURNS[number % len(TURNS)]}
    for what, name in {"persona": "personas", "style": "styles", "topic": texts()["kinds"][kind]["topics"]}.items():
        entries = texts()["lists"][name].strip().split("; ")
        random.Random(f"{seed} {kind} {what}").shuffle(entries)
        drawn[what] = entries[number % len(entries)]
    return drawn


@cache
def functions() -> str:
    """The tools as functions, with what they return: a line each."""
    tools = Toolset([*Workspace({}).tools, *Memory().tools]).values()
    return "\n".join(f"{tool.name}({', '.join(tool.schema.get('required', ()))}) -> {tool.returns}" for tool in tools)


def prompt(kind: str, who: Identity, seed: int, number: int) -> list[dict[str, str]]:
    """The messages that ask an endpoint for one conversation."""
    drawn, written, wanted = draw(kind, seed, number), texts(), texts()["kinds"][kind]
    described = {"creator": "the person who runs it"} | {key: value for key, value in asdict(who).items() if value}
    about = "\n".join(f"{k}: {'; '.join(v) if isinstance(v, tuple) else v}" for k, v in described.items())
    system = written["rules"].replace("{about}", about)
    system += written["with_tools" if wanted["topics"] == "tools" else "without_tools"].replace(
        "{functions}", functions()
    )
    asked = (
        f"Kind of conversation: {kind}. {wanted['wanted']}\n"
        f"The user is {drawn['persona']} and writes {drawn['style']}.\nAbout: {drawn['topic']}\n"
        f"The user speaks {drawn['turns']}, each time followed by the assistant."
    )
    return [{"role": "system", "content": system}, {"role": "user", "content": asked}]
