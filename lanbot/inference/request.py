"""One request to the engine: its tokens, its calls, and when it ends."""

import random
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from lanbot.chat.formats.base import ChatFormat, Event
from lanbot.inference.constraint import Constraint
from lanbot.inference.sampling import Sampling

OnEvent = Callable[[Event], None]
Handler = Callable[[str], "str | Future[str | None] | None"]
"""Runs the code of a model's call and returns what the model reads; None ends the model's turn. A call that takes long
returns a Future, so that the engine generates other answers meanwhile."""
Alternatives = list[tuple[int, float]]
"""Tokens and their log probabilities, the likeliest first."""


@dataclass
class Completion:
    """What was generated after a prompt."""

    prompt: list[int]
    ids: list[int] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    """1 where the model chose the token, 0 where a call's output was forced."""
    logprobs: list[float] = field(default_factory=list)
    """Of each sampled token under the model at temperature 1; 0 for forced ones."""
    top_logprobs: list[Alternatives] = field(default_factory=list)
    """For each token the likeliest ones, if Sampling.top_logprobs asks for them; none for forced tokens."""
    calls: int = 0  # number of calls that were answered
    finished: str = ""
    """"stop" (the turn ended, or a stop text was written), "length" (the limit was reached), "tool" (a call handler
    returned None) or "cancelled"."""


class Request:
    """A prompt and what follows it. `tokens` are both; the first `cached` of them have keys and values in the slot."""

    def __init__(
        self,
        prompt: list[int],
        sampling: Sampling,
        limit: int,
        draws: random.Random,
        chat_format: ChatFormat,
        call_handler: Handler,
        max_calls: int | None = None,
        call_seconds: float | None = None,
        on_event: OnEvent | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        self.completion = Completion(list(prompt))
        self.tokens, self.cached = list(prompt), 0
        self.reused = 0  # tokens of the prompt whose keys and values were held
        self.sampling, self.limit, self.draws = sampling, limit, draws
        self.chat_format, self.call_handler, self.on_event = chat_format, call_handler, on_event
        self.max_calls, self.call_seconds = max_calls, call_seconds
        self.constraint = constraint
        self.parser = chat_format.stream() if constraint is None else constraint.stream()
        self.pending: Future[str | None] | None = None
        self._calls: deque[Event] = deque()
        """The turn's calls that are to be run."""
        self._results: list[str] = []
        self.expires = float("inf")
        """When the pending call is given up, by time.monotonic."""
        self._text = b""

    @property
    def finished(self) -> bool:
        return bool(self.completion.finished)

    @property
    def ready(self) -> bool:
        """Whether the model's next token can be sampled: all but the last token are in the cache."""
        return self.pending is None and len(self.tokens) == self.cached + 1 and not self.completion.finished

    @property
    def behind(self) -> bool:
        """Whether tokens before the last one are still to be read."""
        return len(self.tokens) > self.cached + 1

    def allowed(self) -> np.ndarray | None:
        """(V,) bool, the tokens that may be sampled next; None: all."""
        return None if self.constraint is None else self.constraint.allowed(self.parser, self.tokens)

    def advance(self, token: int, logprob: float, alternatives: Alternatives | None = None) -> None:
        """Takes a sampled token."""
        self._append(token, 1, logprob, alternatives)
        if self.sampling.stop and not self.finished and self._stops(token):
            self._finish("stop")

    def poll(self) -> None:
        """Takes the result of the pending call, if it is there or its time is over."""
        assert self.pending is not None
        if self.pending.done():
            call, self.pending = self.pending, None
            self._answered(call.result())
        elif time.monotonic() >= self.expires:
            self.pending.cancel()
            self.pending = None
            self._answered(f"error: no result after {self.call_seconds:g} s")
        if self.pending is None:
            self._run_calls()

    def cancel(self) -> None:
        """Ends the request where it is; its listener hears no more."""
        self.on_event = None
        if self.pending is not None:
            self.pending.cancel()
            self.pending = None
        if not self.finished:
            self._finish("cancelled")

    def _append(self, token: int, sampled: int, logprob: float, alternatives: Alternatives | None = None) -> None:
        completion = self.completion
        self.tokens.append(token)
        completion.ids.append(token)
        completion.sampled.append(sampled)
        completion.logprobs.append(logprob)
        if self.sampling.top_logprobs:
            completion.top_logprobs.append(alternatives or [])
        for event in self.parser.feed(token, bool(sampled)):
            if self.on_event is not None:
                self.on_event(event)
            if event.kind == "call":
                self._calls.append(event)
        called = bool(self._calls)
        if called:
            self._run_calls()
        if completion.finished:
            return
        if sampled and not called and token in self.chat_format.stop_tokens:
            self._finish("stop")
        elif len(completion.ids) >= self.limit:
            self._finish("length")

    def _run_calls(self) -> None:
        """Runs calls; the results of a turn are forced together, when the last of them is there."""
        while self._calls and self.pending is None and not self.finished:
            if self.max_calls is not None and self.completion.calls >= self.max_calls:
                self._answered(f"error: no more than {self.max_calls} calls")
                continue
            result = self.call_handler(self._calls[0].text)
            if isinstance(result, Future):
                self.pending = result
                self.expires = float("inf") if self.call_seconds is None else time.monotonic() + self.call_seconds
            else:
                self._answered(result)

    def _answered(self, result: str | None) -> None:
        """Takes the result of the first call; None ends the turn."""
        self.completion.calls += 1
        call = self._calls.popleft()
        if result is None:
            self._finish("tool")
            return
        self._results.append(result)
        if self._calls:
            return
        results, self._results = self._results, []
        room = self.limit - len(self.completion.ids)
        for token in self.chat_format.forced_output(results, room, call.part) if room > 0 else ():
            if not self.finished:
                self._append(token, 0, 0.0)

    def _stops(self, token: int) -> bool:
        """Whether the text of this part of the answer now contains a stop text."""
        piece = self.chat_format.tokenizer.token_bytes(token)
        longest = max(len(stop.encode()) for stop in self.sampling.stop)
        self._text = (self._text + piece)[-longest - len(piece) :] if piece else b""
        return any(stop.encode() in self._text for stop in self.sampling.stop)

    def _finish(self, why: str) -> None:
        self.completion.finished = why
        for event in self.parser.finish():
            if self.on_event is not None:
                self.on_event(event)
