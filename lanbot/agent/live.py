"""A turn on a terminal while it happens: what is written, calls and their outputs, and what is being waited for."""

import json
from threading import Event as Flag
from threading import Thread
from typing import TextIO

from lanbot.agent.events import Asked, Called, Calling, Compacted, Event, Replied, Streamed, to_json
from lanbot.chat.display import Terminal
from lanbot.chat.formats.base import Event as Piece
from lanbot.core.console import Progress, duration, say, visible

SHOWN_LINES, SHOWN_LETTERS = 20, 2_000
"""Of an output; `lanbot sessions RUN trace ID` has it all."""
SLOW_SECONDS = 1.0
"""Calls that took longer show how long."""
MAX_LABEL = 60


class Live:
    """A listener that prints a turn: calls and outputs on lines of their own, outputs shortened."""

    def __init__(self, out: TextIO) -> None:
        self.shown, self.waiting = Terminal(out), Waiting()
        self.calls = 0  # that are on the terminal and were not run yet

    def __call__(self, event: Event) -> None:
        if isinstance(event, Streamed) and not event.text and event.kind == "piece":
            return  # the model is silent
        self.waiting.stop()
        if isinstance(event, Streamed):
            self._streamed(event)
        elif isinstance(event, Calling):
            if not self.calls:
                self._part("python", event.code)
            self.calls = max(0, self.calls - 1)
            self.waiting.start(visible(event.code.partition("\n")[0])[:MAX_LABEL])
        elif isinstance(event, Called):
            self._part("output", shortened(event.output))
            if event.seconds >= SLOW_SECONDS:
                self._part("output", f"({event.seconds:.1f} s)")
        elif isinstance(event, Compacted):
            self.shown.close()
            say(f"(the context was full: {event.how}; {event.before:,} tokens became {event.after:,})")
        if isinstance(event, Asked):
            self.calls = 0
        if isinstance(event, Asked | Called | Compacted):
            self.waiting.start("thinking")
        if isinstance(event, Replied) and event.finished not in ("stop", "call"):
            self.shown.close()

    def close(self) -> None:
        self.waiting.stop()
        self.shown.close()

    def _streamed(self, event: Streamed) -> None:
        self.calls += event.kind == "open" and event.part in ("python", "call")
        self.shown(Piece(event.kind, event.part, event.text, event.invented))

    def _part(self, kind: str, text: str) -> None:
        for piece in Piece("open", kind), Piece("piece", kind, text), Piece("close", kind):
            self.shown(piece)


class Lines:
    """A listener that prints each event as a line of JSON."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def __call__(self, event: Event) -> None:
        if not (isinstance(event, Streamed) and event.kind == "piece" and not event.text):
            print(json.dumps(to_json(event), ensure_ascii=False, default=repr), file=self.out, flush=True)

    def close(self) -> None:
        pass


class Waiting:
    """Says what is being waited for, once that takes two seconds, until it is stopped."""

    def __init__(self) -> None:
        self._stop: Flag | None = None
        self._thread: Thread | None = None

    def start(self, what: str) -> None:
        self.stop()
        self._stop = Flag()
        self._thread = Thread(target=_tell, args=(what, self._stop), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Again does nothing."""
        if self._stop is not None and self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._stop = self._thread = None


def _tell(what: str, stop: Flag) -> None:
    progress, seconds = Progress(what), 0.0
    while not stop.wait(0.5):
        seconds += 0.5
        progress.text(f"{what} | {duration(int(seconds))}")
    progress.clear()


def shortened(output: str) -> str:
    """An output as a terminal shows it: its beginning and its end."""
    lines = output.split("\n")
    if len(lines) > SHOWN_LINES:
        left = len(lines) - SHOWN_LINES
        lines = [*lines[: SHOWN_LINES - 5], f"[{left} more lines]", *lines[-5:]]
    text = "\n".join(lines)
    if len(text) <= SHOWN_LETTERS:
        return text
    kept = SHOWN_LETTERS // 4
    return f"{text[: 3 * kept]}\n[{len(text) - 4 * kept:,} more characters]\n{text[-kept:]}"
