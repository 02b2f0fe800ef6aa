"""What a well-formed call is, and an answer of a given form, as grammars in llguidance's dialect of lark."""

import keyword
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lanbot.chat.formats.base import CallForm
from lanbot.chat.python_values import TERMINALS, Values, as_json, literal
from lanbot.core.errors import UserError
from lanbot.tools.operations import FUNCTIONS, METHODS

Declarations = Sequence[Mapping[str, Any]]
"""Tools as `Tool.declaration` describes them."""
_EXPRESSION = r"""
expression: term (OPERATOR term)*
term: "-"? atom
atom: NUMBER | "True" | "False" | "None" | object trailer*
object: STRING | list | dict | "(" expression ")" | call
trailer: "[" expression "]" | METHOD "(" items? ")"
list: "[" items? "]"
dict: "{" (pair ("," pair)*)? "}"
pair: STRING ":" expression
items: expression ("," expression)*
OPERATOR: /[-+*\/%<>]|\*\*|\/\/|==|!=|<=|>=| in | and | or /
NUMBER: /(0|[1-9][0-9]{0,15})(\.[0-9]{1,15})?/
STRING: /"([^"\\\x00-\x1f\x7f]|\\[nrt"'\\]){0,1000}"/ | /'([^'\\\x00-\x1f\x7f]|\\[nrt"'\\]){0,1000}'/
%ignore / /
"""


def answer_grammar(
    form: CallForm | None,
    tools: Declarations = (),
    schema: Mapping[str, Any] | None = None,
    several: bool = True,
    thinks: bool = False,
) -> str:
    """A whole answer: JSON under the schema, or calls of these tools, as `form` has them; either, if both are given.

    several: it may have more calls than one, if the form can. thinks: line breaks may come first, as after a thought.
    Raises UserError for tools that cannot be called so, ValueError for a schema that is none.
    """
    kinds, rules = [], [r"BREAK: /\n{1,2}/"] if thinks else []
    if schema is not None:
        kinds.append("json")
        rules.append(f"json: {as_json(schema)}")
    if tools:
        assert form is not None
        opening, closing = term(form.opens), term(form.closes)
        kinds.append("calls")
        if form.kind == "python":
            rules += [f"calls: {opening} made {closing}", *_python_calls(tools)]
        else:
            more = f"({literal(form.between)} one)*" if several and form.between else ""
            one = f"{opening} SPACE call SPACE {closing}" if opening else "call"
            rules += [f"calls: one {more}", f"one: {one}"]
            rules += _json_calls(tools, form.arguments)
    return "\n".join([f"start: {'BREAK? ' if thinks else ''}({' | '.join(kinds)})", *rules]) + "\n"


def term(written: int | str) -> str:
    """A token by its id, or a text."""
    return f"<[{written}]>" if isinstance(written, int) else literal(written) if written else ""


def callable_in_python(function: Mapping[str, Any]) -> bool:
    """Whether the names of a function and of its parameters are names in Python."""
    names = [*function["name"].split("."), *_properties(function)]
    return all(name.isidentifier() and not keyword.iskeyword(name) for name in names)


def python_grammar(tools: Declarations, end: int | str, typed: bool = False) -> str:
    """One expression of the calculator's language in which the tools are functions with their parameters, then its end.

    A call has all required arguments, none twice: positional ones first, then keywords in the tool's order. typed: a
    tool's call is the whole expression, and its arguments are values under its schema.
    """
    known = [tool for tool in tools if callable_in_python(tool["function"])]
    methods = sorted({name for of_kind in METHODS.values() for name in of_kind})
    calls = ['FUNCTION "(" items ")"', *(() if typed else (f"call_{i}" for i in range(len(known))))]
    rules = [
        f"start: {'(expression | made)' if typed and known else 'expression'} {term(end)}",
        _EXPRESSION.strip(),
        f"METHOD: /\\.({'|'.join(methods)})/",
        f"FUNCTION: /{'|'.join(FUNCTIONS)}/",
        f"call: {' | '.join(calls)}",
    ]
    if typed:
        return "\n".join([*rules, *(_python_calls(known) if known else ())]) + "\n"
    for i, tool in enumerate(known):
        rules += _call(f"call_{i}", tool["function"], lambda _: "expression")
    return "\n".join([*rules, 'NEXT: ","']) + "\n"


