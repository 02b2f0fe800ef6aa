"""The agent's loop: generate; if there is a call, its result goes back to the model; else the turn is over."""

from collections.abc import Callable
from dataclasses import dataclass, field

from lanbot.chat.conversation import Message
from lanbot.chat.lanbot_format import parse, render_prompt
from lanbot.engine.engine import Engine, Tool
from lanbot.engine.sampling import Sampling
from lanbot.errors import UserError

REPEATS = 2
"""How often the same call may be made in one turn; then the model is told, and the tool is not asked again."""


@dataclass
class Agent:
    """A conversation with a model that may call its tool. `messages` is the transcript.

    max_steps: tool calls in one turn. When they are used up the model is told so and must answer.
    """

    engine: Engine
    max_steps: int = 8
    sampling: Sampling = field(default_factory=Sampling)
    messages: list[Message] = field(default_factory=list)
    seed: int = 0
    forgotten: int = 0
    """Messages that no longer fit into the context and were left out, oldest first."""

    def turn(self, request: str, on_token: Callable[[int], None] | None = None) -> Message:
        """The assistant's message to a request, calls and outputs in it. on_token is told each id as it comes.

        Raises UserError, and forgets the request, if it alone is longer than the context.
        """
        self.messages.append({"role": "user", "content": request})
        try:
            prompt = self._prompt()
        except UserError:
            self.messages.pop()
            raise
        tool, self.engine.tool = self.engine.tool, bounded(self.engine.tool, self.max_steps)
        try:
            told = None if on_token is None else lambda _, token: on_token(token)
            completion = self.engine.generate([prompt], self.sampling, self.seed + len(self.messages), told)[0]
        finally:
            self.engine.tool = tool
        message = parse(completion.ids, self.engine.tokenizer)
        self.messages.append(message)
        return message

    def _prompt(self) -> list[int]:
        """The messages' ids; the oldest are left out (a system message stays) until there is room to answer."""
        context = self.engine.model.config.context
        room = max(context // 4, 1)
        kept = list(self.messages)
        while True:
            prompt = render_prompt(kept, self.engine.tokenizer)
            first = int(kept[0]["role"] == "system")
            last = len(kept) - first <= 1
            if len(prompt) + room <= context or (last and len(prompt) < context):
                self.forgotten += len(self.messages) - len(kept)
                self.messages[:] = kept
                return prompt
            if last:
                raise UserError(
                    f"this message is {len(prompt):,} tokens; the model's context is {context:,}", "Send a shorter one."
                )
            del kept[first : first + 2]  # a question goes with its answer


def bounded(tool: Tool, max_steps: int) -> Tool:
    """The tool for one turn: stops the same call made over and over, and calls beyond max_steps."""
    made: list[str] = []

    def call(code: str) -> str:
        made.append(code)
        if len(made) > max_steps:
            return f"error: no more than {max_steps} calls; answer now"
        if made.count(code) > REPEATS:
            return "error: the same call again; its result is above"
        return tool(code)

    return call
