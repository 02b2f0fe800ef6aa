"""The protocol between the host and one run: its output, its calls of the host's functions, its end.

Everything that comes from the run's process is untrusted: it is limited in size and parsed as plain data.
"""

import json
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lanbot.core.errors import Stopped
from lanbot.sandbox import zygote
from lanbot.sandbox.child import LENGTH, MOST_CALL_BYTES
from lanbot.sandbox.zygote import RECORD

GRACE_SECONDS = 5.0  # for what the zygote answers immediately
MOST_OUTPUT = 1 << 20  # bytes kept of stdout, and of stderr
FLOOD = 16 << 20  # bytes of either after which the run is ended
MOST_CALLS = 1_000  # calls of the host's functions in a run

Functions = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Job:
    """A program to run. timeout in seconds, memory in bytes."""

    code: str
    stdin: bytes
    files: dict[str, bytes]
    functions: Functions
    timeout: float
    memory: int


class Lost(Exception):  # noqa: N818  (reported as the end of a run, or as the reason why a level is unavailable)
    """A zygote did not start, has died, or does not answer."""


class Control:
    """The socket that controls the zygote, by records of fixed size."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.socket.settimeout(GRACE_SECONDS)

    def send(self, kind: bytes, first: int = 0, second: int = 0, descriptors: tuple[int, ...] = ()) -> None:
        """Sends a record. Raises OSError if the zygote has closed its end."""
        record = RECORD.pack(kind, first, second)
        if descriptors:
            socket.send_fds(self.socket, [record], descriptors)
        else:
            self.socket.sendall(record)

    def receive(self, kind: bytes, seconds: float = GRACE_SECONDS) -> tuple[int, int]:
        """Returns the two numbers of the zygote's next record, which must be of this kind. Raises Lost."""
        self.socket.settimeout(seconds)
        try:
            record = self.socket.recv(RECORD.size, socket.MSG_WAITALL)
        except OSError as error:
            raise Lost(str(error)) from error
        if len(record) < RECORD.size or record[:1] != kind:
            raise Lost("the sandbox's process has ended")
        _, first, second = RECORD.unpack(record)
        return first, second


class Process:
    """The channel and streams of a process forked from the zygote."""

    def __init__(self, control: Control, memory: int, seconds: int) -> None:
        self.channel, theirs = socket.socketpair()
        self.out, out = os.pipe()
        self.err, err = os.pipe()
        try:
            control.send(zygote.START, memory, seconds, (theirs.fileno(), out, err))
        finally:
            theirs.close()
            os.close(out)
            os.close(err)
        for descriptor in (self.channel.fileno(), self.out, self.err):
            os.set_blocking(descriptor, False)

    def close(self) -> None:
        self.channel.close()
        os.close(self.out)
        os.close(self.err)


@dataclass
class Capture:
    """The beginning of a stream of unknown length."""

    kept: bytearray = field(default_factory=bytearray)
    total: int = 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        self.kept += data[: MOST_OUTPUT - len(self.kept)]

    def text(self) -> str:
        return self.kept.decode(errors="replace")