def json_grammar(tools: Declarations, arguments: str, end: int | str) -> str:
    """A call as JSON: {"name": ..., arguments: {...}} of a tool, then its end.

    arguments: the key of a call's arguments.
    """
    return "\n".join([f"start: SPACE call SPACE {term(end)}", *_json_calls(tools, arguments)]) + "\n"


def _json_calls(tools: Declarations, arguments: str) -> list[str]:
    rules = [r"SPACE: /[ \n]{0,2}/", f"call: {' | '.join(f'call_{i}' for i in range(len(tools)))}"]
    for i, function in enumerate(tool["function"] for tool in tools):
        head = f'{{"name": {literal(function["name"])}, "{arguments}": '
        rules.append(f"call_{i}: {literal(head)} arguments_{i} {literal('}')}")
        rules.append(f"arguments_{i}: {as_json(_closed(function.get('parameters') or {}))}")
    return rules


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of arguments, without further ones unless it says so."""
    open_ = {"additionalProperties", "patternProperties", "$ref", "anyOf", "oneOf", "allOf"}.intersection(schema)
    return {**schema, "type": "object", **({} if open_ else {"additionalProperties": False})}


def _python_calls(tools: Declarations) -> list[str]:
    """Calls of the tools whose arguments are literal values under their schemas."""
    rules = [TERMINALS.strip(), f"made: {' | '.join(f'call_{i}' for i in range(len(tools)))}"]
    for i, function in enumerate(tool["function"] for tool in tools):
        if not callable_in_python(function):
            remedy = "Declare it with names that Python has: letters, digits and _, no keyword."
            raise UserError(f"{function['name']} cannot be called by this model, which calls in Python", remedy)
        properties = _properties(function)
        values = Values(f"value_{i}", function.get("parameters") or {})
        made = {name: values.of(schema) for name, schema in properties.items()}
        rules += [*_call(f"call_{i}", function, made.__getitem__), *values.rules]
    return rules


def _properties(function: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (function.get("parameters") or {}).get("properties") or {}
    return found


def _call(rule: str, function: Mapping[str, Any], value: Callable[[str], str]) -> list[str]:
    """The rules of one function's calls: `rule`_pN are the arguments from the Nth on, `rule`_kN by keyword only.

    value: the rule of a parameter's values.
    """
    names, required = list(_properties(function)), set((function.get("parameters") or {}).get("required") or ())
    may_end = [not required.intersection(names[n:]) for n in range(len(names) + 1)]
    rules = [f'{rule}: {literal(function["name"] + "(")} {_first(rule, names, may_end)} ")"']
    for n, parameter in enumerate(names):
        last = n + 1 == len(names)
        more = "" if last else f"NEXT {rule}_p{n + 1} | NEXT {rule}_k{n + 1}"
        named = "" if last else f"NEXT {rule}_k{n + 1}"
        rules.append(f"{rule}_p{n}: {value(parameter)} {_tail(more, may_end[n + 1])}")
        skip = "" if last or parameter in required else f" | {rule}_k{n + 1}"
        rules.append(f'{rule}_k{n}: {literal(parameter)} "=" {value(parameter)} {_tail(named, may_end[n + 1])}{skip}')
    return rules


def _first(rule: str, names: Sequence[str], may_end: Sequence[bool]) -> str:
    return "" if not names else f"({rule}_p0 | {rule}_k0){'?' if may_end[0] else ''}"


def _tail(more: str, may_end: bool) -> str:
    return f"({more}){'?' if may_end else ''}" if more else ""
