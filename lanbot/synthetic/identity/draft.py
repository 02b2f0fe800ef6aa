"""What a model wrote, made into a conversation: its JSON mended, its calls really executed, its words checked."""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NotRequired, cast

from lanbot.chat.messages import Conversation, Message, Part, output, parts, python, text
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import ToolError, Toolset
from lanbot.tools.words import content_words
from lanbot.tools.workspace import Workspace

MAX_FILES = 8
MAX_FILE = 4_000
"""Files of a conversation, and characters of each; memories likewise."""
MAX_STARTS = 20
"""Brackets at which the JSON may begin that are tried."""

ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "bot", "ai", "model"), "assistant"),
    **dict.fromkeys(("tool", "function"), "tool"),
    "system": "system",
}
"""What models call the roles, and what they are."""
PART_TYPES = {
    "text": "text",
    **dict.fromkeys(("python", "code", "call", "tool_call"), "python"),
    **dict.fromkeys(("output", "result", "tool_result"), "output"),
}


class BadDraft(Exception):  # noqa: N818  (not a fault of ours)
    """Why what a model wrote cannot become a conversation: a few words, the particulars after a colon."""


class Made(Conversation):
    """A conversation with what its calls are executed in. Where neither is there, that is not known."""

    files: NotRequired[dict[str, str]]
    known: NotRequired[list[str]]


def read_json(written: str) -> Any:
    """The JSON in what a model wrote: code fences, words around it, commas too many and false escapes are mended.

    Raises BadDraft: there is none, or its end is missing.
    """
    written = re.sub(r"<think>.*?</think>", "", written, flags=re.DOTALL)
    decoder = json.JSONDecoder(strict=False)  # line breaks within a string
    starts = [match.start() for match in re.finditer(r"[{\[]", written)]
    for start in [start for start in starts[:MAX_STARTS] if written[start] == "{" or start == starts[0]]:
        for mended in (written[start:], _mended(written[start:])):
            try:
                value, _ = decoder.raw_decode(mended)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, list) and value and isinstance(value[0], dict) and "role" in value[0]:
                return {"messages": value}
            if isinstance(value, dict) and "messages" in value:
                return value
    raise BadDraft("no whole JSON in the answer")


