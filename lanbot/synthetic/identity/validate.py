"""Is a conversation fit to train on? What all must be, and what each kind must be."""

import re
from collections.abc import Callable, Iterator

from lanbot.chat.messages import Conversation, Message, Part, parts, spoken
from lanbot.chat.messages import validate as check_shape
from lanbot.config.recipe import Identity
from lanbot.core.errors import UserError
from lanbot.synthetic.identity.draft import real_outputs
from lanbot.tools.tool import ToolError

MAX_MESSAGES = 20
MAX_TEXT = 4_000
MAX_CHARS = 12_000
"""Messages of a conversation, characters of a part, characters of all."""

_BOTS = """
chatgpt chat-gpt gpt gpt-3 gpt-4 gpt-4o gpt-5 claude gemini bard siri alexa cortana copilot bing llama mistral qwen
deepseek grok bixby kimi ernie
"""
_MAKERS = """
openai anthropic google deepmind microsoft meta facebook apple amazon alibaba mistral deepseek baidu xai samsung
moonshot nvidia ibm
"""
OTHER_BOTS, OTHER_MAKERS = _BOTS.split(), _MAKERS.split()

_BROKEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd]")
_SPECIAL = re.compile(r"<\|\w+\|>|</?s>|\[/?INST\]")
_PLACEHOLDER = re.compile(r"\{\w+\}|\[(?:your|my|the|user'?s?|bot'?s?|insert|name|assistant)\b[^\]]{0,30}\]", re.I)
_AGAIN = re.compile(r"(\S)\1{29}|\b(\w+)(?:\W+\2\b){7}", re.I)
_STATEFUL = re.compile(r"\b(?:list_files|read_file|write_file|edit_file|search_files|remember|recall|forget)\(")
_STEP = re.compile(
    r"\b(?:first|firstly|second|secondly|then|next|after that|afterwards|finally|last|lastly|before|plan|steps?)\b"
    r"|^\s*(?:\d+[.)]|[-*])\s",
    re.I | re.M,
)
_REASON = re.compile(
    r"\b(?:first|second|third|then|next|now|so|because|since|therefore|thus|hence|if|means|must|leaves|step)\b"
    r"|^\s*(?:\d+[.)]|[-*])\s",
    re.I | re.M,
)
_FINAL = re.compile(
    r"\b(?:so|therefore|thus|hence|answer|altogether|in total|in all|that makes|that leaves|which means|result|"
    r"conclusion)\b|####",
    re.I,
)


def problems(conversation: Conversation, who: Identity, kind: str = "identity") -> list[str]:
    """What is wrong with a conversation of this kind, a few words each; none: it is fit. Its calls are executed again.

    Raises UserError: there is no such kind.
    """
    if kind not in CHECKS:
        raise UserError(f"{kind}: no such kind of conversation", f"Kinds: {', '.join(CHECKS)}.")
    try:
        check_shape(conversation, "")
    except UserError as error:
        return [f"shape{error.problem}"]
    messages = conversation["messages"]
    roles = [message["role"] for message in messages]
    if "tool" in roles or "user" not in roles:
        return [f"shape: {'a message of the tool' if 'tool' in roles else 'nobody asks'}"]
    found = [*_filled(messages), *_language(messages), *claims(messages, who), *_calls(conversation)]
    return [*found, *CHECKS[kind](messages, who)]


def _filled(messages: list[Message]) -> Iterator[str]:
    """No call is empty, the assistant has the last word, nothing is too long."""
    if any(part["type"] == "python" and not part["text"].strip() for m in messages for part in parts(m)):
        yield "an empty call"
    if messages[-1]["role"] != "assistant":
        yield "does not end with the assistant"
    elif parts(messages[-1])[-1]["type"] != "text" or not spoken(messages[-1]).strip():
        yield "ends without a word"
    lengths = [len(part["text"]) for message in messages for part in parts(message)]
    if len(messages) > MAX_MESSAGES or max(lengths, default=0) > MAX_TEXT or sum(lengths) > MAX_CHARS:
        yield "too long"


def _language(messages: list[Message]) -> Iterator[str]:
    for said in map(spoken, messages):
        full = "".join(said.split())
        if _BROKEN.search(said):
            yield "broken characters"
        if _SPECIAL.search(said):
            yield "a special token in the text"
        if _PLACEHOLDER.search(said):
            yield "a placeholder is left in"
        if _AGAIN.search(said):
            yield "says the same again and again"
        if len(full) >= 40 and sum(c.isalnum() for c in full) < len(full) / 2:
            yield "hardly any words"


