"""Programs are judged by the values they return; nothing else that they do passes."""

import ast
import math
import os
import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lanbot.core.errors import UserError
from lanbot.sandbox import canary, launch, sandbox
from lanbot.sandbox.canary import Verdict
from lanbot.sandbox.sandbox import Sandbox
from lanbot.sandbox.worker import Result
from lanbot.tasks import code_grading, sandbox_rpc
from lanbot.tasks.code_grading import extract, judge
from lanbot.tasks.registry import make_task
from lanbot.tasks.sandbox_rpc import decode, encode

VERDICTS = sandbox.survey()
needs_sandbox = pytest.mark.skipif(
    not VERDICTS[-1].holds, reason="no level of the sandbox holds here: " + "; ".join(map(str, VERDICTS))
)
PROMPT = 'import math\n\n\ndef helper(x):\n    return x + 1\n\n\ndef f(x):\n    """Twice x."""\n'
TESTS = "def check(candidate):\n    for x in (1, 2.5, -3):\n        assert candidate(x) == 2 * x\n"


def fault(code: str, tests: str = TESTS, prompt: str = PROMPT) -> str:
    return judge(extract(f"```python\n{code}\n```", prompt, "f"), tests).fault


# -- what crosses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 0, -7, 2**53, -(2**70), 10**6_000, 0.1, -0.0, math.inf, -math.inf, 1e-320, 3 - 2.5j),
        *("", "ä\ud800\0", b"", b"\x00\xff", [], (), set(), {}, [[]], ("list", 1), ["tuple", ["dict"]]),
        *([1, (2, {3: "x", (4, 5): [6]}), {"a", 1.5}], {None: None, True: False, 1.5: b"x"}, {"dict": ["list"]}),
    ],
    ids=lambda value: repr(value)[:30] if not isinstance(value, int) else str(value % 1000),
)
def test_plain_data_crosses_with_its_types(value: object) -> None:
    import json

    back = decode(json.loads(json.dumps(encode(value))))

    def types(x: Any) -> Any:
        inner = list(x.items()) if type(x) is dict else sorted(x, key=repr) if type(x) is set else x
        return type(x), [types(one) for one in inner] if isinstance(inner, list | tuple) else repr(x)[:99]

    assert back == value
    if not isinstance(value, int):
        assert types(back) == types(value)


def test_nan_crosses() -> None:
    assert math.isnan(decode(encode(math.nan)))


class Always(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


@pytest.mark.parametrize(
    "value", [Always(), object(), len, range(3), int, iter([]), bytearray(), frozenset(), type("C", (Counter,), {})()]
)
def test_other_types_do_not_cross(value: object) -> None:
    for held in (value, [value], {"a": (value,)}):
        with pytest.raises(TypeError):
            encode(held)


@pytest.mark.parametrize("data", [[], ["nonsense", 1], {"a": 1}, ["dict", 1], ["int", "x"], ["float"], ["set", []]])
def test_forged_data_becomes_an_exception_or_plain_data(data: Any) -> None:
    try:
        made = decode(data)
    except Exception:
        return
    assert type(made) in (dict, str, int)


@pytest.mark.parametrize(
    "made", [Counter("aab"), defaultdict(int, {"a": 2, "b": 1}), OrderedDict([("b", 1), ("a", 2)]), Counter()]
)
def test_dicts_of_the_standard_library_compare_as_dicts(made: dict) -> None:
    back = decode(encode(made))
    assert type(back) is dict and back == made and decode(encode([made])) == [made]


# -- taking a program out of an answer ---------------------------------------------------------------------

DOCSTRING = 'def f(x):\n    """Twice.\n\n    ```\n    f(1)\n    ```\n    """\n    return 2\n'
INLINE = "def f(x):\n    '''```f(1)```'''\n    return 2\n"
MARGIN = '"""\n```python\nf(1)\n```\n"""\ndef f(x):\n    return 2\n'


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("```python\ndef f(x):\n    return 2\n```", "def f(x):\n    return 2\n"),
        ("So:\n```py\ndef f(x): return 2\n```\nand\n```python\nprint(f(1))\n```", "def f(x): return 2\n"),
        ("```\nx = 1\n```\n```python\ndef f(x): return 2\n```", "def f(x): return 2\n"),
        ("```sh\npip install f\n```\nThen:\n```python\ndef f(x): return 2\n```", "def f(x): return 2\n"),
        ("``` Python\ndef f(x): return 2\n```\n```text\n2\n```", "def f(x): return 2\n"),
        ("```python\ndef f(x):\n    return 2", "def f(x):\n    return 2"),
        ("def f(x):\n    return 2", "def f(x):\n    return 2"),
        ("    return 2\n", f"{PROMPT}    return 2\n"),
        ("```python\n    return 2\n```", f"{PROMPT}    return 2\n"),
        ("I do not know.", "I do not know."),
        # a fence within a docstring, also at the margin, does not end the block
        (f"```python\n{DOCSTRING}```\nIt returns 2.", DOCSTRING),
        (f"```python\n{MARGIN}```\n\n```python\nf(1)\n```", MARGIN),
        (f"```python\n{INLINE}```", INLINE),
        # in a list
        (
            "1. First:\n\n   ```python\n   def f(x):\n       return 2\n   ```\n2. Then test.",
            "def f(x):\n    return 2\n",
        ),
        ("- ```python\n  def f(x):\n      return 2\n  ```\n", "def f(x):\n    return 2\n"),
        ("1. So\n    ```python\n    def f(x):\n        return 2\n    ```", "def f(x):\n    return 2\n"),
        ("- ```python\n      return 2\n  ```", f"{PROMPT}    return 2\n"),
        # other fences
        ("~~~python\ndef f(x):\n    return 2\n~~~\nDone ~~~", "def f(x):\n    return 2\n"),
        ("````python\ndef f(x):\n    return len('```')\n````\n", "def f(x):\n    return len('```')\n"),
        ("```python title=a.py\ndef f(x): return 2\n```", "def f(x): return 2\n"),
        ("Here: ```python\ndef f(x):\n    return 2```, as asked", "def f(x):\n    return 2"),
        ("Call ```f(1)``` so:\n```python\ndef f(x): return 2\n```", "def f(x): return 2\n"),
    ],
)
def test_extract(answer: str, code: str) -> None:
    assert extract(answer, PROMPT, "f") == (PROMPT, code, "f")


