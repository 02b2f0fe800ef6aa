"""What happens in a conversation with an agent, as data.

The list of its events is the conversation: sessions store it, `messages` makes of it what the model reads, traces and
`--json` show it. An event is frozen and JSON-serialisable.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from lanbot.chat import messages as chat
from lanbot.chat.messages import Message, Part, parts

INTERRUPTED = "error: interrupted; this call may have had its effect or not"
NOT_BEGUN = "error: interrupted before this call was run"


@dataclass(frozen=True)
class Event:
    """stored: whether it belongs to the conversation, or is only shown while it happens."""

    stored: ClassVar[bool] = True


@dataclass(frozen=True)
class Asked(Event):
    """The user asks; it begins a turn."""

    text: str


@dataclass(frozen=True)
class Streamed(Event):
    """A piece of the reply while it is generated; see `lanbot.chat.formats.base.Event`."""

    stored: ClassVar[bool] = False
    kind: str
    part: str = "text"
    text: str = ""
    invented: bool = False


@dataclass(frozen=True)
class Replied(Event):
    """The model wrote parts: to the end of its message ("stop"), to calls ("call") or to a limit ("length").

    Of a reply that was broken off ("interruption", "failure" or a limit) the last part is a note that says so.
    prompt_tokens: that it read. cached_tokens: of these, those that it did not have to read again. tokens: that it
    wrote. seconds: until the reply was whole. cost: in dollars, of an endpoint with prices.
    """

    parts: list[Part]
    finished: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0


@dataclass(frozen=True)
class Calling(Event):
    """A call is about to be run. Stored before it is run: without its `Called` nobody knows whether it had an effect.

    number: counts the calls of the conversation.
    """

    number: int
    code: str


@dataclass(frozen=True)
class Called(Event):
    """A call's result as the model reads it. refused: why it was not run, "" if it was."""

    number: int
    output: str
    seconds: float = 0.0
    refused: str = ""


@dataclass(frozen=True)
class Permission(Event):
    """A call was decided on by a rule or by the user: answer is allow or deny, by says by whom or by which rule."""

    tool: str
    arguments: Mapping[str, Any]
    answer: str
    by: str


@dataclass(frozen=True)
class Compacted(Event):
    """The model reads `messages`, after the system message, instead of all that was before.

    how: what was done, for the user. before, after: tokens.
    """

    messages: list[Message]
    how: str
    before: int
    after: int


@dataclass(frozen=True)
class Ended(Event):
    """The turn ended: "answered", or by which limit; see `lanbot.agent.limits`."""

    reason: str


OnEvent = Callable[[Event], None]
KINDS: dict[str, type[Event]] = {
    kind.__name__.lower(): kind for kind in (Asked, Streamed, Replied, Calling, Called, Permission, Compacted, Ended)
}


def to_json(event: Event) -> dict[str, Any]:
    """{"event": its kind, and its fields}."""
    return {"event": type(event).__name__.lower(), **asdict(event)}


def from_json(row: Mapping[str, Any]) -> Event:
    """The event of `to_json`. Raises ValueError if it is of no kind or lacks a field."""
    values = dict(row)
    kind = KINDS.get(str(values.pop("event", "")))
    if kind is None:
        raise ValueError(f"no event: {str(row)[:60]}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(str(error)) from error


@dataclass
class Reading:
    """What the model reads after some events."""

    messages: list[Message] = field(default_factory=list)
    dangling: dict[int, str] = field(default_factory=dict)
    """Calls without a result, by number."""
    waiting: list[str] = field(default_factory=list)
    """Calls of the last reply that were not begun."""
    calls: int = 0
    """How many were begun."""

    def add(self, event: Event) -> None:
        if isinstance(event, Asked):
            self.messages.append({"role": "user", "content": event.text})
        elif isinstance(event, Replied):
            self._answer().extend(event.parts)
            called = event.finished == "call"
            self.waiting = [part["text"] for part in event.parts if called and part["type"] in ("python", "call")]
        elif isinstance(event, Calling):
            self.dangling[event.number] = event.code
            self.calls = max(self.calls, event.number)
            if event.code in self.waiting:
                self.waiting.remove(event.code)
        elif isinstance(event, Called):
            self.dangling.pop(event.number, None)
            self._answer().append(chat.output(event.output))
        elif isinstance(event, Compacted):
            kept = self.messages[: self.has_system]
            self.messages[:] = [*kept, *(copied(one) for one in event.messages if one["role"] != "system")]
        elif isinstance(event, Ended):
            self.dangling.clear()
            self.waiting = []

    @property
    def has_system(self) -> bool:
        return bool(self.messages) and self.messages[0]["role"] == "system"

    def _answer(self) -> list[Part]:
        """The parts of the assistant's message that is being written."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": []})
        content = self.messages[-1]["content"]
        assert not isinstance(content, str)
        return content


def copied(message: Message) -> Message:
    """A message whose parts can be changed: what follows is written into the copy, not into the event."""
    return {**message, "content": list(parts(message))} if message["role"] == "assistant" else message


def reading(events: Iterable[Event], system: str = "") -> Reading:
    """What the model reads after these events."""
    made = Reading([{"role": "system", "content": system}] if system else [])
    for event in events:
        made.add(event)
    return made


@dataclass(frozen=True)
class Turn:
    """A request, the assistant's whole message with its calls and their outputs, and why it ended ("" if cut off)."""

    request: str
    message: Message
    ended: str

    @property
    def answer(self) -> str:
        """What the assistant said after its last call."""
        said = parts(self.message)
        last = max((i for i, part in enumerate(said) if part["type"] == "output"), default=-1)
        return "".join(part["text"] for part in said[last + 1 :] if part["type"] == "text").strip()


def turns(events: Sequence[Event]) -> list[Turn]:
    """The whole conversation, whether the model still reads it or not."""
    starts = [i for i, event in enumerate(events) if isinstance(event, Asked)]
    made = []
    for i, end in pairwise([*starts, len(events)]):
        asked, own = events[i], [event for event in events[i:end] if not isinstance(event, Compacted)]
        assert isinstance(asked, Asked)
        said = reading(own).messages[1:] or [Message(role="assistant", content=[])]
        ends = [event.reason for event in own if isinstance(event, Ended)]
        made.append(Turn(asked.text, said[0], ends[-1] if ends else ""))
    return made
