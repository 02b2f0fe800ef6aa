"""The kinds of conversation that an endpoint writes, and what it is asked for: drawn in strata, told in a prompt."""

import random
from functools import cache
from typing import Any

from lanbot.config.recipe import Identity
from lanbot.synthetic.identity import strata
from lanbot.tools.memory import Memory
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import Workspace

TURNS = (1, 2, 1, 3, 2)
"""How many times the user speaks, in turn."""

KINDS: dict[str, tuple[str, str]] = {
    "identity": (
        strata.IDENTITY,
        "The talk is about the assistant itself. It says its name or its maker's at least once, never another name for "
        "itself, and stays true to what is written about it. It calls no tool.",
    ),
    "tool_use": (
        strata.TOOLS,
        "The assistant calls its tool where a careful person would compute or look it up, and answers from the output.",
    ),
    "multi_step_tool": (
        strata.TOOLS,
        "The task takes two or more calls in one answer, the later ones building on what the earlier ones gave.",
    ),
    "no_tool": (
        strata.TALK,
        "The assistant has a tool and rightly does not use it: it answers in words, and helps for real.",
    ),
    "tool_planning": (
        strata.TOOLS,
        "Before its first call the assistant says its plan in a sentence or two (First ..., then ...). Then two or "
        "more calls follow the plan, and an answer.",
    ),
    "reasoning": (
        strata.REASONING,
        "The assistant thinks in three or more short steps (First ..., then ..., because ...) without a tool, and "
        'ends with a sentence that begins with "So" and gives the answer. The answer is right.',
    ),
}
"""By name: what the talks are about, and what is special about them."""

WITH_TOOLS = ("tool_use", "multi_step_tool", "tool_planning")

_RULES = """You write conversations from which a small chat model learns to be the assistant described here.

{about}

The user knows nothing of this description. Each message has fewer than 80 words, of plain text, in English unless \
the topic asks for another language. The assistant is right, and speaks in its own manner. No names in brackets to \
be filled in later. The last message is the assistant's."""

_TOOLS = """
The assistant's tool is one Python expression, in a part of the type "python". It is really run, and a part of the \
type "output" follows with exactly what it gives. No statements, variables, imports, f-strings or comprehensions: \
only literals, + - * / // % **, comparisons, len min max sum sorted round abs int float str list, methods of strings \
such as "berry".count("r"), and these functions, which give text:
{functions}
"files" are there before the talk begins, "known" was remembered before, numbered from 1; either may be empty. The \
user does not see them. No call fails. After an output the assistant says nothing that does not follow from it.
"""

_SHAPE = """
You answer with one JSON object and nothing else, like this one:
{"files": [], "known": [], "messages": [{"role": "user", "parts": [{"type": "text", "text": "..."}]}, \
{"role": "assistant", "parts": [{"type": "text", "text": "..."}]}]}"""

_SHAPE_WITH_TOOLS = """
You answer with one JSON object and nothing else, like this one:
{"files": [{"name": "trip.txt", "text": "Bus at 9:40"}], "known": [], "messages": [{"role": "user", "parts": \
[{"type": "text", "text": "When does my bus go?"}]}, {"role": "assistant", "parts": [{"type": "python", "text": \
"read_file(\\"trip.txt\\")"}, {"type": "output", "text": "Bus at 9:40"}, {"type": "text", \
"text": "It goes at 9:40."}]}]}"""


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT = {"type": "string"}
_PART = _object(type={"type": "string", "enum": ["text", "python", "output"]}, text=_TEXT)
SCHEMA = _object(
    files=_list(_object(name=_TEXT, text=_TEXT)),
    known=_list(_TEXT),
    messages=_list(_object(role={"type": "string", "enum": ["user", "assistant"]}, parts=_list(_PART))),
)
"""Of what the endpoint writes, in the form that OpenAI's strict mode takes."""


def row_id(kind: str, seed: int, number: int) -> str:
    return f"{kind}-{seed}-{number:06d}"


def draw(kind: str, seed: int, number: int) -> dict[str, Any]:
    """The stratum of a conversation: {"persona", "topic", "style", "turns"}.

    Each list is gone through in turn, in an order of the seed's and kind's own: after any number of conversations,
    how often two entries were used differs by one at most.
    """
    lists = {"persona": strata.PERSONAS, "topic": KINDS[kind][0], "style": strata.STYLES}
    drawn: dict[str, Any] = {"turns": TURNS[number % len(TURNS)]}
    for name, text in lists.items():
        entries = strata.lines(text)
        random.Random(f"{seed} {kind} {name}").shuffle(entries)
        drawn[name] = entries[number % len(entries)]
    return drawn


def prompt(kind: str, who: Identity, seed: int, number: int) -> list[dict[str, str]]:
    """The messages that ask an endpoint for one conversation."""
    tools = kind in WITH_TOOLS
    rules = _RULES.format(about=about(who)) + "\n"
    rules += _TOOLS.replace("{functions}", functions()) + _SHAPE_WITH_TOOLS if tools else _SHAPE
    drawn = draw(kind, seed, number)
    asked = (
        f"Kind of conversation: {kind}. {KINDS[kind][1]}\n"
        f"The user: {drawn['persona']}\n"
        f"The user writes: {drawn['style']}\n"
        f"About: {drawn['topic']}\n"
        f"The user speaks {('once', 'twice', 'three times')[drawn['turns'] - 1]}, each time followed by the assistant."
    )
    return [{"role": "system", "content": rules}, {"role": "user", "content": asked}]


@cache
def functions() -> str:
    """The tools as functions, with what they return: a line each."""
    tools = Toolset([*Workspace({}).tools, *Memory().tools]).values()
    return "\n".join(f"{tool.name}({', '.join(tool.schema.get('required', ()))}) -> {tool.returns}" for tool in tools)


def about(who: Identity) -> str:
    """The identity in plain lines."""
    told = {
        "Name": who.name,
        "Made by": who.creator or "the person who runs it",
        "Made in": str(who.year or ""),
        "It is": who.description,
        "Manner": who.personality,
        "Habits": " ".join(who.quirks),
        "It can": "; ".join(who.capabilities),
        "It cannot": "; ".join(who.limitations),
        "It knows of itself": " ".join(who.facts),
        "Greets back in": ", ".join(who.greetings),
    }
    return "The assistant.\n" + "\n".join(f"{key}: {value}" for key, value in told.items() if value)
