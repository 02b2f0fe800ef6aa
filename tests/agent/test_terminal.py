"""A chat on a pseudo-terminal, with typing and pasting."""

import contextlib
import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
from lanbot.agent import terminal
from lanbot.agent.loop import Agent
from lanbot.agent.session import Session

class Echo(Agent):
    def turn(self, request, on_event=None):
        print("asked", json.dumps(request), flush=True)
        return super().turn("hi", on_event)

class Model:
    context_length = 100
    def count_tokens(self, messages, tools=()):
        return 1
    def stream(self, messages, sampling, seed=0, tools=()):
        from lanbot.agent.model import Reply
        yield from ()
        return Reply([{"type": "text", "text": "ok"}], "stop")

from lanbot.cli import app, main
def chat() -> None:
    terminal.converse(Session(Echo(Model()), None, None), "Bot")
    print("left", flush=True)
app.command(chat, name="test-chat")
main(["test-chat"])
"""


class Typist:
    """Types into a chat's terminal and reads its output."""

    def __init__(self) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "xterm", "LANG": "C.UTF-8", "PYTHONUTF8": "1"}
            os.execv(sys.executable, [sys.executable, "-c", SCRIPT])
        self.shown = b""

    def see(self, text: str) -> str:
        """Waits until the text is shown; returns the output before it since the last call."""
        end = time.monotonic() + 60
        while text.encode() not in self.shown:
            ready, _, _ = select.select([self.terminal], [], [], max(0.0, end - time.monotonic()))
            assert ready, self.shown
            try:
                self.shown += os.read(self.terminal, 65_536)
            except OSError:  # it ended
                raise AssertionError(self.shown) from None
        before, _, self.shown = self.shown.partition(text.encode())
        return before.decode(errors="replace")

    def types(self, keys: bytes) -> None:
        while keys:
            keys = keys[os.write(self.terminal, keys[:1_024]) :]

    def asked(self) -> str:
        self.see("asked ")
        return re.sub(r"\s*$", "", self.see("\n"))


@pytest.fixture
def typist() -> Iterator[Typist]:
    made = Typist()
    made.see("> ")
    yield made
    os.close(made.terminal)
    with contextlib.suppress(ProcessLookupError):
        os.kill(made.pid, signal.SIGKILL)
    os.waitpid(made.pid, 0)


def test_a_paste_with_empty_lines_is_one_message(typist: Typist) -> None:
    typist.types(b"\x1b[200~first\n\n/quit\nlast\x1b[201~\r")
    assert typist.asked() == r'"first\n\n/quit\nlast"'
    typist.see("> ")
    typist.types(b"\r\r  \rnext\r")
    assert typist.asked() == '"next"'


def test_lines_can_be_edited_and_repeated(typist: Typist) -> None:
    typist.types(b"helo\x1b[Dl\r")
    assert typist.asked() == '"hello"'
    typist.see("> ")
    typist.types(b"\x1b[A!\r")
    assert typist.asked() == '"hello!"'


def test_a_long_line_is_not_cut(typist: Typist) -> None:
    typist.types(b"x" * 9_000 + b"\r")
    assert typist.asked() == '"' + "x" * 9_000 + '"'


def test_bytes_of_another_encoding_are_replaced(typist: Typist) -> None:
    typist.types(b"Caf\xe9?\r")
    assert typist.asked().startswith('"Caf')
    typist.see("> ")
    typist.types(b"still here\r")
    assert typist.asked() == '"still here"'


def test_ctrl_d_ends_the_chat(typist: Typist) -> None:
    typist.types(b"\x04")
    typist.see("left")


def test_sigterm_at_the_prompt_ends_the_chat(typist: Typist) -> None:
    """Nothing was trained, so the message says nothing of checkpoints."""
    while Path(f"/proc/{typist.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.01)  # a signal between the prompt and readline's wait for a key is handled after that key
    os.kill(typist.pid, signal.SIGTERM)
    assert "saved" not in typist.see("stopped\r\n")
    _, status = os.waitpid(typist.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 143
    typist.pid = os.spawnv(os.P_NOWAIT, "/bin/true", ["true"])  # something for the fixture to end
