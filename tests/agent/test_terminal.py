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
from pathlib import Path
from types import SimpleNamespace
from lanbot.agent import terminal
from lanbot.agent.live import Live
from lanbot.agent.loop import Agent
from lanbot.agent.session import OpenAgent
from lanbot.tools.workspace import Workspace

class Model:
    context_length = 1_000
    def count_tokens(self, messages, tools=()):
        return 1
    def stream(self, messages, sampling, seed=0, tools=()):
        from lanbot.agent.model import Reply
        from lanbot.chat.formats.base import Event
        while "wait" in messages[-1]["content"]:
            yield Event("piece", "text", "waiting ")
        yield from ()
        return Reply([{"type": "text", "text": "ok"}], "stop")

class Echo(OpenAgent):
    def ask(self, request, on_event=None):
        print("asked", json.dumps(request), flush=True)
        return super().ask(request, on_event)

from lanbot.cli import app, main
def chat() -> None:
    home = Path(sys.argv[1])
    files = Workspace({"notes/tea.txt": "green", "milk.txt": "white"})
    memory = SimpleNamespace(source="", close=lambda: None)
    opened = Echo("Bot", Agent(Model()), files, memory, None, None, home)
    terminal.converse(opened, Live(sys.stdout))
    print("left", flush=True)
app.command(chat, name="test-chat")
main(["test-chat"])
"""


class Typist:
    """Types into a chat's terminal and reads its output."""

    def __init__(self, home: Path, term: str = "xterm") -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": term, "LANG": "C.UTF-8", "PYTHONUTF8": "1"}
            os.execv(sys.executable, [sys.executable, "-c", SCRIPT, str(home)])
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

    def rests(self) -> None:
        """Waits until a key is waited for: a signal between the prompt and that is handled after the key."""
        while Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0.01)

    def asked(self) -> str:
        self.see("asked ")
        return re.sub(r"\s*$", "", self.see("\n"))

    def close(self) -> None:
        os.close(self.terminal)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def typist(tmp_path: Path) -> Iterator[Typist]:
    made = Typist(tmp_path)
    made.see("> ")
    yield made
    made.close()


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
    typist.rests()
    os.kill(typist.pid, signal.SIGTERM)
    assert "saved" not in typist.see("stopped\r\n")
    _, status = os.waitpid(typist.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 143
    typist.pid = os.spawnv(os.P_NOWAIT, "/bin/true", ["true"])  # something for the fixture to end


def test_ctrl_c_ends_the_turn_and_the_conversation_goes_on(typist: Typist) -> None:
    typist.types(b"please wait\r")
    typist.see("waiting waiting")
    typist.types(b"\x03")
    typist.see("(interrupted)")
    typist.see("> ")
    typist.types(b"next\r")
    assert typist.asked() == '"next"'
    typist.see("> ")
    typist.rests()
    typist.types(b"half a line\x03")
    typist.see("leaves)")
    typist.see("> ")
    typist.rests()
    typist.types(b"\x03")
    typist.see("left")


def test_the_history_lasts_and_keeps_pastes_whole(typist: Typist, tmp_path: Path) -> None:
    typist.types(b"\x1b[200~first\nsecond\x1b[201~\r")
    typist.asked()
    typist.see("> ")
    typist.types(b"\x04")
    typist.see("left")
    assert (tmp_path / "history.jsonl").stat().st_mode & 0o077 == 0
    again = Typist(tmp_path)
    try:
        again.see("> ")
        again.types(b"\x1b[A\r")
        assert again.asked() == r'"first\nsecond"'
    finally:
        again.close()


def test_commands_and_names_of_files_are_completed(typist: Typist) -> None:
    typist.types(b"/hel\t\r")
    typist.see("show the commands")
    typist.see("> ")
    typist.types(b"read notes/t\t please\r")
    assert typist.asked() == '"read notes/tea.txt please"'


def test_a_dumb_terminal_gets_no_control_sequences(tmp_path: Path) -> None:
    made = Typist(tmp_path, "dumb")
    try:
        shown = made.see("> ")
        made.types(b"hello\r")
        shown += made.see("> ")
        assert "\x1b" not in shown and '"hello"' in shown
    finally:
        made.close()
