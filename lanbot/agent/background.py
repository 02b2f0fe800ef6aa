"""A model's work in a thread of its own, as a generator of what happens there."""

from collections.abc import Callable, Generator
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Thread

from lanbot.agent.model import Reply
from lanbot.chat.formats.base import Event

TICK_SECONDS = 0.2
"""How long the generator may be silent."""
TICK = Event("piece", "text", "")
"""Nothing new: whoever listens can look at the time, and stop."""

Hear = Callable[[Event], None]
Work = Callable[[Hear, Flag], Reply]
"""Generates and tells the listener, which raises GeneratorExit once the flag is set."""


def streamed(work: Work, wait: bool) -> Generator[Event, None, Reply]:
    """What `work` tells its listener, ticks where it is silent, and in the end what it returns. Raises what it raises.

    wait: closing the generator waits until the work has ended; else it ends by itself.
    """
    queue: SimpleQueue[Event | Reply | BaseException] = SimpleQueue()
    stopped = Flag()

    def hear(event: Event) -> None:
        if stopped.is_set():
            raise GeneratorExit
        queue.put(event)

    def run() -> None:
        try:
            queue.put(work(hear, stopped))
        except BaseException as error:
            queue.put(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = queue.get(timeout=TICK_SECONDS)
            except Empty:
                yield TICK
                continue
            if isinstance(item, Reply):
                return item
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        if wait:
            thread.join()
