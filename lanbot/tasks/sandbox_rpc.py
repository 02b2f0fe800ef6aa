"""Remote calls inside the sandbox: the tests call the candidate, and only plain data is exchanged.

The source of this file is sent into both processes (code_grading.py), so it imports only the standard library. Data
from the candidate's process may be forged: `decode` returns nothing but exact built-in types.
"""

import builtins
import collections
import json
import os
import sys
import types
from collections.abc import Callable
from typing import Any

LARGEST = 500_000
"""Characters of one answer."""
EXACT = 1 << 53
"""Smaller integers are sent as JSON numbers, larger ones in hexadecimal, as Python limits decimal conversion."""
SEQUENCES = {"list": list, "tuple": tuple, "set": set}
DICTS = dict, collections.Counter, collections.defaultdict, collections.OrderedDict
"""Types that are sent as dicts and compared as dicts."""


def encode(value: Any) -> Any:
    """Plain data as JSON that keeps types. Raises TypeError for anything but exact built-in types: an instance of a
    class of the candidate could compare equal to anything."""
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -EXACT < value < EXACT else ["int", hex(value)]
    if kind is float:
        return ["float", value.hex()]
    if kind is complex:
        return ["complex", value.real.hex(), value.imag.hex()]
    if kind is bytes:
        return ["bytes", value.hex()]
    if kind is list or kind is tuple or kind is set:
        return [kind.__name__, *[encode(one) for one in value]]
    if kind in DICTS:
        return ["dict", *[[encode(key), encode(one)] for key, one in dict.items(value)]]
    raise TypeError("not plain data")


def decode(data: Any) -> Any:
    """The inverse of `encode`. Raises some exception for other data."""
    if not isinstance(data, list):
        return data
    kind, *rest = data
    if kind in SEQUENCES:
        return SEQUENCES[kind](decode(one) for one in rest)
    if kind == "dict":
        return {decode(key): decode(one) for key, one in rest}
    if kind == "int":
        return int(rest[0], 16)
    if kind == "float":
        return float.fromhex(rest[0])
    if kind == "complex":
        return complex(float.fromhex(rest[0]), float.fromhex(rest[1]))
    if kind == "bytes":
        return bytes.fromhex(rest[0])
    raise ValueError("not encoded data")


# -- the candidate's process -------------------------------------------------------------------------------


def answer_calls(exchange: Callable[..., Any], prompt: str, code: str, name: str) -> None:
    """Executes the model's program, and answers calls of its function until there are no more.

    exchange(result of the last call) -> arguments of the next call, or None. prompt: is executed first; it has, for
    example, imports that the answer need not repeat.
    """
    function, said = load(prompt, code, name)
    while (call := exchange(*said)) is not None:
        said = answer(function, call)
    os._exit(0)  # without waiting for the candidate's threads


def load(prompt: str, code: str, name: str) -> tuple[Any, list[Any]]:
    module = types.ModuleType("program")
    sys.modules["program"] = module
    namespace = module.__dict__
    try:
        exec(compile(prompt, "prompt.py", "exec", dont_inherit=True), namespace)
        namespace.pop(name, None)
        program = compile(code, "program.py", "exec", dont_inherit=True)
    except Exception:  # SyntaxError, ValueError for null characters, RecursionError
        return None, ["no program"]
    try:
        exec(program, namespace)
    except SystemExit:
        return None, ["exit"]
    except BaseException:
        return None, ["exception"]
    function = namespace.get(name)
    return function, ["ready"] if callable(function) else ["no program"]


def answer(function: Any, call: Any) -> list[Any]:
    args, kwargs = map(decode, call)
    try:
        value = function(*args, **kwargs)
    except SystemExit:
        return ["exit"]
    except BaseException as error:
        return ["raised", type(error).__name__, words(error)]
    try:
        encoded = encode(value)
        fits = len(json.dumps(encoded)) <= LARGEST
    except Exception:  # TypeError, RecursionError
        return ["type"]
    return ["value", encoded] if fits else ["type"]


def words(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except BaseException:
        return ""


# -- the tests' process ------------------------------------------------------------------------------------


def run_tests(call: Callable[..., Any], word: str, prompt: str, tests: str, name: str) -> None:
    """Runs check(candidate), and prints the word and the outcome. The word is random, so the candidate, which runs in
    another process, cannot know it."""
    raised: list[BaseException] = []

    def candidate(*args: Any, **kwargs: Any) -> Any:
        said = call(encode(list(args)), encode(kwargs))
        if said[0] == "value":
            return decode(said[1])
        raised.append(exception(*said[1:]))
        raise raised[-1]

    namespace: dict[str, Any] = {"__name__": "tests"}
    exec(compile(prompt, "prompt.py", "exec", dont_inherit=True), namespace)  # tests use its helpers
    namespace[name] = candidate
    exec(compile(tests, "tests.py", "exec", dont_inherit=True), namespace)
    try:
        namespace["check"](candidate)
        came = "passed"
    except BaseException as error:
        came = "exception" if any(error is one for one in raised) else "wrong"
    print(f"\n{word} {came}")


def exception(name: str, said: str) -> Exception:
    """The built-in exception of this name, or a RuntimeError; also for StopIteration, which would end a test's
    map(candidate, ...) early."""
    kind = getattr(builtins, str(name), None)
    stops = StopIteration, StopAsyncIteration
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, stops):
        try:
            return kind(said)
        except TypeError:  # some take other arguments
            pass
    return RuntimeError(said)
