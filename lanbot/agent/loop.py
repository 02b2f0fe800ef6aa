"""The agent's loop: the model writes, its calls are run and the results appended, until it answers without a call."""

import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from threading import Event as Flag

from lanbot.agent import limits as ends
from lanbot.agent.context import Context, Use
from lanbot.agent.events import (
    INTERRUPTED,
    Asked,
    Called,
    Calling,
    Ended,
    Event,
    OnEvent,
    Reading,
    Replied,
    Streamed,
    Turn,
    reading,
    turns,
)
from lanbot.agent.limits import Limits, Spent
from lanbot.agent.model import ModelClient, Reply
from lanbot.chat.display import blocks, transcript
from lanbot.chat.messages import Message, Part, spoken, text
from lanbot.core.errors import Stopped
from lanbot.inference.sampling import Sampling
from lanbot.tools.bounded import BoundedCalls
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.waiting import Interrupted

REPAIRS = {
    ends.OPEN_CALL: "error: the call was not closed; write it again",
    ends.UNREADABLE_CALL: "error: the call cannot be read; write it again",
}
"""What the model reads, once, instead of a result."""
NOTE = "[{}]"
"""Written into a reply that was broken off: why."""


class _Stop(Exception):  # noqa: N818  (not an error)
    """The turn ends while the model writes."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


@dataclass
class Agent:
    """A conversation with a model that may use tools. What the tools keep outlives it.

    sampling: its max_tokens is that of `limits`. events: the conversation so far; a turn that was cut off there can be
    continued by `go_on`. clock: seconds, for the limit of time.
    """

    model: ModelClient
    tools: PythonCalls = field(default_factory=PythonCalls)
    limits: Limits = field(default_factory=Limits)
    sampling: Sampling = field(default_factory=Sampling)
    system: str = ""
    seed: int = 0
    events: list[Event] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._read: Reading = reading(self.events, self.system)
        self._listener: OnEvent | None = None
        self._stop = Flag()
        self._idle = 0.0
        self._begin()

    # -- what one does with it ------------------------------------------------------------------------------------

    def turn(self, request: str, on_event: OnEvent | None = None) -> Turn:
        """Answers a request. on_event gets each event as it happens; if it raises, the turn stops.

        Raises UserError if the request alone is longer than the context, and then nothing has happened. Whatever else
        is raised, of the model or a listener, the conversation goes on with the next turn.
        """
        self._context().require([*self.messages[: self._read.has_system], {"role": "user", "content": request}])
        return self._turn(on_event, [Asked(request)])

    def go_on(self, on_event: OnEvent | None = None) -> Turn:
        """Continues a turn that was cut off. Calls that were begun are not run again. Raises ValueError if none was."""
        if not self.cut_off:
            raise ValueError("no turn was cut off")
        return self._turn(on_event, [])

    def interrupt(self) -> None:
        """Ends the current turn, from any thread or a signal handler: what was written is kept."""
        self._stop.set()
        self.tools.interrupt()

    def not_counted(self, seconds: float) -> None:
        """Seconds that are nobody's, because a user was asked: they do not count for the limit of time."""
        self._idle += seconds

    def new(self) -> None:
        """Starts a new conversation."""
        self.events.clear()
        self._read = reading([], self.system)

    @property
    def cut_off(self) -> bool:
        """Whether the last turn has no end."""
        ended = [isinstance(event, Ended) for event in self.events if isinstance(event, Asked | Ended)]
        return bool(ended) and not ended[-1]

    @property
    def messages(self) -> list[Message]:
        """What the model reads now."""
        return self._read.messages

    def compact(self, on_event: OnEvent | None = None) -> str:
        """Makes room now, until the conversation takes half as much. Returns what was done, "" if nothing was.

        The summary may take as long and cost as much as a turn.
        """
        context = self._context()
        context.length = context.answer + context.count(self.messages) // 2
        self._listener = on_event
        self._stop.clear()
        self._spent = Spent(self._now())
        try:
            if compacted := context.fit(self.messages, self._summary):
                self.emit(compacted)
        except _Stop:
            return ""
        finally:
            self._listener = None
        return compacted.how if compacted else ""

    def context_use(self) -> Use:
        """What takes how much of the context now."""
        return self._context().use(self.messages)

    def transcript(self) -> str:
        """The whole conversation as text to read."""
        texts = []
        for turn in turns(self.events):
            texts.append(transcript([{"role": "user", "content": turn.request}, turn.message]))
            if turn.ended != ends.ANSWERED:
                texts.append(f"(ended by the {turn.ended or ends.INTERRUPTION})\n")
        return "\n".join(texts)

    def emit(self, event: Event) -> None:
        """Adds an event to the conversation and tells the listener of the turn."""
        if event.stored:
            self.events.append(event)
            self._read.add(event)
        if self._listener is not None:
            self._listener(event)

    # -- the loop -------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        """Returns when the model has answered; raises _Stop at a limit."""
        self._execute()  # what a turn that is continued had not begun
        while not self._answered:
            reply = self._generate()
            self._execute()
            if fault := _fault(reply):
                self._repair(fault, reply)

    @property
    def _answered(self) -> bool:
        """Whether the last thing that happened is a whole reply without a call."""
        last = self.events[-1]
        return isinstance(last, Replied) and last.finished == "stop"

    def _generate(self) -> Reply:
        """What the model writes next."""
        if compacted := self._context().fit(self.messages, self._summary):
            self.emit(compacted)
        if reason := self._spent.over(self.limits, self._now()):
            raise _Stop(reason)
        room = self._context().length - self._context().count(self.messages)
        left = self.limits.max_tokens - self._spent.tokens
        if room < 1:
            raise _Stop(ends.CONTEXT_LIMIT)
        said: list[Streamed] = []
        began = self._now()
        try:
            reply = self._stream(self.messages, min(left, room), said.append)
        except BaseException as error:
            self.emit(Replied(_broken_off(said, _reason(error)), _reason(error), seconds=self._now() - began))
            raise
        self._spent.tokens += reply.tokens
        parts = _within(reply.parts, self._run.left)
        counts = reply.prompt_tokens, reply.cached_tokens, reply.tokens
        self.emit(Replied(parts, reply.finished, *counts, self._now() - began, reply.cost))
        if reply.finished == "length":
            raise _Stop(ends.TOKEN_LIMIT if left <= room else ends.CONTEXT_LIMIT)
        return reply

    def _execute(self) -> None:
        """Runs the calls of the last reply, in order."""
        while self._read.waiting:
            self._check()
            number, code = self._read.calls + 1, self._read.waiting[0]
            self.emit(Calling(number, code))
            began = self._now()
            output = self._run(code)
            if output is None:
                raise _Stop(self._run.refused or ends.FAILURE)
            self.emit(Called(number, output, self._now() - began, self._run.refused))

    def _repair(self, fault: str, reply: Reply) -> None:
        """Tells the model once that it wrote no call."""
        warned = any(isinstance(event, Called) and event.refused in REPAIRS for event in self._events_of_turn)
        number, written = self._read.calls + 1, [part["text"] for part in reply.parts]
        wrong = [code for code in reply.calls if code not in written] or written[-1:]
        self.emit(Calling(number, wrong[0]))
        self.emit(Called(number, ends.NOT_RUN.format(fault) if warned else REPAIRS[fault], refused=fault))
        if warned:
            raise _Stop(fault)

    def _stream(self, messages: list[Message], most: int, hear: Callable[[Streamed], None] | None) -> Reply:
        """hear: gets the pieces, which are shown too; None: nothing is shown."""
        replies = sum(isinstance(event, Replied) for event in self._events_of_turn)
        seed = self.seed + sum(isinstance(event, Asked) for event in self.events) - 1 + 1_000_003 * replies
        sampling = replace(self.sampling, max_tokens=most)
        with closing(self.model.stream(list(messages), sampling, seed, self.tools.declarations)) as pieces:
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as done:
                    reply: Reply = done.value
                    break
                if hear is not None:
                    hear(streamed := Streamed(*piece))
                    self.emit(streamed)
                self._check()
        if not reply.tokens:
            written = "".join(part["text"] for part in reply.parts)
            reply = replace(reply, tokens=max(1, self._context().count_text(written)))
        self._spent.cost += reply.cost
        return reply

    def _summary(self, messages: list[Message], most: int) -> str:
        """See `lanbot.agent.context.SumUp`."""
        reply = self._stream(messages, most, None)
        return spoken({"role": "assistant", "content": reply.parts}) if reply.finished == "stop" else ""

    def _check(self) -> None:
        if self._stop.is_set():
            raise _Stop(ends.INTERRUPTION)
        if self._spent.late(self.limits, self._now()):
            raise _Stop(ends.TIME_LIMIT)

    # -- turns ----------------------------------------------------------------------------------------------------

    def _turn(self, on_event: OnEvent | None, asked: list[Event]) -> Turn:
        self._listener = on_event
        self._stop.clear()
        self.tools.toolset.limit(self.limits.max_call_seconds)
        try:
            if asked and self.cut_off:
                self._close(ends.INTERRUPTION)
            for number in list(self._read.dangling):
                self.emit(Called(number, INTERRUPTED))
            for event in asked:
                self.emit(event)
            self._begin()
            self._close(self._ended())
        except BaseException as error:
            self._listener = _quiet(on_event)
            self._close(_reason(error))
            raise
        finally:
            self._listener = None
        return turns(self._events_of_turn)[-1]

    def _begin(self) -> None:
        """The limits of a turn; of one that is continued with what it has used."""
        own = self._events_of_turn
        replies = [event for event in own if isinstance(event, Replied)]
        tokens, cost = sum(reply.tokens for reply in replies), sum(reply.cost for reply in replies)
        self._spent = Spent(self._now(), tokens, cost)
        made = [event.code for event in own if isinstance(event, Calling)]
        self._run = BoundedCalls(self.tools, self.limits.max_steps, self._shortened, made)

    def _ended(self) -> str:
        """Runs the loop. Why it ended."""
        try:
            self._loop()
        except _Stop as stop:
            return stop.reason
        except Interrupted:
            return ends.INTERRUPTION
        return ends.ANSWERED if blocks(turns(self._events_of_turn)[-1].message) else ends.NO_ANSWER

    def _close(self, reason: str) -> None:
        """Ends the turn so that another can follow: each call has a result, and the request an answer."""
        if not self.cut_off:
            return
        for number in list(self._read.dangling):
            refused = reason if reason in (ends.STEP_LIMIT, ends.REPEATED) else ""
            self.emit(Called(number, ends.NOT_RUN.format(refused) if refused else INTERRUPTED, refused=refused))
        while self._read.waiting:
            number = self._read.calls + 1
            self.emit(Calling(number, self._read.waiting[0]))
            self.emit(Called(number, ends.NOT_RUN.format(reason), refused=reason))
        if self.messages[-1]["role"] == "user":
            self.emit(Replied([text(NOTE.format(reason))], reason))
        if reason in (ends.TOKEN_LIMIT, ends.CONTEXT_LIMIT) and (trimmed := self._context().trim(self.messages)):
            self.emit(trimmed)
        self.emit(Ended(reason))

    def _shortened(self, output: str) -> str:
        return self._context().shorten_output(output, self.messages)

    def _context(self) -> Context:
        return Context(self.model, self.tools.declarations, self.limits.max_tokens)

    @property
    def _events_of_turn(self) -> list[Event]:
        start = max((i for i, event in enumerate(self.events) if isinstance(event, Asked)), default=0)
        return self.events[start:]

    def _now(self) -> float:
        return self.clock() - self._idle


