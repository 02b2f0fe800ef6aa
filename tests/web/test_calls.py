import json
from typing import Any

import pytest

from lanbot.web.calls import ClientTools, ToolCall


def tools(*names: str) -> ClientTools:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a"]}
    return ClientTools([{"type": "function", "function": {"name": name, "parameters": schema}} for name in names])


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("f(1)", {"a": 1}),
        ("f(1, b=[True, None])", {"a": 1, "b": [True, None]}),
        ("  f(a='x' + 'y', b={'k': 2 * 3})\n", {"a": "xy", "b": {"k": 6}}),
        ("f((1, 2))", {"a": [1, 2]}),
        ("f('" + "x" * 5_000 + "')", {"a": "x" * 5_000}),
    ],
)
def test_a_call_in_python_is_one_by_name(code: str, arguments: dict[str, Any]) -> None:
    made = tools("f").of_code(code)
    assert isinstance(made, ToolCall) and made.name == "f" and json.loads(made.arguments) == arguments


def test_a_name_with_dots_is_a_function() -> None:
    made = tools("trip.plan").of_code("trip.plan('Rome')")
    assert isinstance(made, ToolCall) and made.name == "trip.plan"


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("2 + 2", "4"),
        ("'strawberry'.count('r')", "3"),
        ("f()", "error: f() missing 1 required positional argument: 'a'"),
        ("f(1, 2, 3)", "error: f() takes 2 arguments but 3 were given"),
        ("f(**{'a': 1})", "error: f() got an unexpected keyword argument '**'"),
    ],
)
def test_what_is_not_the_clients_is_answered(code: str, result: str) -> None:
    assert tools("f").of_code(code) == result


@pytest.mark.parametrize(
    "code", ["import os", "g(1)", "f(f(1))", "f(b'x')", "f(1e999)", "f({1, 2})", "(" * 5_000, "f(x)", "\x00", ""]
)
def test_what_nobody_can_run_is_an_error(code: str) -> None:
    made = tools("f").of_code(code)
    assert isinstance(made, str) and made.startswith("error: ")


def test_programs_are_those_of_a_client_that_has_a_tool_for_them() -> None:
    made = tools("python").of_code("import os\nprint(os)")
    assert isinstance(made, ToolCall) and json.loads(made.arguments) == {"code": "import os\nprint(os)"}
    assert tools("python").of_code("2 + 2") == "4"
