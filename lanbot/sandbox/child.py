"""The process in which a run's code runs: it reads the code from its channel, runs it, and ends or waits for more.

What it says on the channel is not trusted: from here on the code may say it as well.

A request is 4 bytes of length, as much JSON, then stdin and the files, one after the other:
{"code": str, "stdin": bytes, "files": {name: bytes}, "functions": [name], "keep": bool}. It answers {"done": exit},
if it is to be kept, and meanwhile {"call": name, "args": [...], "kwargs": {...}}, for which {"value": ...} or
{"error": str} comes back.
"""

import atexit
import json
import linecache
import os
import struct
import sys
import threading
import traceback
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from lanbot.sandbox import files

CHANNEL = 3
LENGTH = struct.Struct(">I")
MOST_CALL_BYTES = 1 << 20


def receive(count: int) -> bytes:
    """Exactly so many bytes of the channel; at its end this process ends."""
    pieces = []
    while count:
        piece = os.read(CHANNEL, min(count, 1 << 20))
        if not piece:
            os._exit(0)
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def receive_json() -> Any:
    return json.loads(receive(*LENGTH.unpack(receive(LENGTH.size))))


def send_json(message: object) -> None:
    """Raises ValueError if it is too long for the host."""
    data = json.dumps(message).encode()
    if len(data) > MOST_CALL_BYTES:
        raise ValueError(f"a call of {len(data)} bytes, of {MOST_CALL_BYTES} at most")
    data = LENGTH.pack(len(data)) + data
    while data:
        data = data[os.write(CHANNEL, data) :]


def remote(name: str, turn: threading.Lock) -> Callable[..., Any]:
    """A function of the host's: arguments and value are plain data. Raises RuntimeError with what the host's raised."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with turn:
            send_json({"call": name, "args": args, "kwargs": kwargs})
            answer = receive_json()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    call.__name__ = call.__qualname__ = name
    return call


def serve() -> NoReturn:
    """Runs what comes over the channel, in one namespace."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    module.__dict__["__builtins__"] = __builtins__
    turn = threading.Lock()
    runs = 0
    while True:
        request = receive_json()
        set_stdin(receive(request["stdin"]))
        files.write(".", {name: receive(size) for name, size in request["files"].items()})
        for name in request["functions"]:
            module.__dict__[name] = remote(name, turn)
        runs += 1
        name = module.__dict__["__file__"] = f"run{runs}.py" if request["keep"] else "main.py"
        code = execute(request["code"], name, module.__dict__)
        if not request["keep"]:
            leave(code)
        flush()
        send_json({"done": code})


def set_stdin(data: bytes) -> None:
    """Descriptor 0 is a file in memory, made before the sandbox closed; the code of an earlier run may have shut it."""
    with suppress(OSError):
        os.ftruncate(0, 0)
        written = 0
        while written < len(data):
            written += os.pwrite(0, data[written:], written)
        os.lseek(0, 0, os.SEEK_SET)
        sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115


def execute(code: str, name: str, namespace: dict[str, Any]) -> int:
    """Runs code as a script; an exception is printed as Python prints it. Returns the exit code."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    try:
        exec(compile(code, name, "exec", dont_inherit=True), namespace)
    except SystemExit as error:
        return exit_code(error.code)
    except BaseException as error:
        inside = error.__traceback__.tb_next if error.__traceback__ else None
        with suppress(BaseException):  # stderr may be closed, or memory used up
            traceback.print_exception(type(error), error, inside)
        return 1
    return 0


def exit_code(said: object) -> int:
    if said is None:
        return 0
    if isinstance(said, int):
        return said & 0xFF
    with suppress(Exception):  # it may be anything, and stderr closed
        print(said, file=sys.stderr)
    return 1


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the code may have closed or replaced it
            stream.flush()


def leave(code: int) -> NoReturn:
    """As the interpreter ends, without taking it down piece by piece: threads, exit functions, streams."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        flush()
    finally:
        os._exit(code)
