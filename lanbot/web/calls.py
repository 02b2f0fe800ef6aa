"""The calls of a model that the client answers, and those that the server does.

A call of a function that the client declared is the client's; a calculator's expression is answered here, as the run's
own tools would; anything else is an error that the model reads.
"""

import ast
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lanbot.chat.messages import Part
from lanbot.chat.turns import PYTHON, by_name
from lanbot.core.jsonl import half_pair
from lanbot.tools.calculator import answer, evaluate, is_calculation
from lanbot.tools.operations import ExpressionError
from lanbot.tools.tool import Tool, ToolError


class ToolCall(NamedTuple):
    """A call that the client answers. arguments: as JSON."""

    id: str
    name: str
    arguments: str


class ClientTools:
    """The functions that a request declares, as OpenAI's API does. several: an answer may call more than one."""

    def __init__(self, declarations: Sequence[Mapping[str, Any]] = (), several: bool = True) -> None:
        self.several = several
        functions = [tool["function"] for tool in declarations]
        self.declarations = list(declarations)
        self.tools = {
            one["name"]: Tool(one["name"], "", one.get("parameters") or {}, lambda **_: None) for one in functions
        }

    def of_part(self, part: Part) -> ToolCall | None:
        """A call by name, if it is the client's and JSON can express it."""
        named = by_name(part)
        try:
            return _made(named["name"], named["arguments"]) if named["name"] in self.tools else None
        except ValueError:  # NaN, or a number beyond any
            return None

    def of_code(self, code: str) -> ToolCall | str:
        """A call in Python: the client's, or what the model reads instead."""
        try:
            node = ast.parse(code.strip(), mode="eval").body
            if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in self.tools:
                values = [_value(argument) for argument in node.args]
                keywords = {keyword.arg or "**": _value(keyword.value) for keyword in node.keywords}
                return _made(name, self.tools[name].bind(values, keywords))
        except (ToolError, ExpressionError, TypeError) as error:
            return f"error: {error}"
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass  # no expression
        if PYTHON in self.tools and not is_calculation(code):
            return _made(PYTHON, {"code": code})
        return answer(code)


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return evaluate(ast.unparse(node))


def _made(name: str, arguments: Mapping[str, Any]) -> ToolCall:
    """Raises TypeError or ValueError for arguments that JSON cannot express."""
    written = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    if half_pair(written):  # which is not text, unless it is spelled out
        written = json.dumps(arguments, allow_nan=False)
    return ToolCall(f"call_{uuid.uuid4().hex[:24]}", name, written)
