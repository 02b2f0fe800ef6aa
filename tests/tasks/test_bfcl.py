import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from lanbot.chat.declaring import signature
from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import Message, call, output, python, text
from lanbot.core.errors import UserError
from lanbot.tasks.bfcl import is_call
from lanbot.tasks.registry import make_task
from lanbot.tasks.task import Task

TRIP = {
    "name": "trip.plan",
    "description": "Plans a trip.",
    "parameters": {
        "type": "dict",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "budget": {"type": "float"},
            "stops": {"type": "array", "items": {"type": "string"}},
            "hotel": {"type": "dict", "properties": {"stars": {"type": "integer"}}},
            "alone": {"type": "boolean"},
        },
        "required": ["city", "days"],
    },
}
RIGHT = {
    "trip.plan": {
        "city": ["New York", "NYC"],
        "days": [3],
        "budget": [100.0, ""],
        "stops": [["a", "b"], ""],
        "hotel": [{"stars": [4, 5]}, ""],
        "alone": [True, ""],
    }
}
FUNCTIONS = {"trip.plan": TRIP["parameters"]}


def said(*content: object) -> Message:
    return {"role": "assistant", "content": list(content)}  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    "code",
    [
        "trip.plan(city='New York', days=3)",
        "trip.plan('new-york', 3)",
        "trip.plan(days=3, city='NYC', budget=100)",
        "trip.plan(city='NYC', days=3, stops=['a', 'b'], hotel={'stars': 5}, alone=True)",
    ],
)
def test_a_right_call(code: str) -> None:
    assert is_call(code, RIGHT, FUNCTIONS)


@pytest.mark.parametrize(
    "code",
    [
        "plan(city='NYC', days=3)",
        "trip.plan(city='Boston', days=3)",
        "trip.plan(city='NYC')",
        "trip.plan(city='NYC', days='3')",
        "trip.plan(city='NYC', days=3.0)",
        "trip.plan(city='NYC', days=True)",
        "trip.plan(city='NYC', days=3, alone=1)",
        "trip.plan(city='NYC', days=3, budget='100')",
        "trip.plan(city='NYC', days=3, stops=['b', 'a'])",
        "trip.plan(city='NYC', days=3, stops=['a'])",
        "trip.plan(city='NYC', days=3, hotel={'stars': 3})",
        "trip.plan(city='NYC', days=3, hotel={'rooms': 4})",
        "trip.plan(city='NYC', days=3, sea=True)",
        "trip.plan('NYC', 3, city='NYC')",
        "trip.plan('NYC', 3, 100, ['a', 'b'], {'stars': 4}, True, 7)",
        "trip.plan(city=open('x'), days=3)",
        "trip.plan(**{'city': 'NYC', 'days': 3})",
        "trip.plan(city='NYC', days=3) + 1",
        "trip.plan(city='NYC', days=3",
        "",
    ],
)
def test_a_wrong_call(code: str) -> None:
    assert not is_call(code, RIGHT, FUNCTIONS)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    rows = {
        "BFCL_v4_simple_python": {
            "id": "0",
            "question": [[{"role": "user", "content": "Plan 3 days in NYC."}]],
            "function": [TRIP],
        },
        "possible_answer/BFCL_v4_simple_python": {"id": "0", "ground_truth": [RIGHT]},
        "BFCL_v4_irrelevance": {
            "id": "0",
            "question": [[{"role": "user", "content": "Sing."}]],
            "function": [TRIP],
        },
    }
    for name, row in rows.items():
        path = tmp_path / "bfcl_v4" / f"{name}.json.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(json.dumps(row).encode() + b"\n"))
    (tmp_path / "bfcl_v4/BFCL_v4_multiple.json.gz").write_bytes(gzip.compress(b""))
    monkeypatch.setenv("LANBOT_MIRROR", str(tmp_path))
    return make_task("bfcl", "test")


def test_calls_by_name_and_as_python_count_alike_and_the_first_reply_decides(task: Task) -> None:
    right = call("trip.plan", {"city": "NYC", "days": 3})
    assert task.check(0, said(right))
    assert task.check(0, said(python("trip.plan('NYC', 3)")))
    assert task.check(0, said(text("I plan it."), right, output("done"), right))
    assert not task.check(0, said(right, right)), "two calls where one is asked for"
    assert not task.check(0, said(call("trip.plan", {"city": "Rome", "days": 3}), output("error"), right))
    assert not task.check(0, said(text("trip.plan(city='NYC', days=3)"))), "written, not called"


def test_where_no_function_fits_calling_one_is_wrong_and_so_is_saying_nothing(task: Task) -> None:
    assert [task.part(i) for i in range(len(task))] == ["simple_python", "irrelevance"]
    assert task.check(1, said(text("I cannot sing.")))
    assert not task.check(1, said(call("trip.plan", {"city": "NYC", "days": 3})))
    assert not task.check(1, said())


def test_functions_are_declared_or_listed_where_the_format_has_no_words_for_them(
    task: Task, chat_format: ChatFormat
) -> None:
    declared = task.conversation(0)
    assert declared["tools"][0]["function"]["parameters"]["type"] == "object"
    asked = task.asked(0, chat_format)
    assert "tools" not in asked
    assert signature(declared["tools"][0]["function"]) in str(asked["messages"][0]["content"])
    assert "days: integer, budget: number = ..." in signature(declared["tools"][0]["function"])


def test_a_row_without_functions_is_named(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "bfcl_v4/BFCL_v4_simple_python.json.gz"
    path.write_bytes(gzip.compress(b'{"question": []}\n'))
    with pytest.raises(UserError, match=r"line 1: no list 'question'"):
        make_task("bfcl:simple_python", "test").conversation(0)


@pytest.mark.usefixtures("real_mirror")
def test_the_oracle_is_always_right_and_a_wrong_answer_never() -> None:
    task = make_task("bfcl", "test")
    rows = range(len(task))
    assert Counter(map(task.part, rows)) == {"simple_python": 400, "multiple": 200, "irrelevance": 240}
    answers = [task.conversation(i)["messages"][-1] for i in rows]
    assert [i for i in rows if not task.check(i, answers[i])] == []
    wrong = said(call("nothing", {"x": 1}))
    assert [i for i in rows if task.check(i, wrong)] == []
    assert [i for i in range(600) if task.check(i, answers[i + 1])] == [], "the next item's answer"
