"""One request of a client: what is to be generated, its place in the queue, and what came of it so far."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from lanbot.chat.formats.base import ChatFormat
from lanbot.inference.constraint import Constraint
from lanbot.inference.engine import Engine
from lanbot.inference.sampling import Sampling
from lanbot.web.answer import Answer, Piece
from lanbot.web.calls import ClientTools
from lanbot.web.errors import ApiError

Items = list[tuple[int, Piece]]
"""Pieces with the index of their answer."""
MOST_CALLS = 32
"""Calls that the server answers in one answer."""


@dataclass(frozen=True)
class Wanted:
    """What is to be generated.

    n: how many answers; they draw from the same seed and differ. thinks: answers may begin with a thought.
    constraint: of each answer.
    """

    engine: Engine
    prompt: list[int]
    sampling: Sampling
    n: int = 1
    seed: int = 0
    tools: ClientTools = field(default_factory=ClientTools)
    thinks: bool = False
    logprobs: bool = False
    stream: bool = False
    constraint: Constraint | None = None


class Job:
    """client: whose it is, for fairness. seconds: the time that it may take.

    `items` and `event` are the server's thread's; everything else is the scheduler's.
    """

    def __init__(self, wanted: Wanted, client: str, seconds: float) -> None:
        self.wanted, self.client = wanted, client
        self.arrived = time.monotonic()
        self.expires = self.arrived + seconds
        self.answers: list[Answer] = []
        self.ended = 0  # answers that are complete
        self.written = [0] * wanted.n  # tokens of each answer
        self.last = [0.0] * wanted.n  # when its last token came
        self.pending: Items = []
        self.begun = False  # the client was sent something
        self.cancelled = False
        self.over = False
        self.items: Items = []
        self.error: ApiError | None = None
        self.event = asyncio.Event()

    def start(self) -> None:
        """Gives its answers to the engine."""
        wanted = self.wanted
        chat_format: ChatFormat = wanted.engine.chat_format
        for i in range(wanted.n):
            stop = wanted.sampling.stop
            answer = Answer(chat_format, wanted.tools, stop, wanted.thinks, wanted.logprobs)
            bound = wanted.constraint and wanted.constraint.again()
            handled: Any = {"call_handler": answer.answered, "max_calls": MOST_CALLS, "on_event": answer.hear}
            given = wanted.prompt, wanted.sampling, wanted.seed, str(i)
            answer.request = wanted.engine.submit(*given, **handled, constraint=bound)
            self.answers.append(answer)

    def deliver(self, items: Items, error: ApiError | None) -> None:
        """In the server's thread."""
        self.items += items
        self.error = self.error or error
        self.event.set()

    async def next(self) -> Items:
        """What is new, at least one piece. Raises ApiError if the job failed."""
        await self.event.wait()
        if self.error is None:  # else it is raised after what came before it
            self.event.clear()
        items, self.items = self.items, []
        if self.error is not None and not items:
            raise self.error
        return items

    # -- what it took, once it is over

    @property
    def completion_tokens(self) -> int:
        """Tokens that the model chose, of all answers; not the outputs of calls."""
        return sum(sum(answer.request.completion.sampled) for answer in self.answers if answer.request)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt whose keys and values were held."""
        first = self.answers[0].request if self.answers else None
        return first.reused if first else 0
