"""Tool-use conversations: every tool is used, outputs are the tools' own, mistakes are made good."""

import re
from typing import Any

import pytest

from lanbot.chat.messages import parts, spoken, validate
from lanbot.sandbox.sandbox import shared
from lanbot.tasks.registry import make_task
from lanbot.tasks.tool_use import HOWS, ToolUse
from lanbot.tools.bounded import REPEATS, SAME_CALL

TASK = make_task("tool_use", "train")
ROWS = range(6 * len(HOWS))


@pytest.fixture(scope="module")
def made() -> list[Any]:
    return [TASK.conversation(i) for i in ROWS]


def called(conversation: Any) -> list[tuple[str, str]]:
    """Calls with their outputs."""
    said = parts(conversation["messages"][-1])
    return [(one["text"], said[i + 1]["text"]) for i, one in enumerate(said) if one["type"] in ("python", "call")]


def test_every_tool_is_called_and_declared(made: list[Any]) -> None:
    used = {part["name"] for one in made for part in parts(one["messages"][-1]) if part["type"] == "call"}
    programs = [code for one in made for code, _ in called(one) if "\n" in code]
    declared = {tool["function"]["name"] for tool in made[0]["tools"]}
    assert used | {"python"} == declared and programs
    assert any("read_file(" in code for code in programs)


def test_each_kind_is_made_and_ends_in_words(made: list[Any]) -> None:
    assert {TASK.part(i) for i in ROWS} == set(HOWS)
    for i, one in enumerate(made):
        validate(one, f"row {i}")
        assert spoken(one["messages"][-1]).strip()
        assert bool(called(one)) is (TASK.part(i) != "none")


def test_mistakes_are_made_good(made: list[Any]) -> None:
    wrong = [one for one in made if any(output.startswith("error") for _, output in called(one))]
    assert len(wrong) >= 8
    assert not [one for one in made if called(one) and called(one)[-1][1].startswith("error")]


def test_mistakes_are_not_learned(made: list[Any]) -> None:
    said = [parts(one["messages"][-1]) for one in made]
    failed = [one[i] for one in said for i in range(len(one) - 1) if one[i + 1]["text"].startswith("error")]
    assert failed and not any(part.get("train", True) for part in failed)


def test_calls_made_again_and_again_are_refused_as_the_agent_does() -> None:
    recalls = [i for i in range(40 * len(HOWS)) if TASK.part(i) == "recall"]
    outputs = [[output for _, output in called(TASK.conversation(i))] for i in recalls]
    refused = [one for one in outputs if SAME_CALL in one]
    assert refused and all(one.index(SAME_CALL) == REPEATS and len(one) == REPEATS + 2 for one in refused)


def test_answers_say_what_the_tools_returned(made: list[Any]) -> None:
    for i, one in enumerate(made):
        if TASK.part(i) in ("result", "program", "program_with_files", "api_cost"):
            numbers = re.findall(r"\d+", spoken(one["messages"][-1]))
            outputs = " ".join(output for _, output in called(one))
            assert all(number in outputs + str(one["messages"][0]["content"]) for number in numbers)


def test_programs_print_what_they_print_in_the_sandbox(made: list[Any]) -> None:
    class Sandboxed(ToolUse):
        box = staticmethod(shared)

    assert [Sandboxed("train").conversation(i) for i in ROWS] == made


def test_a_row_is_the_same_again(made: list[Any]) -> None:
    assert [TASK.conversation(i) for i in range(len(HOWS))] == made[: len(HOWS)]
