"""The process that executes a run: reads the code from its channel, executes it, and exits or waits for more.

The host does not trust what arrives on the channel: the executed code can write to it as well.

A request is a length of 4 bytes, that much JSON, then stdin and the files one after the other:
{"code": str, "stdin": bytes, "files": {name: bytes}, "functions": [name], "keep": bool}. It sends
{"call": name, "args": [...], "kwargs": {...}} for each call, answered by {"value": ...} or {"error": str}, and if it is
kept {"done": exit} at the end.
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
    """Reads exactly `count` bytes from the channel; exits the process at its end."""
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
    """Raises ValueError if the message is too long for the host."""
    data = json.dumps(message).encode()
    if len(data) > MOST_CALL_BYTES:
        raise ValueError(f"a call of {len(data)} bytes; at most {MOST_CALL_BYTES} are allowed")
    data = LENGTH.pack(len(data)) + data
    while data:
        data = data[os.write(CHANNEL, data) :]


def remote(name: str, turn: threading.Lock) -> Callable[..., Any]:
    """A proxy for a function of the host; arguments and value are plain data. Raises RuntimeError with its error."""

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
    """Executes the requests from the channel in one namespace."""
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
    """Fills descriptor 0, a file in memory; the code of an earlier run may have closed it."""
    with suppress(OSError):
        os.ftruncate(0, 0)
        written = 0
        while written < len(data):
            written += os.pwrite(0, data[written:], written)
        os.lseek(0, 0, os.SEEK_SET)
        sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115


def execute(code: str, name: str, namespace: dict[str, Any]) -> int:
    """Executes code as a script and returns the exit code; exceptions are printed as Python prints them."""
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


def exit_code(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, int):
        return value & 0xFF
    with suppress(Exception):  # any object, and stderr may be closed
        print(value, file=sys.stderr)
    return 1


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the code may have closed or replaced it
            stream.flush()


def leave(code: int) -> NoReturn:
    """Waits for threads, runs exit functions, flushes streams and exits, without finalising the interpreter."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        flush()
    finally:
        os._exit(code)