# -- judging -----------------------------------------------------------------------------------------------


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f(x):\n    return 2 * x", ""),
        ("    return x + helper(x) - 1", ""),
        ("def f(x):\n    return math.floor(x) * 0 + helper(2 * x) - 1", ""),
        ("print('noise')\ndef f(x):\n    print('passed')\n    return 2 * x", ""),
        ("from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\n"
         "def f(x): return 2 * A(x).x", ""),
        ("if __name__ == '__main__':\n    raise SystemExit\nf = lambda x: 2 * x", ""),
        ("def f(x):\n    pass", "wrong"),
        ("def f(x):\n    return 'many'", "wrong"),
        ("def f(x):\n    return float('nan')", "wrong"),
        ("def f(x):\n    raise AssertionError", "exception"),
        ("def f(x):\n    raise KeyboardInterrupt", "exception"),
        ("def f(x):\n    return f(x)", "exception"),
        ("1 / 0\ndef f(x):\n    return 2 * x", "exception"),
        ("def f(x):\n    while True: pass", "timeout"),
        ("while True: pass\ndef f(x): pass", "timeout"),
        ("import os\ndef f(x):\n    os._exit(0)", "exit"),
        ("import os\nos._exit(0)\ndef f(x): pass", "exit"),
        ("def f(x):\n    raise SystemExit(0)", "exit"),
        ("import os, signal\ndef f(x):\n    os.kill(os.getpid(), signal.SIGKILL)", "exit"),
        ("class E:\n    def __eq__(self, other): return True\ndef f(x): return E()", "type"),
        ("class E(int):\n    def __eq__(self, other): return True\ndef f(x): return [E(1)]", "type"),
        ("def f(x):\n    x = []\n    x.append(x)\n    return x", "type"),
        ("def f(x): return 'x' * 600_000", "type"),
        ("async def f(x): return 2 * x", "type"),
        ("def f(x): yield 2 * x", "type"),
        ("def f(x):\n    y = []\n    for _ in range(10**5): y = [y]\n    return y", "type"),
        ("class E(int):\n    __class__ = property(lambda self: int)\n    def __eq__(self, other): return True\n"
         "def f(x): return {'a': E(1)}", "type"),
        ("def f(x): return 10**9 ** 9 ** 9", "timeout"),
        ("def f(x): return 10**100_000", "wrong"),
        ("def f(x): return [0] * 10**10", "exception"),
        ("import os\ndef f(x):\n    while True: os.fork()", "exception"),
        ("def f(x):\n    if isinstance(x, list): x[:] = [True]\n    return True", "wrong"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=[99]).start()\ndef f(x): return 2 * x", ""),
        ("import sys\nsys.modules.clear()\ndef f(x): return 2 * x", ""),
        ("def g(x): return 2 * x", "no program"),
        ("f = 2", "no program"),
        ("return 2 * x", "no program"),
        ("It is two times x.", "no program"),
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_programs_are_judged_by_their_results(code: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_grading, "SECONDS", 0.6 if expected == "timeout" else 20.0)
    assert fault(code) == expected


