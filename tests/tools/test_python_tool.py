"""The tool `python`: programs in the sandbox, with a session's variables and the other tools as functions."""

from collections.abc import Iterator

import pytest

from lanbot.core.errors import Stopped, UserError
from lanbot.sandbox.sandbox import Sandbox
from lanbot.tools import python_tool
from lanbot.tools.calculator import MAX_ANSWER, answer
from lanbot.tools.memory import Memory
from lanbot.tools.permissions import Permitted, Policy, parsed
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.python_tool import Python
from lanbot.tools.tool import Limited, Logged, Toolset
from lanbot.tools.workspace import Workspace


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    try:
        made = Sandbox(1)
    except UserError as error:
        pytest.skip(str(error))
    with made:
        yield made


def calls_of(box: Sandbox, *further: object) -> PythonCalls:
    python = Python(box)
    tools = Toolset([*Workspace({"notes.txt": "one\ntwo\n"}).tools, *Memory().tools, python.run, *further])  # type: ignore[list-item]
    python.toolset = tools
    return PythonCalls(tools)


@pytest.fixture(scope="module")
def calls(box: Sandbox) -> PythonCalls:
    return calls_of(box)


def test_variables_functions_and_imports_are_kept_between_calls(calls: PythonCalls) -> None:
    assert calls("import math\nx = [1, 2, 3]\ndef double(n):\n    return 2 * n") == ""
    assert calls("[double(n) for n in x]") == "[2, 4, 6]"
    assert calls("x") == "[1, 2, 3]"
    assert calls("math.floor(sum(x) / 4)") == "1"
    assert calls("y = 3; y") == "3"
    assert calls("for n in x:\n    print(n)") == "1\n2\n3"
    assert calls("print('a')\n'b'") == "a\nb"


def test_two_agents_share_nothing(box: Sandbox, calls: PythonCalls) -> None:
    calls("mine = 1")
    assert calls_of(box)("mine") == "error: line 1: NameError: name 'mine' is not defined"


def test_what_is_one_expression_is_answered_as_before(calls: PythonCalls) -> None:
    for code in ("2 + 2", "'strawberry'.count('r')", "1/0", "round(2.345, 2)", "1,100 * 2", "7 ** 999999"):
        assert calls(code) == answer(code)
    assert calls('read_file("notes.txt", start=2)') == "two\n"
    assert calls('read_file("x.txt")') == "error: no file x.txt; there are: notes.txt"


def test_tools_are_functions_of_the_code(calls: PythonCalls) -> None:
    code = 'lines = read_file("notes.txt").split()\nwrite_file("sum.txt", str(len(lines)))\nread_file(path="sum.txt")'
    assert calls(code) == "2"
    assert calls('try:\n    read_file("x.txt")\nexcept Exception as error:\n    print(error)').startswith(
        "no file x.txt"
    )
    assert calls('y = readfile("x")').endswith("name 'readfile' is not defined; did you mean read_file?")
    assert "missing 1 required positional argument: 'query'" in calls("y = recall()")
    assert calls("y = python('1')") == "error: line 1: NameError: name 'python' is not defined"


