"""BFCL: a function is to be called, or none fits (Patil et al. 2025, Berkeley Function Calling Leaderboard, v4).

A call is judged by its syntax tree: the function's name, and for each parameter one of the possible values.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from lanbot.chat.declaring import declared
from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import Conversation, Message, Part, call, parts, text
from lanbot.core.errors import UserError
from lanbot.data import hub
from lanbot.data.rows import Rows, open_rows
from lanbot.tasks.registry import register
from lanbot.tasks.task import BAD_ROW, Task

KINDS = ("simple_python", "multiple", "irrelevance")
URL = "https://raw.githubusercontent.com/ShishirPatil/gorilla/main/berkeley-function-call-leaderboard/bfcl_eval/data/"
TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}
"""Of a parameter, where JSON schema has another word; None: no type."""
NOTHING_FITS = "None of the functions that I have can do that."
IGNORED = re.compile(r"[ ,./\-_*^]")
"""In a text, as the leaderboard's own comparison does."""


@register("bfcl")
class BFCL(Task):
    """Function calls by their syntax tree; an argument chooses one of three kinds."""

    splits = ("test",)
    arguments = KINDS
    real = True
    answer_tokens = 128

    @cached_property
    def items(self) -> Sequence[tuple[str, int]]:
        """Kind and row of each item."""
        kinds = [self.argument] if self.argument else KINDS
        return [(kind, i) for kind in kinds for i in range(len(self._questions(kind)))]

    def __len__(self) -> int:
        return len(self.items)

    def part(self, i: int) -> str:
        return self.items[i][0]

    def conversation(self, i: int) -> Conversation:
        """The question and a right answer, with the functions declared."""
        asked = self._asked(i)
        tools = [_declaration(function) for function in asked["function"]]
        (possible,) = self._possible(i) or [{}]
        content: list[Part] = [call(name, _example(values)) for name, values in possible.items()]
        answer: Message = {"role": "assistant", "content": content or [text(NOTHING_FITS)]}
        return {"messages": [*asked["question"][0], answer], "tools": tools}

    def asked(self, i: int, chat_format: ChatFormat) -> Conversation:
        """A format that does not declare functions gets their signatures in a system message."""
        return declared(self.conversation(i), chat_format)

    def check(self, i: int, answer: Message) -> bool:
        """Whether the answer calls the right function; where none fits, whether it says something and calls none."""
        codes = list(_first_calls(answer))
        possible = self._possible(i)
        if not possible:
            return not codes and any(part["type"] == "text" and part["text"].strip() for part in parts(answer))
        functions = {function["name"]: function["parameters"] for function in self._asked(i)["function"]}
        return len(codes) == 1 and is_call(codes[0], possible[0], functions)

    def _asked(self, i: int) -> dict[str, Any]:
        kind, row = self.items[i]
        return _checked(self._questions(kind), row, ("question", "function"))

    def _possible(self, i: int) -> Sequence[Mapping[str, Any]]:
        """The right calls; none: no function fits."""
        kind, row = self.items[i]
        if kind == "irrelevance":
            return []
        given: Sequence[Mapping[str, Any]] = _checked(self._answers(kind), row, ("ground_truth",))["ground_truth"]
        return given

    def _questions(self, kind: str) -> Rows:
        return self._opened(f"BFCL_v4_{kind}.json")

    def _answers(self, kind: str) -> Rows:
        return self._opened(f"possible_answer/BFCL_v4_{kind}.json")

    def _opened(self, name: str) -> Rows:
        if name not in self._files:
            self._files[name] = open_rows([hub.url_file(URL + name, f"bfcl_v4/{name}.gz", self.context.options)])
        return self._files[name]

    @cached_property
    def _files(self) -> dict[str, Rows]:
        return {}


def is_call(code: str, possible: Mapping[str, Any], functions: Mapping[str, Any]) -> bool:
    """Whether code is the one possible call: {name: {parameter: [values]}}, where "" among the values is none at all.

    functions: the JSON schema of each function's parameters, for positional arguments and their types.
    """
    ((name, wanted),) = possible.items()
    try:
        node = ast.parse(code.strip(), mode="eval").body
        if not isinstance(node, ast.Call) or ast.unparse(node.func) != name:
            return False
        schema = functions[name]["properties"]
        given = dict(zip(schema, map(ast.literal_eval, node.args), strict=False))
        named = {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in node.keywords}
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False
    if len(node.args) > len(schema) or given.keys() & named.keys():
        return False
    return _fits(given | named, wanted, schema)


def _fits(given: Mapping[str, Any], wanted: Mapping[str, Sequence[Any]], schema: Mapping[str, Any]) -> bool:
    """Whether each value is one of those wanted, and only those are missing that may be."""
    if not given.keys() <= wanted.keys():
        return False
    missing = wanted.keys() - given.keys()
    return all("" in wanted[name] for name in missing) and all(
        any(_equal(value, one, schema.get(name, {})) for one in wanted[name]) for name, value in given.items()
    )


def _equal(given: Any, wanted: Any, schema: Mapping[str, Any]) -> bool:
    if isinstance(wanted, bool) or isinstance(given, bool):
        return given is wanted
    if isinstance(wanted, int | float):
        whole = schema.get("type") == "integer"
        return isinstance(given, int if whole else int | float) and given == wanted
    if isinstance(wanted, str):
        return isinstance(given, str) and _plain(given) == _plain(wanted)
    if isinstance(wanted, list):
        items = schema.get("items", {})
        alike = isinstance(given, list | tuple) and len(given) == len(wanted)
        return alike and all(_equal(g, w, items) for g, w in zip(given, wanted, strict=True))
    if isinstance(wanted, dict):
        return isinstance(given, dict) and _fits(given, wanted, schema.get("properties", {}))
    return bool(given == wanted)


def _plain(words: str) -> str:
    return IGNORED.sub("", words).lower().replace("'", '"')


def _first_calls(answer: Message) -> Iterator[str]:
    """The calls that were made before any result was read."""
    for part in parts(answer):
        if part["type"] == "output" and not part.get("invented"):
            return
        if part["type"] in ("python", "call"):
            yield part["text"]


def _example(values: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The first possible value of each parameter that needs one."""
    return {name: _value(options[0]) for name, options in values.items() if options[0] != "" or "" not in options[1:]}


def _value(option: Any) -> Any:
    if isinstance(option, dict):
        return _example(option)
    return [_value(one) for one in option] if isinstance(option, list) else option


def _declaration(function: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {**function, "parameters": _json_schema(function["parameters"])}}


def _json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the types of JSON schema."""
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "type" and isinstance(value, str):
            if (word := TYPES.get(value, value)) is not None:
                made[key] = word
        elif key == "properties":
            made[key] = {name: _json_schema(one) for name, one in value.items()}
        else:
            made[key] = _json_schema(value) if key == "items" and isinstance(value, dict) else value
    return made


def _checked(rows: Rows, i: int, columns: Sequence[str]) -> dict[str, Any]:
    row = rows[i]
    for name in columns:
        if not isinstance(row, dict) or not isinstance(row.get(name), list) or not row[name]:
            raise UserError(f"{rows.where(i)}: no list {name!r}", BAD_ROW)
    return row