def _fault(reply: Reply) -> str:
    """What is wrong with a call in the reply; "" if nothing is."""
    if reply.finished == "stop" and reply.parts and reply.parts[-1].get("open"):
        return ends.OPEN_CALL
    read = {part["text"] for part in reply.parts if part["type"] in ("python", "call")}
    return ends.UNREADABLE_CALL if reply.finished == "call" and not read.issuperset(reply.calls) else ""


def _within(parts: list[Part], calls: int) -> list[Part]:
    """A reply with so many calls at most: the rest cannot be run, and thousands would fill the context."""
    places = [i for i, part in enumerate(parts) if part["type"] in ("python", "call")]
    if len(places) <= calls:
        return parts
    return [*parts[: places[calls]], text(NOTE.format(f"{len(places) - calls:,} more calls cut"))]


def _broken_off(said: list[Streamed], reason: str) -> list[Part]:
    """The text of a reply that was broken off, and a note that says why. A call that was being written is left out."""
    words = "".join(piece.text for piece in said if piece.part == "text" or piece.invented)
    return [text(f"{words}\n{NOTE.format(reason)}" if words.strip() else NOTE.format(reason))]


def _reason(error: BaseException) -> str:
    if isinstance(error, _Stop):
        return error.reason
    return ends.INTERRUPTION if isinstance(error, KeyboardInterrupt | Stopped | GeneratorExit) else ends.FAILURE


def _quiet(listener: OnEvent | None) -> OnEvent | None:
    """The listener, which may fail: another error is already on its way."""

    def hear(event: Event) -> None:
        with suppress(Exception):
            if listener is not None:
                listener(event)

    return hear
