"""One answer while it is generated: from the engine's events to what a client reads."""

from dataclasses import dataclass, field
from typing import NamedTuple

from lanbot.chat.formats.base import ChatFormat, Event
from lanbot.chat.messages import Part, output, python
from lanbot.chat.thoughts import Thoughts, overlap
from lanbot.inference.request import Alternatives, Request
from lanbot.web.calls import ClientTools, ToolCall

REASONS = {"stop": "stop", "length": "length", "tool": "tool_calls", "cancelled": "stop"}


class Token(NamedTuple):
    """A sampled token and its log probability, with the likeliest ones in its place."""

    data: bytes
    logprob: float
    others: tuple[tuple[bytes, float], ...]


class Piece(NamedTuple):
    """More of an answer.

    kind: "text" or "reasoning"; "part", a call that the server answered or its output; "call", one for the client;
    "end", with why it ended as its text. tokens: those of a text, where they were asked for. stop: of an end, the stop
    text that was written.
    """

    kind: str
    text: str = ""
    part: Part | None = None
    call: ToolCall | None = None
    tokens: tuple[Token, ...] = ()
    stop: str = ""


@dataclass
class Answer:
    """Listens to a request of the engine, in the engine's thread, and answers its calls. `take` returns what is new.

    stop: texts that end the answer; they are not part of it. thinks: the text may begin with a thought.
    """

    chat_format: ChatFormat
    tools: ClientTools
    stop: tuple[str, ...] = ()
    thinks: bool = False
    logprobs: bool = False
    request: Request | None = None
    over: bool = False
    """Its end was taken."""
    _new: list[Piece] = field(default_factory=list)
    _kind: str = "text"
    _written: str = ""  # of a call or an output
    _by_name: bool = False  # the last call
    _held: str = ""  # text that may become a stop text
    _cut: str = ""  # the stop text that was written
    _thought: Thoughts | None = None
    _tokens: list[Token] = field(default_factory=list)
    _seen: int = 0  # tokens of the completion
    _ahead: int = 0  # bytes of text that went out, minus those of the tokens that went out

    def __post_init__(self) -> None:
        self._thought = Thoughts() if self.thinks else None

    # -- the engine's side

    def hear(self, event: Event) -> None:
        if event.kind == "open" and not event.invented:
            self._flush()
            self._kind, self._written = event.part, ""
        elif event.kind == "close" and not event.invented:
            self._closed()
        elif event.kind == "piece":
            if self._kind == "text":
                self._say(event.text)
            else:
                self._written += event.text
        elif event.kind == "call":
            self._by_name = event.part == "call"

    def answered(self, code: str) -> str | None:
        """What the model reads after its call; None if the call is the client's, which ends the answer."""
        assert self.request is not None
        if not self._by_name:
            found = self.tools.of_code(code)
            if isinstance(found, str):
                return self._server(code, found)
            self._client(found)
            return None
        parts = self.request.parser.parts
        begins = max((i + 1 for i, part in enumerate(parts) if part["type"] == "output"), default=0)
        calls = [part for part in parts[begins:] if part["type"] in ("call", "python")]
        part = next((part for part in calls if part["text"] == code), None)
        made = self.tools.of_part(part) if part else None
        if made is None:
            return self._server(code, str(ClientTools().of_code(code)))
        others = calls[calls.index(part) + 1 :] if part and self.tools.several else []
        theirs = map(self.tools.of_part, others)
        self._client(made, *(one for one in theirs if one is not None))
        return None

    def _client(self, *calls: ToolCall) -> None:
        self._new += [Piece("call", call=call) for call in calls]

    def _server(self, code: str, result: str) -> str:
        self._new.append(Piece("part", part=python(code)))
        return result

    def _closed(self) -> None:
        if self._kind == "output":
            self._new.append(Piece("part", part=output(self._written)))
        self._kind, self._written = "text", ""

    # -- text

    def _say(self, text: str) -> None:
        if self._cut:
            return
        said = self._held + text
        found = [(at, stop) for stop in self.stop if (at := said.find(stop)) >= 0]
        if found:
            at, self._cut = min(found)
            self._held = ""
            self._out(said[:at])
            return
        kept = max((overlap(said, stop) for stop in self.stop), default=0)
        self._held = said[len(said) - kept :]
        self._out(said[: len(said) - kept])

    def _flush(self) -> None:
        held, self._held = self._held, ""
        self._out(held)

    def _out(self, text: str) -> None:
        for kind, piece in self._thought.split(text) if self._thought else [("text", text)]:
            if piece:
                self._new.append(Piece(kind, piece))
        self._ahead += len(text.encode())

    # -- the scheduler's side

    @property
    def problem(self) -> str:
        """Why the answer has not the form that was asked for; "" while all is well."""
        constraint = self.request and self.request.constraint
        return constraint.problem if constraint else ""

    def take(self) -> list[Piece]:
        """What is new since the last time; the last piece of an answer is its end."""
        request = self.request
        assert request is not None
        if request.finished:
            self._flush()
            if self._thought:
                self._new += [Piece(*last) for last in self._thought.end() if last[1]]
        if self.logprobs:
            self._give_tokens(request)
        if request.finished:
            self._new.append(Piece("end", REASONS[request.completion.finished], stop=self._cut))
            self.over = True
        new, self._new = self._new, []
        return new

    def _give_tokens(self, request: Request) -> None:
        """Gives the tokens whose text went out to the first new piece of text."""
        made, encoded = request.completion, self.chat_format.tokenizer.token_bytes
        for i in range(self._seen, len(made.ids)):
            data = encoded(made.ids[i])
            if made.sampled[i] and data and self._kind == "text":  # not a call's
                others: Alternatives = made.top_logprobs[i] if made.top_logprobs else []
                self._tokens.append(Token(data, made.logprobs[i], tuple((encoded(id), p) for id, p in others)))
        self._seen = len(made.ids)
        given = []
        while self._tokens and (self._ahead > 0 or (request.finished and not self._cut)):
            given.append(self._tokens.pop(0))
            self._ahead -= len(given[-1].data)
        if given:
            at = next((i for i, piece in enumerate(self._new) if piece.kind in ("text", "reasoning")), len(self._new))
            if at == len(self._new):
                self._new.append(Piece("text"))
            self._new[at] = self._new[at]._replace(tokens=tuple(given))
