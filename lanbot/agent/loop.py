"""The agent's loop: the model writes, its call is run and the result appended, until its message ends."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lanbot.agent.model import ModelClient, Reply
from lanbot.chat.display import blocks, transcript
from lanbot.chat.formats.base import Event
from lanbot.chat.messages import Message, Part, output
from lanbot.core.errors import UserError
from lanbot.inference.sampling import Sampling
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import CallHandler

ANSWERED, NO_ANSWER, OPEN_CALL = "answered", "empty answer", "unfinished call"
STEP_LIMIT, TOKEN_LIMIT = "step limit", "token limit"  # why a turn ended
REPEATS = 2  # how often the same call may be made in a row; after that it is an error and is not run
CUT = "... [cut]"
UNFINISHED = "error: the call was not closed; write it again"
OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Turn:
    """A request, the assistant's message with its calls and their outputs, and why it ended."""

    request: str
    message: Message
    ended: str


@dataclass
class Agent:
    """A conversation with a model that may use tools. What the tools keep outlives it."""

    model: ModelClient
    tools: PythonCalls = field(default_factory=PythonCalls)
    max_steps: int = 8  # calls of one turn. One more returns an error, another ends the turn.
    sampling: Sampling = field(default_factory=Sampling)
    """max_tokens: of one turn, the outputs of its calls included."""
    messages: list[Message] = field(default_factory=list)  # what the model reads
    seed: int = 0
    turns: list[Turn] = field(default_factory=list)
    """The whole conversation, whether the model still reads it or not."""
    forgotten: int = 0  # messages that no longer fit into the context and were left out, oldest first

    def turn(self, request: str, on_event: OnEvent | None = None) -> Turn:
        """Answers a request. on_event gets each event of the answer as it is generated.

        Raises UserError if the request alone is longer than the context. A turn that fails leaves no trace.
        """
        kept, used = self._fitting([*self.messages, {"role": "user", "content": request}])
        room = min(self.sampling.max_tokens, self.model.context_length - used)
        parts: list[Part] = []
        message: Message = {"role": "assistant", "content": parts}
        ended = self._write(kept, message, parts, room, on_event)
        if ended == ANSWERED and not blocks(message):
            ended = NO_ANSWER
        turn = Turn(request, message, ended)
        self.forgotten += len(self.messages) + 1 - len(kept)
        self.messages[:] = [*kept, message]
        self.turns.append(turn)
        return turn

    def new(self) -> None:
        """Starts a new conversation; a system message stays."""
        self.messages[:] = [message for message in self.messages if message["role"] == "system"]
        self.turns.clear()
        self.forgotten = 0

    def transcript(self) -> str:
        """The whole conversation as text to read."""
        texts = []
        for turn in self.turns:
            texts.append(transcript([{"role": "user", "content": turn.request}, turn.message]))
            if turn.ended != ANSWERED:
                texts.append(f"(ended by the {turn.ended})\n")
        return "\n".join(texts)

    def _write(
        self, kept: list[Message], message: Message, parts: list[Part], room: int, on_event: OnEvent | None
    ) -> str:
        """The loop: fills `parts`, the content of `message`. Returns why it ended."""
        run = bounded(self._shortened(room // 2), self.max_steps)
        start, seed, warned = self.model.count_tokens(kept), self.seed + len(self.turns), False
        while True:
            so_far = [*kept, message] if parts else kept
            left = room - (self.model.count_tokens(so_far) - start)
            if left < 1:
                return TOKEN_LIMIT
            reply = self._reply(so_far, left, seed, on_event)
            parts += reply.parts
            if reply.finished == "length":
                return TOKEN_LIMIT
            results: list[str] = []
            if reply.finished == "call":
                for code in reply.calls:
                    result = run(code)
                    if result is None:
                        return STEP_LIMIT
                    results.append(result)
            elif not parts or not parts[-1].pop("open", False):
                return ANSWERED
            elif warned:
                return OPEN_CALL
            else:
                results, warned = [UNFINISHED], True
            for result in results:
                parts.append(output(result))
                if on_event is not None:
                    for event in Event("open", "output"), Event("piece", "output", result), Event("close", "output"):
                        on_event(event)
            seed += 1_000_003

    def _reply(self, messages: list[Message], left: int, seed: int, on_event: OnEvent | None) -> Reply:
        sampling = replace(self.sampling, max_tokens=left)
        if on_event is None:
            return self.model.complete(messages, sampling, seed, self.tools.declarations)
        events = self.model.stream(messages, sampling, seed, self.tools.declarations)
        while True:
            try:
                on_event(next(events))
            except StopIteration as done:
                reply: Reply = done.value
                return reply

    def _fitting(self, messages: list[Message]) -> tuple[list[Message], int]:
        """The messages that leave room for an answer, and their tokens. The oldest go, but not a system message."""
        context = self.model.context_length
        room = max(context // 3, 1)
        kept = list(messages)
        while True:
            used = self.model.count_tokens(kept, self.tools.declarations)
            first = int(kept[0]["role"] == "system")
            last = len(kept) - first <= 1
            if used + room <= context or (last and used < context):
                return kept, used
            if last:
                raise UserError(
                    f"this message is {used:,} tokens; the model's context is {context:,}", "Send a shorter one."
                )
            del kept[first : first + 2]  # a question goes with its answer

    def _shortened(self, room: int) -> CallHandler:
        """The tools with outputs of at most `room` tokens, so that there is room for an answer."""

        def tokens(text: str) -> int:
            return self.model.count_tokens([{"role": "user", "content": text}]) - empty

        def call(code: str) -> str:
            result = self.tools(code)
            if tokens(result) <= room:
                return result
            return result[: bisect_right(range(len(result)), room, key=lambda n: tokens(result[:n])) - 1] + CUT

        empty = self.model.count_tokens([{"role": "user", "content": ""}])
        return call


def bounded(handler: CallHandler, max_steps: int) -> CallHandler:
    """The handler of one turn's calls: refuses a call made over and over, and calls beyond max_steps."""
    made: list[str] = []

    def call(code: str) -> str | None:
        made.append(code)
        if len(made) > max_steps + 1:
            return None  # it was warned
        if len(made) > max_steps:
            return f"error: no more than {max_steps} calls; answer now"
        if made[-REPEATS - 1 :] == [code] * (REPEATS + 1):
            return "error: the same call again; its result is above"
        return handler(code)

    return call