def test_the_wrappers_of_the_set_hold_for_code_too(box: Sandbox) -> None:
    log: list[str] = []
    python = Python(box)
    files = Workspace({"a.txt": "a"})
    inner = Toolset([*files.tools, python.run])
    seen = Logged(inner, lambda name, arguments, result: log.append(name))
    tools = Limited(Permitted(seen, Policy(deny=parsed(["write_file"]), allow=parsed(["python"])), files), 4)
    python.toolset = tools
    calls = PythonCalls(tools)
    assert calls('x = read_file("a.txt")\nx') == "a"
    assert calls('x = write_file("b.txt", "b")').endswith(
        "RuntimeError: write_file was not allowed: the rule deny write_file"
    )
    assert calls("x = 1") == "error: no more than 4 calls of tools"
    assert log == ["read_file", "python", "python"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\ny = 1 / 0", "error: line 2: ZeroDivisionError: division by zero"),
        ("print('so far')\nraise ValueError('no\\x1b[2J')", "so far\nerror: line 2: ValueError: no␛[2J"),
        ("x = (", "error: line 1: SyntaxError: '(' was never closed"),
        (
            "if True:\nx = 1",
            "error: line 2: IndentationError: expected an indented block after 'if' statement on line 1",
        ),
        ("x = " + "(" * 5_000, "error: line 1: SyntaxError: too many nested parentheses"),
        ("x = " + "-" * 19_000 + "1", "error: too deeply nested"),
        ("import sys; sys.exit(3)", "error: it ended with exit code 3"),
        ("import sys; sys.stderr.write('careful\\n'); x = 1", "careful"),
        ("import os; os.write(1, b'caf\\xe9 \\x1b]0;owned\\x07\\n'); x = 1", "caf\ufffd ␛]0;owned␇"),
        ("x = input()", "error: line 1: EOFError: EOF when reading a line"),
        ("x = " + "1 + " * 6_000, f"error: the code is text of at most {python_tool.MAX_CODE:,} characters"),
        ("# nothing", ""),
    ],
)
def test_every_failure_is_a_line(code: str, said: str, calls: PythonCalls) -> None:
    assert calls(code) == said
    assert calls("print(1 + 1)") == "2"


@pytest.mark.parametrize("code", ["x = '\0'", "x = '\ud800'", "x = 'é'; 'ü' + x", "\ufeffx = 1", "x = 1\r\nx", "\f1;2"])
def test_odd_characters_do_no_harm(code: str, calls: PythonCalls) -> None:
    assert calls(code).startswith(("error: ", "üé", "1", "2")) or calls(code) == ""


def test_long_output_keeps_its_beginning_its_end_and_the_error(calls: PythonCalls) -> None:
    said = calls("print('first')\nprint('word ' * 100_000)\nprint('last')\n1 / 0")
    assert len(said) <= MAX_ANSWER
    assert said.startswith("first\n") and "... [cut] ..." in said
    assert said.endswith("last\nerror: line 4: ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("while True: pass", "stopped after 0.5 seconds"),
        ("while True: print('x' * 100_000)", "stopped: it printed more than 16 MB"),
        ("import os; os.abort()", "it crashed (SIGABRT)"),
        ("import os\nwhile True: os.write(3, bytes(9_000))", "stopped: it wrote where it may not"),
        ("while True: list_files()", "stopped: more than 1,000 calls of tools"),
    ],
)
def test_what_hangs_crashes_or_floods_is_a_line_and_the_next_call_works(
    code: str, said: str, box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "list_files" not in code:
        monkeypatch.setattr(python_tool, "SECONDS", 0.5 if "pass" in code else 20.0)
        monkeypatch.setitem(python_tool._ENDS, "timeout", "stopped after 0.5 seconds; its variables are lost")
    calls = calls_of(box)
    calls("x = 1")
    answered = calls(code)
    assert answered.split("\n")[-1] == f"error: {said}; its variables are lost" and len(answered) <= MAX_ANSWER
    assert calls("x") == "error: line 1: NameError: name 'x' is not defined"
    assert calls("x = 2\nx") == "2"


def test_a_signal_during_a_tool_ends_the_program_too(box: Sandbox) -> None:
    def stop() -> str:
        raise Stopped(143, "stopped")

    calls = calls_of(box, stop)
    with pytest.raises(Stopped):
        calls("try:\n    stop()\nexcept BaseException:\n    pass\nx = 1")
    assert calls("x = 1\nx") == "1"


def test_closing_ends_the_session(box: Sandbox) -> None:
    python = Python(box)
    assert python.run("x = 1\nx") == "1"
    python.close()
    assert "NameError" in python.run("x")
