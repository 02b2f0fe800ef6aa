"""Tools from functions, sets of them, and what wraps a set."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from lanbot.core.errors import UserError
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Limited, Logged, Tool, ToolError, Toolset, load_tools, tool
from lanbot.tools.workspace import Workspace


def weather(city: str, days: int = 1, units: str | None = None) -> str:
    """Forecasts the weather.

    Args:
        city: Where.
        days: How far ahead.

    Returns:
        a line a day
    """
    return f"{city} {days} {units}"


async def slow(text: str) -> str:
    """Waits a little."""
    await asyncio.sleep(0)
    return text.upper()


def test_a_function_becomes_a_tool() -> None:
    tool = Tool.from_function(weather)
    assert (tool.name, tool.description, tool.returns) == ("weather", "Forecasts the weather.", "a line a day")
    assert tool.schema["required"] == ["city"] and tool.schema["type"] == "object"
    properties = tool.schema["properties"]
    assert (properties["city"]["type"], properties["city"]["description"]) == ("string", "Where.")
    assert (properties["days"]["type"], properties["days"]["default"]) == ("integer", 1)
    assert tool.declaration["function"]["parameters"]["required"] == ["city"]


def test_arguments_go_by_name_or_by_position() -> None:
    calls = PythonCalls(Toolset([weather]))
    assert calls("weather('Rome')") == "Rome 1 None"
    assert calls("weather('Rome', 2, units='C')") == "Rome 2 C"
    assert Toolset([weather]).call("weather", {"city": "Oslo", "days": 3}) == "Oslo 3 None"
    assert calls("weather()") == "error: weather() missing 1 required positional argument: 'city'"
    assert calls("weather('a', 1, 'C', 4)") == "error: weather() takes 3 arguments but 4 were given"
    assert calls("weather('a', city='b')") == "error: weather() got multiple values for argument 'city'"
    assert calls("weather('a', wind=1)") == "error: weather() got an unexpected keyword argument 'wind'"


def test_an_async_tool_is_waited_for_inside_a_loop_too() -> None:
    tools = Toolset([slow])
    assert PythonCalls(tools)("slow('a')") == "A"

    async def inside() -> Any:
        return tools.call("slow", {"text": "b"})

    assert asyncio.run(inside()) == "B"


def test_wrappers() -> None:
    log: list[Any] = []
    tools = Limited(
        Logged(Toolset([weather, slow]), lambda *called: log.append(called)),
        2,
    )
    calls = PythonCalls(tools)
    assert [*tools] == ["weather", "slow"]
    assert calls("weather('Rome')") == "Rome 1 None"
    assert calls("slow('a')") == "A"
    assert calls("slow('b')") == "error: no more than 2 calls of tools"
    assert log == [("weather", {"city": "Rome"}, "Rome 1 None"), ("slow", {"text": "a"}, "A")]


def test_a_failure_is_logged_and_raised() -> None:
    def fails() -> str:
        raise ToolError("no")

    log: list[Any] = []
    with pytest.raises(ToolError):
        Logged(Toolset([fails]), lambda *called: log.append(called)).call("fails", {})
    assert str(log[0][2]) == "no"


def test_tools_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("outside_tools.py").write_text(
        "from lanbot.tools.tool import Toolset\ndef one() -> str:\n    return '1'\n"
        "class Both(Toolset):\n    def __init__(self) -> None:\n        super().__init__([one])\nnumber = 3\n"
    )
    assert [tool.name for tool in load_tools("outside_tools:one")] == ["one"]
    assert [tool.name for tool in load_tools("outside_tools:Both")] == ["one"]
    for wrong in ("outside_tools:two", "nowhere_at_all:one", "outside_tools", "outside_tools:number"):
        with pytest.raises(UserError, match=wrong.partition(":")[0]):
            load_tools(wrong)


# -- kinds ---------------------------------------------------------------------------------------------------


def test_a_mark_gives_kind_name_and_description_and_leaves_the_function_as_it_is() -> None:
    @tool(kind="network", name="forecast", description="Says what the weather will be.")
    def weather_of(city: str) -> str:
        """For programmers."""
        return f"rain in {city}"

    assert weather_of("Oslo") == "rain in Oslo"
    made = Toolset([weather_of])["forecast"]
    assert (made.kind, made.description) == ("network", "Says what the weather will be.")
    assert "network" not in str(made.declaration)


def test_what_says_nothing_may_do_anything() -> None:
    assert Toolset([weather])["weather"].kind == "execute"
    with pytest.raises(ValueError, match="none of read, write, network, execute"):
        Tool("t", "", {}, weather, kind="wirte")  # type: ignore[arg-type]


def test_the_kinds_of_the_tools_that_are_there() -> None:
    kinds = {name: made.kind for name, made in Toolset([*Workspace({}).tools, *Memory().tools]).items()}
    assert {name for name, kind in kinds.items() if kind == "read"} == {
        *("list_files", "read_file", "search_files", "recall"),
    }
    assert {name for name, kind in kinds.items() if kind == "write"} == {
        *("write_file", "edit_file", "remember", "forget"),
    }