@needs_sandbox
@pytest.mark.parametrize(
    "code",
    [
        "import builtins\nfor name in ('isinstance', 'len', 'type'): setattr(builtins, name, lambda *a: True)",
        "import sys\nmain = sys.modules['__main__']\nmain.encode = lambda value: ['passed']\nmain.answer = main.encode",
        "import os\nos.write(1, b'passed\\n' * 100)\nos.write(3, b'passed')",
        "import sys\nmain = sys.modules['__main__']\nmain.exchange('value', True)\nmain.exchange('passed')",
        "import sys\nmain = sys.modules['__main__']\nmain.answer = lambda *a: ['value', ['list', ['set', []]]]",
        "import sys\nmain = sys.modules['__main__']\nmain.answer = lambda *a: ['raised', 'SystemExit', 'passed']",
        "import sys\nmain = sys.modules['__main__']\nmain.answer = lambda *a: ['', 'passed']",
        "import json\njson.dumps = lambda *a: '{}'",
        "import sys\nmain = sys.modules['__main__']\nmain.exchange(['ready'])",
        "import sys\ndef trace(frame, *_):\n    if 'said' in frame.f_locals: frame.f_locals['said'] = ['passed']\n"
        "    return trace\nsys.settrace(trace)",
        "import os, json\nsaid = json.dumps({'call': 'call', 'args': [[1], {}], 'kwargs': {}}).encode()\n"
        "os.write(3, len(said).to_bytes(4, 'big') + said)",
        "import os, json\nsaid = json.dumps({'done': 0}).encode()\nos.write(3, len(said).to_bytes(4, 'big') + said)",
        "import gc\nheld = [one for one in gc.get_objects() if 'check' in str(one)]\nprint(held, *held)",
    ],
    ids=[
        *(
            "builtins",
            "encode",
            "output",
            "exchange",
            "unhashable",
            "system exit",
            "no fault",
            "json",
            "unhashable word",
        ),
        *("trace", "tests' own call", "session's end", "memory"),
    ],
)
def test_forged_answers_do_not_pass(code: str) -> None:
    assert fault(f"{code}\ndef f(x):\n    return None") != ""


@needs_sandbox
def test_a_lenient_test_does_not_pass_a_program_that_exited() -> None:
    lenient = "def check(candidate):\n    try:\n        candidate(1)\n    except BaseException:\n        pass\n"
    assert fault("import os\ndef f(x): os._exit(0)", lenient) == "exit"
    assert fault("def f(x): return object()", lenient) == "type"
    assert fault("def f(x): raise ValueError", lenient) == ""


@needs_sandbox
def test_stop_iteration_does_not_end_the_tests_early() -> None:
    tests = """
def check(candidate):
    for got, expected in zip(map(candidate, [1, 2]), [2, 4]):
        assert got == expected
"""
    assert fault("def f(x): return 2 * x", tests) == ""
    assert fault("def f(x): raise StopIteration", tests) == "exception"


@needs_sandbox
def test_exceptions_keep_their_type() -> None:
    tests = """
def check(candidate):
    for kind in (ValueError, KeyError, UnicodeDecodeError, RuntimeError):
        try:
            candidate(kind.__name__)
        except (RuntimeError if kind is UnicodeDecodeError else kind) as error:
            assert 'why' in str(error)
        else:
            assert False
"""
    code = """
class Own(Exception): pass
def f(name):
    if name == 'UnicodeDecodeError': raise UnicodeDecodeError('utf8', b'', 0, 1, 'why')
    raise {'ValueError': ValueError, 'KeyError': KeyError}.get(name, Own)('why')
"""
    assert fault(code, tests) == ""


@needs_sandbox
def test_tests_use_the_prompts_helpers_and_the_function_by_its_name() -> None:
    tests = "def check(candidate):\n    assert helper(candidate(1, y={'k': (1,)})) == 3 == helper(f(1))\n"
    assert fault("def helper(x): return 99\ndef f(x, y=None): return 2 * x", tests) == ""


def test_without_a_sandbox_nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "check", lambda level: Verdict(level, False, "got through: a socket"))
    code_grading.pools.cache_clear()
    with pytest.raises(UserError, match="no sandbox holds"):
        fault("def f(x): return 2 * x")


# -- many at a time ----------------------------------------------------------------------------------------