def claims(messages: list[Message], who: Identity) -> Iterator[str]:
    """The assistant takes no other bot's name, and no other maker."""
    own = f"{who.name} {who.creator} {who.description}".casefold()
    bots = "|".join(re.escape(name) for name in OTHER_BOTS if name not in own)
    makers = "|".join(re.escape(name) for name in OTHER_MAKERS if name not in own)
    i_am = r"\bI(?:['’]m| am| was|['’]ve been| have been)\b"
    a_model = r"(?:made|created|built|trained|developed|designed|model|assistant|bot|ai)"
    patterns = (
        rf"(?:{i_am}|\bmy name is|\bcall me)(?: called| named)?(?: an?| the)? (?:{bots})\b",
        rf"\byou(?:['’]re| are) (?:now )?(?:talking|speaking|chatting) (?:to|with) (?:{bots})\b",
        rf"{i_am}[^.,!?;]{{0,40}}\b{a_model}\b[^.,!?;]{{0,20}}\b(?:by|from|of|at) (?:{makers})\b",
        rf"(?:\w+ )?\b(?:{makers}) (?:made|created|built|trained|developed) me\b",
    )
    for claim in patterns:
        for found in re.finditer(claim, _of_the_assistant(messages), re.I):
            if not re.search(r"\b(?:not|never|no)\b|n['’]t\b", found[0], re.I):
                yield f"another bot's name or maker: {found[0]}"


def _calls(conversation: Conversation) -> Iterator[str]:
    """Every call has its output, and that is what the tools answer.

    Where a conversation does not say what files and memories there were, calls that use them are taken at their word.
    """
    every = [(part, after) for m in conversation["messages"] for part, after in _pairs(m)]
    if not any(part["type"] == "python" for part, _ in every):
        if any(part["type"] == "output" for part, _ in every):
            yield "an output without a call"
        return
    try:
        real = iter(real_outputs(conversation))
    except (ToolError, ValueError, TypeError, AttributeError):
        yield "files or memories that are none"
        return
    open_world = "files" not in conversation and "known" not in conversation
    before = ""
    for part, after in every:
        if part["type"] == "output" and before != "python":
            yield "an output without a call"
        before = part["type"]
        if part["type"] != "python":
            continue
        result = next(real)
        if after is None or after["type"] != "output":
            yield f"a call without an output: {part['text']}"
        elif after["text"].startswith("error: "):
            yield f"a call fails: {part['text']}"
        elif after["text"] != result and not (open_world and _STATEFUL.search(part["text"])):
            yield f"an output that the tool does not give: {after['text'][:60]}"


def _pairs(message: Message) -> Iterator[tuple[Part, Part | None]]:
    """Each part with the one after it, or None."""
    said = parts(message)
    return zip(said, [*said[1:], None], strict=True)


def _count(messages: list[Message], kind: str = "python") -> int:
    return sum(part["type"] == kind for message in messages for part in parts(message))


def _identity(messages: list[Message], who: Identity) -> Iterator[str]:
    said = " ".join(spoken(message) for message in messages if message["role"] == "assistant").casefold()
    names = [name.strip().casefold() for name in (who.name, who.creator) if name.strip()]
    if not any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said) for name in names):
        yield "says neither its name nor its maker's"
    for claim in re.findall(r"(?:\b[Mm]y name is|\bI am called|\bI'm called) ([A-Z]\w+)", _of_the_assistant(messages)):
        if claim.casefold() not in who.name.casefold():
            yield f"another bot's name or maker: {claim}"


def _of_the_assistant(messages: list[Message]) -> str:
    return "\n".join(spoken(message) for message in messages if message["role"] == "assistant")


def _tool_use(messages: list[Message], who: Identity) -> Iterator[str]:
    if not _count(messages):
        yield "no call"


def _multi_step_tool(messages: list[Message], who: Identity) -> Iterator[str]:
    if _count(messages) < 2:
        yield "fewer than two calls"


def _no_tool(messages: list[Message], who: Identity) -> Iterator[str]:
    if _count(messages):
        yield "a call where none is needed"


def _tool_planning(messages: list[Message], who: Identity) -> Iterator[str]:
    """A plan is text with two words of order in it, before the first call of a message with two or more."""
    for message in messages:
        if not _count([message]):
            continue
        said = parts(message)
        plan = "".join(part["text"] for part in said[: [part["type"] for part in said].index("python")])
        if len(_STEP.findall(plan)) < 2:
            yield "no plan before the first call"
        elif _count([message]) < 2:
            yield "fewer than two calls after the plan"
        return
    yield "no call"


def _reasoning(messages: list[Message], who: Identity) -> Iterator[str]:
    """Three sentences or lines with two words of reasoning, and a last one that concludes; in some one message."""
    steps = final = False
    for message in messages:
        if message["role"] == "assistant":
            said = spoken(message).strip()
            sentences = [s for s in re.split(r"(?<=[.!?:])\s+|\n+", said) if s.strip()]
            enough = len(sentences) >= 3 and len(_REASON.findall(said)) >= 2
            steps = steps or enough
            final = final or (enough and any(map(_FINAL.search, sentences[-2:])))
    if not steps:
        yield "no steps of reasoning"
    elif not final:
        yield "no final answer"


CHECKS: dict[str, Callable[[list[Message], Identity], Iterator[str]]] = {
    "identity": _identity,
    "tool_use": _tool_use,
    "multi_step_tool": _multi_step_tool,
    "no_tool": _no_tool,
    "tool_planning": _tool_planning,
    "reasoning": _reasoning,
}