class Exchange:
    """The exchange with the process of one run, until it ends or is ended."""

    def __init__(self, control: Control, process: Process, job: Job, keep: bool) -> None:
        self.control, self.process, self.functions, self.keep = control, process, job.functions, keep
        self.out, self.err = Capture(), Capture()
        self.pending = memoryview(b"")
        self.incoming = bytearray()
        self.calls = self.code = 0
        self.exit: int | None = None  # the exit code of the process; None while it is alive
        self.done = self.dirty = False
        self.ended = ""
        self.until = time.monotonic() + job.timeout

    def run(self, first: bytes) -> None:
        self.pending = memoryview(first)
        poll, process, control = select.poll(), self.process, self.control.socket
        channel = process.channel.fileno()
        streams = {process.out: self.out, process.err: self.err}
        for descriptor in (channel, control.fileno(), *streams):
            poll.register(descriptor, select.POLLIN)
        poll.modify(channel, select.POLLOUT)
        while self.exit is None and (self.ended or not self.done):
            left = self.until - time.monotonic()
            if left <= 0:
                self.end("timeout")
            for descriptor, _ in poll.poll(max(0.0, 1_000 * left)):
                if descriptor in streams:
                    if not read_into(descriptor, streams[descriptor]):
                        poll.unregister(descriptor)
                    if streams[descriptor].total > FLOOD:
                        self.end("output")
                elif descriptor == channel:
                    if self.exchange():
                        poll.modify(channel, select.POLLOUT if self.pending else select.POLLIN)
                    else:
                        poll.unregister(channel)
                else:
                    self.exit, more = self.control.receive(zygote.EXIT)
                    self.dirty = bool(more)
        for descriptor, capture in streams.items():
            while capture.total <= FLOOD and read_into(descriptor, capture):
                pass

    def end(self, why: str) -> None:
        """Has the process killed. Raises Lost if it is still alive after the grace period."""
        if self.ended and time.monotonic() >= self.until:
            raise Lost("the sandbox's process does not answer")
        if not self.ended:
            self.ended = why
            self.until = time.monotonic() + GRACE_SECONDS
            self.control.send(zygote.KILL)

    def exchange(self) -> bool:
        """Sends pending data, or reads and answers a message. Returns False when the channel has closed."""
        try:
            if self.pending:
                self.pending = self.pending[self.process.channel.send(self.pending) :]
            else:
                piece = self.process.channel.recv(1 << 16)
                if not piece:
                    return False
                self.incoming += piece
        except BlockingIOError:
            return True
        except OSError:
            return False
        while not self.pending and not self.ended and len(self.incoming) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self.incoming)
            if length > MOST_CALL_BYTES:
                self.end("protocol")
            elif len(self.incoming) < LENGTH.size + length:
                break
            else:
                message = bytes(self.incoming[LENGTH.size : LENGTH.size + length])
                del self.incoming[: LENGTH.size + length]
                self.answer(message)
        return True

    def answer(self, message: bytes) -> None:
        """Handles an untrusted message: a call of one of the host's functions, or the end of a session's run."""
        try:
            parsed = json.loads(message)
            if self.keep and set(parsed) == {"done"} and isinstance(parsed["done"], int):
                self.code, self.done = parsed["done"] & 0xFF, True
                return
            name, args, kwargs = parsed["call"], parsed["args"], parsed["kwargs"]
            if not (isinstance(name, str) and isinstance(args, list) and isinstance(kwargs, dict)):
                raise TypeError("not a call")
        except (ValueError, TypeError, KeyError, RecursionError):
            self.end("protocol")
            return
        self.calls += 1
        if self.calls > MOST_CALLS:
            self.end("calls")
            return
        began = time.monotonic()
        reply = frame(call(self.functions, name, args, kwargs))
        self.until += time.monotonic() - began
        self.pending = memoryview(reply)


def call(functions: Functions, name: str, args: list[Any], kwargs: dict[str, Any]) -> str:
    """Calls the function and returns its value or error as JSON."""
    if name not in functions:
        return json.dumps({"error": f"there is no function {name}"})
    try:
        return json.dumps({"value": functions[name](*args, **kwargs)})
    except Stopped:  # a signal came while it ran
        raise
    except Exception as error:
        return json.dumps({"error": str(error) or type(error).__name__})


def frame(text: str) -> bytes:
    data = text.encode()
    return LENGTH.pack(len(data)) + data


def request(job: Job, given: dict[str, bytes], keep: bool) -> bytes:
    """The first message to the run's process; `given` are the files that it writes itself."""
    sizes = {name: len(data) for name, data in given.items()}
    header = {"code": job.code, "stdin": len(job.stdin), "files": sizes, "functions": [*job.functions], "keep": keep}
    return b"".join([frame(json.dumps(header)), job.stdin, *given.values()])


def read_into(descriptor: int, capture: Capture) -> bool:
    """Reads available data; returns False if there is none, or at the end."""
    try:
        data = os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return False
    capture.add(data)
    return bool(data)