class Watched(Sandbox):
    """Refuses a run that would wait for a worker, which could deadlock."""

    running, most = 0, 0
    counting = threading.Lock()

    def run(self, *given: Any, **settings: Any) -> Result:
        with self.counting:
            if self.running == self.workers:
                raise RuntimeError("all workers are at work")
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            return super().run(*given, **settings)
        finally:
            with self.counting:
                self.running -= 1


@needs_sandbox
@pytest.mark.parametrize("workers", [(1, 1), (2, 3), (3, 2)])
def test_no_program_waits_for_a_worker(workers: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """With more concurrent programs than workers in either pool, two could wait for each other."""
    pair = tuple(map(Watched, workers))
    monkeypatch.setattr(code_grading, "pools", lambda unsafe: pair)
    monkeypatch.setattr(code_grading, "SECONDS", 20.0)
    both_begun = threading.Barrier(min(workers))
    of_one = code_grading.judge

    def judge_with_others(program: code_grading.Program, tests: str, unsafe: bool) -> code_grading.Verdict:
        both_begun.wait(20.0)  # as many are judged at a time as can be
        return of_one(program, tests, unsafe)

    monkeypatch.setattr(code_grading, "judge", judge_with_others)
    asked = [(extract(f"def f(x): return {i % 2 + 1} * x", PROMPT, "f"), TESTS) for i in range(12)]
    with pair[0], pair[1]:
        assert [verdict.fault for verdict in code_grading.judge_all(asked)] == ["wrong", ""] * 6
    assert max(pool.most for pool in pair) <= min(workers)


# -- HumanEval ---------------------------------------------------------------------------------------------

EQUAL = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __lt__ = __le__ = __gt__ = __ge__ = __eq__
    def __hash__(self): return 0
    def __getattr__(self, name): return self
    def __call__(self, *args): return self
    __sub__ = __rsub__ = __abs__ = __getitem__ = __call__
def {name}(*args, **kwargs): return Equal()
"""
ANSWERS: dict[str, tuple[Callable[[dict[str, Any]], str], str]] = {
    "canonical": (lambda row: f"```python\n{row['prompt']}{row['canonical_solution']}```", ""),
    "empty": (lambda row: f"{row['prompt']}    pass", "wrong"),
    "exit": (lambda row: "    import os\n    os._exit(0)", "exit"),
    "equal": (lambda row: EQUAL.replace("{name}", row["entry_point"]), "type"),
    "nothing": (lambda row: "", "no program"),
}


@pytest.fixture
def at_level(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """at_level(n): judges programs at this level, or skips if it does not hold."""
    opened: list[Sandbox] = []

    def use(level: int) -> None:
        if not (verdict := canary.check(level)).holds:
            pytest.skip(str(verdict))
        opened.extend(Sandbox(os.cpu_count() or 1, level) for _ in range(2))
        monkeypatch.setattr(code_grading, "pools", lambda unsafe: tuple(opened))

    yield use
    for pool in opened:
        pool.close()


@pytest.mark.usefixtures("real_mirror")
@pytest.mark.parametrize("level", [launch.BOXED, launch.LOCKED])
@pytest.mark.parametrize("name", ANSWERS)
def test_all_of_humaneval_passes_with_its_solutions_and_fails_with_tricks(
    name: str, level: int, at_level: Callable[[int], None]
) -> None:
    at_level(level)
    task, (answer, fault) = make_task("humaneval", "test"), ANSWERS[name]
    said = [{"role": "assistant", "content": answer(task.row(i))} for i in range(len(task))]  # type: ignore[attr-defined]
    assert Counter(task.faults(list(range(164)), said)) == {fault: 164}  # type: ignore[attr-defined]
    assert task.sandbox_level == (None if name == "nothing" else level)


@pytest.mark.usefixtures("real_mirror")
def test_solutions_may_omit_the_prompt() -> None:
    task: Any = make_task("humaneval", "test")
    for i in range(164):
        row = task.row(i)
        whole, body = (task.program(i, text) for text in (ANSWERS["canonical"][0](row), row["canonical_solution"]))
        assert ast.dump(ast.parse(whole.code)) == ast.dump(ast.parse(body.code))


@pytest.mark.usefixtures("real_mirror")
@needs_sandbox
def test_the_check_of_one_answer_is_the_same() -> None:
    task = make_task("humaneval", "test")
    assert task.check(3, task.conversation(3)["messages"][-1])
    assert task.sandbox_level == VERDICTS[-1].level
    assert not task.check(3, task.conversation(4)["messages"][-1])
    assert task.faults([3, 4], [None, task.conversation(4)["messages"][-1]]) == ["no program", ""]


def test_code_sent_into_the_sandbox_does_not_import_lanbot() -> None:
    assert "lanbot" not in Path(sandbox_rpc.__file__).read_text()
