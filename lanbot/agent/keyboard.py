"""What a user types: lines with editing, completion and a history that lasts, and pastes of several lines."""

import json
import os
import re
import select
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

MAX_HISTORY = 1_000
Complete = Callable[[str], Iterable[str]]
"""What a line, up to the cursor, may end with: whole last words."""


class Keyboard:
    """Reads requests from a terminal, or lines from anything else.

    history: the file of earlier requests, one JSON string a line; None or one that cannot be written: they are kept for
    this session only.
    """

    def __init__(self, history: Path | None, complete: Complete) -> None:
        self.interactive = sys.stdin.isatty()
        self.history, self.complete = history, complete
        self.pastes_whole = self.interactive and self._set_up()
        self._found: list[str] = []

    def read(self, prompt: str) -> str:
        """The next request. Raises EOFError at the end, KeyboardInterrupt for Ctrl-C."""
        text = input(prompt if self.interactive else "")
        while self.interactive and not self.pastes_whole and _more_waits():
            text += "\n" + input()
        if self.interactive and text.strip():
            self._remember(text)
        return text

    def _set_up(self) -> bool:
        """Turns on line editing. Returns whether a paste of several lines arrives as one."""
        try:
            import readline
        except ImportError:
            return False
        libedit = "libedit" in (readline.__doc__ or "")
        readline.set_completer_delims(" \t\n\"'(),")
        readline.set_completer(self._completed)
        readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
        readline.set_auto_history(False)
        readline.set_history_length(MAX_HISTORY)
        readline.clear_history()
        for text in self._remembered():
            readline.add_history(text)
        whole = not libedit and os.environ.get("TERM") != "dumb"
        readline.parse_and_bind(f"set enable-bracketed-paste {'on' if whole else 'off'}")
        return whole

    def _remembered(self) -> list[str]:
        lines: list[str] = []
        with suppress(OSError):
            lines = self.history.read_text("utf-8", "replace").splitlines() if self.history else []
        found: list[str] = []
        for line in lines[-MAX_HISTORY:]:
            with suppress(ValueError):
                text = json.loads(line)
                found += [text] if isinstance(text, str) else []
        return found

    def _remember(self, text: str) -> None:
        with suppress(ImportError):
            import readline

            readline.add_history(text)
        if self.history is None:
            return
        with suppress(OSError):
            self.history.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            with open(
                os.open(self.history, flags, 0o600), "a", encoding="utf-8"
            ) as file:  # it may hold what is private
                file.write(json.dumps(text) + "\n")

    def _completed(self, word: str, state: int) -> str | None:
        """One completion after the other, as readline asks for them."""
        if state == 0:
            import readline

            line = readline.get_line_buffer()[: readline.get_endidx()]
            self._found = []
            with suppress(Exception):  # readline would show it in the middle of the line
                self._found = sorted(one for one in self.complete(line) if one.startswith(word))
        return self._found[state] if state < len(self._found) else None


def last_word(line: str) -> str:
    return re.split("[ \t\n\"'(),]", line)[-1]


def _more_waits() -> bool:
    """Whether more input is waiting, sooner than anybody types: the rest of a paste."""
    try:
        return bool(select.select([sys.stdin], [], [], 0.02)[0])
    except (OSError, ValueError):
        return False
