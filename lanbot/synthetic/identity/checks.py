"""Whether a conversation is fit to train on: what every conversation must be, and what each kind must be."""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from typing import Any

from lanbot.chat.messages import Message, parts, spoken, validate
from lanbot.config.recipe import Identity
from lanbot.core.errors import UserError
from lanbot.synthetic.identity.drafts import executed
from lanbot.tools.tool import ToolError

MAX_MESSAGES, MAX_CHARS = 20, 12_000

_BOTS = """chatgpt chat-gpt gpt gpt-3 gpt-4 gpt-4o gpt-5 claude gemini bard siri alexa cortana copilot bing llama qwen
mistral deepseek grok bixby kimi ernie"""
_MAKERS = """openai anthropic google deepmind microsoft meta facebook apple amazon alibaba mistral deepseek baidu xai
samsung moonshot nvidia ibm"""

_FAULTS = {
    "broken characters": r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd]",
    "a special token in the text": r"<\|\w+\|>|</?s>|\[/?INST\]",
    "a placeholder is left in": r"\{\w+\}|\[(?:your|my|the|user'?s?|bot'?s?|insert|name|assistant)\b[^\]]{0,30}\]",
    "repeats itself": r"(\S)\1{29}|\b(\w+)(?:\W+\2\b){7}",
}
"""Patterns that no text may have."""
_STATEFUL = re.compile(r"\b(?:list_files|read_file|write_file|edit_file|search_files|remember|recall|forget)\(")
_STEP = re.compile(
    r"\b(?:first|second|third|then|next|after|finally|last|because|since|therefore|thus|hence|if|means|plan|steps?)\b"
    r"|^\s*(?:\d+[.)]|[-*])\s",
    re.I | re.M,
)
_FINAL = re.compile(r"\b(?:so|therefore|thus|hence|answer|altogether|in total|in all|makes|leaves|means)\b", re.I)


def problems(conversation: Mapping[str, Any], who: Identity, kind: str = "identity") -> list[str]:
    """What is wrong with a conversation, details after a colon; empty if it is fit. Its calls are executed again."""
    try:
        messages = validate(conversation, "wrong shape")["messages"]
    except UserError as error:
        return [error.problem]
    found = [*_text_problems(messages), *claims(messages, who), *_call_problems(conversation)]
    fault, fits = CHECKS[kind]
    return found if fits(messages, who) else [*found, fault]


def _text_problems(messages: list[Message]) -> Iterator[str]:
    last = parts(messages[-1])[-1]
    if messages[-1]["role"] != "assistant" or last["type"] != "text" or not last["text"].strip():
        yield "does not end with an answer"
    if len(messages) > MAX_MESSAGES or sum(len(part["text"]) for m in messages for part in parts(m)) > MAX_CHARS:
        yield "too long"
    said = "\n".join(map(spoken, messages))
    yield from (fault for fault, pattern in _FAULTS.items() if re.search(pattern, said, re.I))


def claims(messages: list[Message], who: Identity) -> Iterator[str]:
    """Where the assistant claims another bot's name or another maker."""
    own = f"{who.name} {who.creator} {who.description}".casefold()
    bots, makers = ("|".join(name for name in names.split() if name not in own) for names in (_BOTS, _MAKERS))
    i_am = r"\bI(?:['’]m| am| was|['’]ve been| have been)\b"
    a_model = r"(?:made|created|built|trained|developed|designed|model|assistant|bot|ai)"
    patterns = (
        rf"(?:{i_am}|\bmy name is|\bcall me)(?: called| named)?(?: an?| the)? (?:{bots})\b",
        rf"\byou(?:['’]re| are) (?:now )?(?:talking|speaking|chatting) (?:to|with) (?:{bots})\b",
        rf"{i_am}[^.,!?;]{{0,40}}\b{a_model}\b[^.,!?;]{{0,20}}\b(?:by|from|of|at) (?:{makers})\b",
        rf"(?:\w+ )?\b(?:{makers}) (?:made|created|built|trained|developed) me\b",
    )
    said = _answers(messages)
    for found in (found for pattern in patterns for found in re.finditer(pattern, said, re.I)):
        if not re.search(r"\b(?:not|never|no)\b|n['’]t\b", found[0], re.I):
            yield f"another bot's name or maker: {found[0]}"


def _answers(messages: list[Message]) -> str:
    return "\n".join(spoken(message) for message in messages if message["role"] == "assistant")


def _call_problems(made: Mapping[str, Any]) -> Iterator[str]:
    """Each call must have its real output; if the files and memories are unknown, calls that use them may have any."""
    known = "files" in made or "known" in made
    if any(re.search("(?<!p)o", "".join(part["type"][0] for part in parts(message))) for message in made["messages"]):
        yield "an output without a call"
    try:
        for call, output, real in executed(made):
            given = output["text"] if output else ""
            comparable = known or not _STATEFUL.search(call["text"])
            if (real if comparable else given).startswith("error: "):
                yield f"a call fails: {call['text']} returns {real}"
            elif not given or (comparable and given != real):
                yield f"an output that the tool does not give: {call['text']} returns {real}"
    except (ToolError, ValueError, TypeError, AttributeError):
        yield "invalid files or memories"


def calls(messages: list[Message]) -> int:
    return sum(part["type"] == "python" for message in messages for part in parts(message))


def _own_name(messages: list[Message], who: Identity) -> bool:
    names = re.findall(r"(?:\b[Mm]y name is|\bI(?: am|['’]m) called) ([A-Z]\w+)", _answers(messages))
    return all(name.casefold() in who.name.casefold() for name in names)


def _plan(messages: list[Message], who: Identity) -> bool:
    """The first message with two calls or more begins with two words of order or reason."""
    said = next((parts(message) for message in messages if calls([message]) > 1), [])
    plan = takewhile(lambda part: part["type"] == "text", said)
    return len(_STEP.findall("".join(part["text"] for part in plan))) > 1


def _reasoning(messages: list[Message], who: Identity) -> bool:
    """An answer has three sentences or lines, two words of order or reason, and a conclusion at its end."""
    for said in (spoken(message).strip() for message in messages if message["role"] == "assistant"):
        sentences = re.split(r"(?<=[.!?:])\s+|\n+", said)
        if len(sentences) > 2 and len(_STEP.findall(said)) > 1 and any(map(_FINAL.search, sentences[-2:])):
            return True
    return False


CHECKS: dict[str, tuple[str, Callable[[list[Message], Identity], bool]]] = {
    "identity": ("another bot's name or maker", _own_name),
    "tool_use": ("no call", lambda messages, who: calls(messages) > 0),
    "multi_step_tool": ("fewer than two calls", lambda messages, who: calls(messages) > 1),
    "no_tool": ("a call where none is needed", lambda messages, who: not calls(messages)),
    "tool_planning": ("no plan before two calls or more", _plan),
    "reasoning": ("no steps of reasoning with a conclusion", _reasoning),
}
"""Of each kind: what is wrong if the function returns false."""