def _mended(written: str) -> str:
    """Without commas before a closing bracket, which a string may hold, and without escapes that JSON does not know."""
    written = re.sub(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', lambda m: m[1] or "", written, flags=re.DOTALL)
    return re.sub(r"\\(.)", lambda m: m[0] if m[1] in '"\\/bfnrtu' else m[1], written)


def draft(written: str) -> tuple[Made, list[str]]:
    """(the conversation, its outputs executed; what the model thought that each call gives, "" where it did not say).

    Raises BadDraft: it is no conversation, its workspace is none, or a call fails.
    """
    data = read_json(written)
    if re.search(r"[\ud800-\udfff]", json.dumps(data, ensure_ascii=False)):
        raise BadDraft("broken characters")  # no file can hold them
    if not isinstance(data["messages"], list):
        raise BadDraft("shape: messages is no list")
    claimed: list[str] = []
    turns: list[tuple[str, list[Part]]] = []
    for message in data["messages"]:
        role, said = _message(message)
        if role == "assistant" and turns and turns[-1][0] == role:  # as after a message of the tool
            turns[-1][1].extend(said)
        else:
            turns.append((role, said))
    made: Made = {"messages": [_without_outputs(role, said, claimed) for role, said in turns]}
    if claimed:
        made |= {"files": _files(data.get("files")), "known": _known(data.get("known"))}
        _execute(made)
    return made, claimed


def _message(message: object) -> tuple[str, list[Part]]:
    if not isinstance(message, dict):
        raise BadDraft("shape: a message is no object")
    name = str(message.get("role")).lower()
    if name not in ROLES:
        raise BadDraft(f"a role that nobody has: {name[:40]}")
    content = message.get("parts", message.get("content"))
    said = [_part(part) for part in (content if isinstance(content, list) else [content])]
    if ROLES[name] == "tool":
        return "assistant", [output(part["text"]) for part in said]
    return ROLES[name], said


def _part(part: object) -> Part:
    if isinstance(part, str):
        return text(part)
    if isinstance(part, dict):
        kind = PART_TYPES.get(str(part.get("type", "text")))
        words = part.get("text", part.get("code", part.get("content")))
        if kind and isinstance(words, (str, int, float)):
            return {"type": kind, "text": str(words)}
    raise BadDraft("shape: a part that is neither text nor python nor output")


def _without_outputs(role: str, said: list[Part], claimed: list[str]) -> Message:
    """The message without outputs, which are moved to `claimed`: one entry a call."""
    kept: list[Part] = []
    for part in said:
        if part["type"] == "output":
            if kept and kept[-1]["type"] == "python":
                claimed[-1] = part["text"]
        elif part["type"] == "python":
            kept.append(python(part["text"].strip()))
            claimed.append("")
        elif kept and kept[-1]["type"] == "text":
            kept[-1]["text"] += part["text"]
        elif part["text"].strip():
            kept.append(text(part["text"]))
    words = "".join(part["text"] for part in kept)
    return {"role": role, "content": kept if any(part["type"] == "python" for part in kept) else words.strip()}


def _files(files: object) -> dict[str, str]:
    if isinstance(files, dict):
        files = [{"name": name, "text": words} for name, words in files.items()]
    found = {}
    for file in files if isinstance(files, list) else []:
        name, words = (file.get("name"), file.get("text")) if isinstance(file, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(words, str) or len(words) > MAX_FILE:
            raise BadDraft("a file that is none")
        found[name.strip().removeprefix("./")] = words
    if len(found) > MAX_FILES:
        raise BadDraft("too many files")
    return found


def _known(known: object) -> list[str]:
    texts = known if isinstance(known, list) else []
    if len(texts) > MAX_FILES or not all(isinstance(told, str) for told in texts):
        raise BadDraft("memories that are none")
    return texts


def real_outputs(conversation: Conversation) -> list[str]:
    """What the tools answer to the conversation's calls, one after the other, in a workspace of its own.

    Raises ToolError: what it is said to remember cannot be remembered.
    """
    made = cast(Made, conversation)
    memory = Memory()
    try:
        for told in made.get("known", []):
            memory.remember(told)
        workspace = Workspace(dict(made.get("files", {})))
        tools = PythonCalls(Toolset([*workspace.tools, *memory.tools]))
        return [tools(part["text"]) for _, part in _parts(made) if part["type"] == "python"]
    finally:
        memory.close()


def _execute(made: Made) -> None:
    """Puts the real output after each call. Raises BadDraft: a call fails."""
    try:
        results = iter(real_outputs(made))
    except ToolError as error:
        raise BadDraft(f"memories that are none: {error}") from None
    for message in made["messages"]:
        if isinstance(message["content"], str):
            continue
        answered: list[Part] = []
        for part in message["content"]:
            answered.append(part)
            if part["type"] == "python":
                answered.append(output(next(results)))
                if answered[-1]["text"].startswith("error: "):
                    raise BadDraft(f"a call fails: {part['text']} -> {answered[-1]['text']}")
        message["content"] = answered


def contradictions(made: Made, claimed: list[str]) -> list[str]:
    """Words after an output that do not follow from it, as far as a cheap look can tell.

    A number must be in the output or in what was said before, be rounded from such a one, or be its percentage.
    A word that the model only had from its own, false idea of the output must not be said.
    """
    faults, numbers, words = [], set(), set()  # type: list[str], set[Decimal], set[str]
    call, last = -1, None  # type: int, Message | None
    after = False
    for message, part in _parts(made):
        after, last = after and message is last, message
        said, own = part["text"], set(content_words(part["text"]))
        if part["type"] == "text" and after:
            faults += [f"words contradict the tool: {n}" for n in _numbers(said) if not _follows(n, numbers)]
            false = (set(content_words(claimed[call])) - words) & own
            faults += [f"words contradict the tool: {word}" for word in sorted(false) if not word.isdigit()]
        call += part["type"] == "python"
        after = after or part["type"] == "output"
        numbers |= set(_numbers(said))
        words |= own
    return faults


def _parts(made: Conversation) -> Iterator[tuple[Message, Part]]:
    return ((message, part) for message in made["messages"] for part in parts(message))


def _numbers(said: str) -> list[Decimal]:
    said = re.sub(r"(?m)^\s*\d+[.)]\s", "", said)  # of a list
    return [Decimal(found.replace(",", "")) for found in re.findall(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?", said)]


def _follows(number: Decimal, known: set[Decimal]) -> bool:
    unit = Decimal((0, (1,), int(number.as_tuple().exponent)))
    return number in known or any(
        abs(other - number) * 2 <= unit or other == number / 100 or other == number * 100 for other in known
    )


def correction(made: Made, faults: list[str]) -> str:
    """What a model is told that shall write a conversation once more."""
    pairs = []
    for _, part in _parts(made):
        if part["type"] != "text":
            pairs.append(f"{part['type']}: {part['text']}")
    real = "Really executed, the calls give:\n" + "\n".join(pairs) + "\n" if pairs else ""
    return f"This is not good yet: {'; '.join(faults[:5])}.\n{real}Write the whole conversation again, as JSON."
