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
"""Integers below it are sent as they are, larger ones in hexadecimal: Python limits decimal conversion."""
SEQUENCES = {"list": list, "tuple": tuple, "set": set}
DICTS = dict, collections.Counter, collections.defaultdict, collections.OrderedDict
"""Types that are sent as dicts, and so compare as dicts."""


def encode(value: Any) -> Any:
    """Plain data as JSON, types kept. Raises TypeError for anything but exact built-in types: an instance of a class
    of the candidate's own could say that it equals whatever it is compared with."""
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
    """What `encode` made. Raises an exception of some kind for anything else."""
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
    raise ValueError("no data")


# -- the candidate's process -------------------------------------------------------------------------------


def answer_calls(exchange: Callable[..., Any], prompt: str, code: str, name: str) -> None:
    """Runs what the model wrote, and answers calls of its function until there are no more.

    exchange(what came of the last call) -> the next call's arguments, or None. prompt: is run first: what the answer
    need not repeat, such as imports.
    """
    function, said = load(prompt, code, name)
    while (call := exchange(*said)) is not None:
        said = answer(function, call)
    os._exit(0)  # threads of the candidate's are not waited for


def load(prompt: str, code: str, name: str) -> tuple[Any, list[Any]]:
    module = types.ModuleType("program")
    sys.modules["program"] = module
    namespace = module.__dict__
    try:
        exec(compile(prompt, "prompt.py", "exec", dont_inherit=True), namespace)
        namespace.pop(name, None)
        program = compile(code, "program.py", "exec", dont_inherit=True)
    except Exception:  # a SyntaxError; a ValueError for characters that no program has; too deep
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
    except Exception:  # a TypeError; data that contains itself, or is too deep
        return ["type"]
    return ["value", encoded] if fits else ["type"]


def words(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except BaseException:
        return ""


# -- the tests' process ------------------------------------------------------------------------------------


def run_tests(call: Callable[..., Any], word: str, prompt: str, tests: str, name: str) -> None:
    """Runs check(candidate), and prints the word with what came of it. The word is random: the candidate, which is in
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
    """A built-in one of this name, or a RuntimeError: for a StopIteration too, which would end a test's map(candidate,
    ...) as if there were no more to compare."""
    kind = getattr(builtins, str(name), None)
    stops = StopIteration, StopAsyncIteration
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, stops):
        try:
            return kind(said)
        except TypeError:  # some want more than words
            pass
    return RuntimeError(said)
