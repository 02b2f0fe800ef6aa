"""Calls as a model writes them: the calculator, and the tools of workspace and memory as functions."""

import pytest

from lanbot.tools.calculator import answer
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import Workspace

FUNCTIONS = ("list_files", "read_file", "write_file", "edit_file", "search_files", "remember", "recall", "forget")
"""Trained into weights."""


def calls(workspace: Workspace, memory: Memory | None = None) -> PythonCalls:
    return PythonCalls(Toolset([*workspace.tools, *(memory.tools if memory else [])]))


def test_it_offers_what_the_design_names() -> None:
    assert tuple(Toolset([*Workspace({}).tools, *Memory().tools])) == FUNCTIONS


@pytest.mark.parametrize("code", ["2 + 2", "'strawberry'.count('r')", "1/0", 'read_file("a")', "import os"])
def test_without_functions_it_is_the_calculator(code: str) -> None:
    assert PythonCalls()(code) == answer(code)


def test_calls_by_position_and_by_name_and_within_expressions() -> None:
    files = {"notes.txt": "one\ntwo"}
    tools = calls(Workspace(files), Memory())
    assert tools('read_file("notes.txt")') == "one\ntwo"
    assert tools("read_file(path='notes.txt', start=2)") == "two"
    assert tools('write_file("list.txt", "milk")') == "wrote list.txt"
    assert tools("""write_file(text='say "hi"\\n', path="b.txt")""") == "wrote b.txt"
    assert tools('edit_file("list.txt", old="milk", new="tea")') == "edited list.txt"
    assert tools('len(read_file("notes.txt").split())') == "2"
    assert tools('write_file("sum.txt", 3 * 4)') == "wrote sum.txt"
    assert files == {"notes.txt": "one\ntwo", "list.txt": "tea", "b.txt": 'say "hi"\n', "sum.txt": "12"}
    assert tools('remember("my cat is Tom")') == "remembered as 1"
    assert tools('recall(query="cat")') == "1: my cat is Tom"
    assert tools("forget(1)") == "forgot 1"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ('read_file("x.txt")', "error: no file x.txt; there are: notes.md"),
        ("forget(7)", "error: nothing is remembered as 7"),
        ("recall()", "error: recall() missing 1 required positional argument: 'query'"),
        ('recall("a", 2)', "error: recall() takes"),
        ('list_files(folder="a")', "error: list_files() got an unexpected keyword argument 'folder'"),
        ('readfile("notes.md")', "error: unknown name 'readfile'; did you mean read_file?"),
        ("quux(1)", "error: unknown name 'quux'"),
        ("read_file", "error: read_file is a function: call it, read_file(...)"),
        ('read_file("notes.md"', "error: not a single Python expression"),
        ('x = read_file("notes.md")', "error: not a single Python expression"),
    ],
)
def test_every_failure_is_an_output_that_the_model_can_read(code: str, said: str) -> None:
    got = calls(Workspace({"notes.md": "hi"}), Memory())(code)
    assert got.startswith(said) and "Workspace" not in got and "Memory" not in got
    assert "\n" not in got


def test_a_function_can_be_added() -> None:
    def double(text: str) -> str:
        return text * 2

    assert PythonCalls(Toolset([*Workspace({}).tools, double]))("double('ab')") == "abab"
    assert PythonCalls()("double('ab')").startswith("error")


def test_what_is_bounded_stays_bounded() -> None:
    tools = calls(Workspace({"long.txt": "word " * 10_000}))
    assert len(tools('read_file("long.txt")')) == 2_000
    assert tools('read_file("long.txt") * 9').startswith("error: too large")
