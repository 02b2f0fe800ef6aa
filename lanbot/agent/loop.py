"""The agent's loop: the model writes, its calls are answered, it goes on, until the turn is over."""

from collections.abc import Callable
from dataclasses import dataclass, field

from lanbot.agent.transcript import ANSWERED, STEP_LIMIT, TOKEN_LIMIT, Turn, transcript
from lanbot.chat.formats.base import Event
from lanbot.chat.messages import Message
from lanbot.core.errors import UserError
from lanbot.inference.engine import Engine
from lanbot.inference.sampling import Sampling
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import CallHandler as Tool

ENDED = {"stop": ANSWERED, "tool": STEP_LIMIT, "length": TOKEN_LIMIT}
"""Why a turn ended, by what the engine says of it."""

REPEATS = 2
"""How often the same call may be made in a row; then the model is told, and the tool is not asked again."""
CUT = "... [cut]"


@dataclass
class Agent:
    """A conversation with a model that may use a tool; what the tool keeps outlives it.

    max_steps: calls of one turn. Who calls once more is told so, who goes on is stopped.
    sampling.max_tokens: tokens of one turn, the outputs of its calls included.
    """

    engine: Engine
    tool: Tool = field(default_factory=PythonCalls)
    max_steps: int = 8
    sampling: Sampling = field(default_factory=Sampling)
    messages: list[Message] = field(default_factory=list)
    """What the model reads."""
    seed: int = 0
    turns: list[Turn] = field(default_factory=list)
    """All that was said, whether the model still reads it or not."""
    forgotten: int = 0
    """Messages that no longer fit into the context and were left out, oldest first."""

    def turn(self, request: str, on_event: Callable[[Event], None] | None = None) -> Turn:
        """Answers a request. on_event is called with each event of the answer as it is generated.

        Raises UserError if the request alone is longer than the context. A turn that fails leaves no trace.
        """
        messages, prompt = self._prompt([*self.messages, {"role": "user", "content": request}])
        room = min(self.sampling.max_tokens, self.engine.model.config.context - len(prompt))
        tool = bounded(self._shortened(room // 2), self.max_steps)
        told = None if on_event is None else lambda _, event: on_event(event)
        seed = self.seed + len(self.turns)
        completion = self.engine.generate([prompt], self.sampling, seed, told, call_handlers=[tool])[0]
        turn = Turn(
            request, self.engine.chat_format.parse(completion.ids, completion.sampled), ENDED[completion.finished]
        )
        self.forgotten += len(self.messages) + 1 - len(messages)
        self.messages[:] = [*messages, turn.message]
        self.turns.append(turn)
        return turn

    def new(self) -> None:
        """Begins a new conversation; a system message stays."""
        self.messages[:] = [message for message in self.messages if message["role"] == "system"]
        self.turns.clear()
        self.forgotten = 0

    def transcript(self) -> str:
        """The whole conversation as text to read."""
        return transcript(self.turns)

    def _prompt(self, messages: list[Message]) -> tuple[list[Message], list[int]]:
        """The messages that leave room to answer, and their ids. The oldest go, but for a system message."""
        context = self.engine.model.config.context
        room = max(context // 3, 1)
        kept = list(messages)
        while True:
            prompt = self.engine.chat_format.prompt(kept)
            first = int(kept[0]["role"] == "system")
            last = len(kept) - first <= 1
            if len(prompt) + room <= context or (last and len(prompt) < context):
                return kept, prompt
            if last:
                raise UserError(
                    f"this message is {len(prompt):,} tokens; the model's context is {context:,}", "Send a shorter one."
                )
            del kept[first : first + 2]  # a question goes with its answer

    def _shortened(self, room: int) -> Tool:
        """The tool with outputs of at most `room` tokens, so that there is place for an answer to them."""
        tokenizer = self.engine.chat_format.tokenizer

        def call(code: str) -> str | None:
            output = self.tool(code)
            ids = tokenizer.encode(output or "")
            return output if len(ids) <= room else tokenizer.decode(ids[:room]).rstrip("\ufffd") + CUT

        return call


def bounded(tool: Tool, max_steps: int) -> Tool:
    """The tool for one turn: stops the same call made over and over, and calls beyond max_steps."""
    made: list[str] = []

    def call(code: str) -> str | None:
        made.append(code)
        if len(made) > max_steps + 1:
            return None  # it was told
        if len(made) > max_steps:
            return f"error: no more than {max_steps} calls; answer now"
        if made[-REPEATS - 1 :] == [code] * (REPEATS + 1):
            return "error: the same call again; its result is above"
        return tool(code)

    return call
