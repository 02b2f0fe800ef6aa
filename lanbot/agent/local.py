"""A model client over the engine of this process."""

from collections.abc import Generator, Sequence
from functools import partial

from lanbot.agent.background import Hear, streamed
from lanbot.agent.model import Declarations, Reply
from lanbot.chat.formats.base import Event
from lanbot.chat.messages import Message, Part, text
from lanbot.inference.constraint import CallConstraint
from lanbot.inference.engine import Engine
from lanbot.inference.sampling import Sampling


class LocalModel:
    """Generates with an engine, one message at a time. constrained: calls are well formed, see `CallConstraint`."""

    def __init__(self, engine: Engine, constrained: bool = False) -> None:
        self.engine, self.constrained = engine, constrained

    @property
    def context_length(self) -> int:
        return self.engine.model.config.context

    def count_tokens(self, messages: Sequence[Message], tools: Declarations = ()) -> int:
        return len(self.engine.chat_format.prompt(messages, tools))

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, seed: int = 0, tools: Declarations = ()
    ) -> Generator[Event, None, Reply]:
        """Generates in a thread. Closing the generator stops it after the next token."""
        prompt = self.engine.chat_format.prompt(messages, tools)
        return streamed(lambda hear, _: self._generate(prompt, sampling, seed, hear, tools), wait=True)

    def _generate(self, prompt: list[int], sampling: Sampling, seed: int, tell: Hear, tools: Declarations) -> Reply:
        calls: list[str] = []

        def hear(_: int, event: Event) -> None:
            if event.kind == "call":
                calls.append(event.text)
            tell(event)

        generate = self.engine.generate
        if self.constrained:
            generate = partial(generate, constraints=[CallConstraint(self.engine.chat_format, tools)])
        made = generate([prompt], sampling, seed, hear, call_handlers=[lambda _: None])[0]
        parts = self.engine.chat_format.parse(made.ids, made.sampled)["content"]
        assert not isinstance(parts, str)
        finished = "call" if made.finished == "tool" else made.finished
        made_of = {"prompt_tokens": len(prompt), "tokens": len(made.ids)}
        return Reply([_believed(part) for part in parts], finished, tuple(calls), **made_of)


def _believed(part: Part) -> Part:
    """An output that the model wrote itself is only text: no tool returned it."""
    return text(part["text"]) if part.get("invented") else part
