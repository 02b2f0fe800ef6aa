"""The form that a request asks of its answer: JSON, or a call that must be made; and the grammar of it, within bounds.

Compiling is llguidance's, whose own limits bound memory and time, but for two things: deep schemas, which it refuses
itself, and `multipleOf`, whose automaton has as many states as the number.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field

from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.grammar import answer_grammar
from lanbot.core.errors import UserError
from lanbot.inference.constraint import AnswerConstraint, CallConstraint, Constraint
from lanbot.web.errors import ApiError
from lanbot.web.fields import Body

MOST_SCHEMA = 65_536
"""Characters of a schema, or of all tools of which one must be called; 300 ms to compile at most, on one core."""
MOST_MULTIPLE = 10_000
"""The least common multiple of a schema's `multipleOf`, in units of their last digit."""


@dataclass(frozen=True)
class Form:
    """schema: the text is JSON under it. calls: the answer is a call of one of these functions. several: of more than
    one. strict: calls of functions are under their schemas. field: of the request, for errors."""

    schema: Mapping[str, Any] | None = None
    calls: tuple[str, ...] = ()
    several: bool = True
    strict: bool = False
    field: str = "response_format"


class PlainText(Body):
    type: Literal["text"]


class JsonObject(Body):
    type: Literal["json_object"]

    @property
    def asked(self) -> Mapping[str, Any]:
        return {"type": "object"}


class Schema(Body):
    """strict: true or false, the answer is under the schema."""

    name: str | None = Field(None, max_length=128)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class JsonSchema(Body):
    type: Literal["json_schema"]
    json_schema: Schema

    @property
    def asked(self) -> Mapping[str, Any]:
        return self.json_schema.schema_ or {}


class FlatSchema(Schema):
    type: Literal["json_schema"]

    @property
    def asked(self) -> Mapping[str, Any]:
        return self.schema_ or {}


ResponseFormat = Annotated[PlainText | JsonObject | JsonSchema, Field(discriminator="type")]
TextFormat = Annotated[PlainText | JsonObject | FlatSchema, Field(discriminator="type")]


def asked_form(
    form: PlainText | JsonObject | JsonSchema | FlatSchema | None,
    choice: str | Mapping[str, Any] | None,
    tools: Sequence[str],
    several: bool | None,
    strict: bool,
    field: str = "response_format",
) -> Form:
    """choice: auto, none, required, or {"name"} or {"function": {"name"}} of one of the tools. Raises ApiError."""
    calls: tuple[str, ...] = ()
    if choice == "required":
        calls = tuple(tools)
        if not calls:
            raise ApiError(400, "tool_choice: no tools to choose from", "tool_choice")
    elif isinstance(choice, Mapping):
        inner = choice.get("function", choice)
        name = inner.get("name") if isinstance(inner, Mapping) else None
        if not isinstance(name, str) or name not in tools:
            raise ApiError(400, "tool_choice: auto, none, required, or the name of one of the tools", "tool_choice")
        calls = (name,)
    schema = None if form is None or isinstance(form, PlainText) else form.asked
    return Form(schema, calls, several is not False, strict, "tool_choice" if calls else field)


def constraint_of(
    chat_format: ChatFormat, form: Form, tools: Sequence[Mapping[str, Any]], thinks: bool
) -> Constraint | None:
    """The constraint of an answer; None if any answer will do. It may take a second. Raises ApiError.

    tools: all that are declared; with a schema, a call of one of them is an answer too.
    """
    if form.schema is None and not form.calls and not (form.strict and tools):
        return None
    called = [tool for tool in tools if not form.calls or tool["function"]["name"] in form.calls]
    schema, calls = (None if form.calls else form.schema), chat_format.call_form
    field = form.field if form.schema is not None or form.calls else "tools"
    try:
        if schema is None and not form.calls:
            _check({"tools": [tool["function"] for tool in called]})
            bound = CallConstraint(chat_format, called, typed=True)
            if bound.problem:
                raise UserError(bound.problem, "Declare the functions without strict.")
            return bound
        if called and calls is None:
            raise UserError("this model has no way to call functions", "Leave the tools out.")
        if called and schema is not None and not isinstance(calls and calls.opens, int):
            raise UserError("this model's calls look like text", "Ask for a form, or declare tools.")
        _check(schema if schema is not None else {"tools": [tool["function"] for tool in called]})
        grammar = answer_grammar(calls, called, schema, form.several, thinks)
        return AnswerConstraint(chat_format, grammar, thinks, calls=bool(called))
    except UserError as error:
        raise ApiError(400, f"{field}: {error.problem}. {error.remedy}", field) from None
    except (ArithmeticError, AttributeError, RecursionError, TypeError, ValueError) as error:
        raise ApiError(400, f"{field}: not a JSON schema: {str(error)[:200]}", field) from None


def _check(schema: Mapping[str, Any]) -> None:
    """Raises UserError for a schema that is too large to be compiled."""
    if len(json.dumps(schema)) > MOST_SCHEMA:
        raise UserError(f"a schema of more than {MOST_SCHEMA:,} characters", "Ask for a simpler form.")
    multiples = {Decimal(str(value)) for value in _found(schema) if isinstance(value, int | float) and value}
    digits = max((-int(one.as_tuple().exponent) for one in multiples if one.is_finite()), default=0)
    whole = [abs(int(one.scaleb(max(0, digits)))) for one in multiples if one.is_finite()]
    if whole and math.lcm(*whole) > MOST_MULTIPLE:
        raise UserError("multipleOf: numbers with too large a common multiple", "Leave it out.")


def _found(schema: Any) -> Iterator[Any]:
    """The values of multipleOf in a schema."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key == "multipleOf":
                yield value
            yield from _found(value)
    elif isinstance(schema, list):
        for one in schema:
            yield from _found(one)
