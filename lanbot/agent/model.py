"""What the agent needs of a model: a few methods, behind which a local engine or a server may be."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lanbot.chat.formats.base import Event
from lanbot.chat.messages import Message, Part
from lanbot.inference.sampling import Sampling

Declarations = Sequence[Mapping[str, Any]]  # tools as `Tool.declaration` describes them


@dataclass(frozen=True)
class Reply:
    """What a model wrote: to the end of its message ("stop"), to calls ("call") or to the limit ("length").

    calls: the code of the calls that end it. One that is no part of the reply could not be read.
    prompt_tokens, cached_tokens, tokens, cost: as in `lanbot.agent.events.Replied`. tokens 0: not known.
    """

    parts: list[Part]
    finished: str
    calls: tuple[str, ...] = ()
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    cost: float = 0.0


class ModelClient(Protocol):
    """A chat model. If the last message is the assistant's, the model continues it."""

    @property
    def context_length(self) -> int: ...

    def count_tokens(self, messages: Sequence[Message], tools: Declarations = ()) -> int:
        """The tokens that the messages take in the context, with the tools' declarations."""

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, seed: int = 0, tools: Declarations = ()
    ) -> Generator[Event, None, Reply]:
        """What the assistant writes next, up to calls or the end of its message, as events while it is generated; the
        generator returns the reply. Closing it stops the model."""
