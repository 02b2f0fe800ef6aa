"""What a well-formed call is, as a grammar in llguidance's dialect of lark."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lanbot.tools.operations import FUNCTIONS, METHODS

Declarations = Sequence[Mapping[str, Any]]
"""Tools as `Tool.declaration` describes them."""
_EXPRESSION = r"""
start: expression
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


def python_grammar(tools: Declarations) -> str:
    """One expression of the calculator's language in which the tools are functions with their parameters.

    A call has all required arguments, none twice: positional ones first, then keywords in the tool's order.
    """
    methods = sorted({name for of_kind in METHODS.values() for name in of_kind})
    rules = [_EXPRESSION.strip(), f"METHOD: /\\.({'|'.join(methods)})/"]
    calls = ['FUNCTION "(" items ")"', *(f"call_{i}" for i in range(len(tools)))]
    rules += [f"FUNCTION: /{'|'.join(FUNCTIONS)}/", f"call: {' | '.join(calls)}"]
    for i, function in enumerate(tool["function"] for tool in tools):
        rules += _call(f"call_{i}", function["name"], function.get("parameters", {}))
    return "\n".join(rules) + "\n"


def _call(rule: str, name: str, schema: Mapping[str, Any]) -> list[str]:
    """The rules of one function's calls: `rule`_pN are the arguments from the Nth on, `rule`_kN by keyword only."""
    names, required = list(schema.get("properties", {})), set(schema.get("required", ()))
    may_end = [not required.intersection(names[n:]) for n in range(len(names) + 1)]
    rules = [f'{rule}: "{name}(" {_first(rule, names, may_end)} ")"']
    for n, parameter in enumerate(names):
        last = n + 1 == len(names)
        more = "" if last else f'"," {rule}_p{n + 1} | "," {rule}_k{n + 1}'
        named = "" if last else f'"," {rule}_k{n + 1}'
        rules.append(f"{rule}_p{n}: expression {_tail(more, may_end[n + 1])}")
        skip = "" if last or parameter in required else f" | {rule}_k{n + 1}"
        rules.append(f'{rule}_k{n}: "{parameter}" "=" expression {_tail(named, may_end[n + 1])}{skip}')
    return rules


def _first(rule: str, names: Sequence[str], may_end: Sequence[bool]) -> str:
    return "" if not names else f"({rule}_p0 | {rule}_k0){'?' if may_end[0] else ''}"


def _tail(more: str, may_end: bool) -> str:
    return f"({more}){'?' if may_end else ''}" if more else ""


def json_grammar(tools: Declarations, arguments: str, closing: str = "") -> str:
    """A call as JSON: {"name": ..., arguments: {...}} of a tool, then the closing text.

    arguments: the key of a call's arguments.
    """
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": one["name"]}, arguments: one.get("parameters", {"type": "object"})},
            "required": ["name", arguments],
            "additionalProperties": False,
        }
        for one in (tool["function"] for tool in tools)
    ]
    end = f" {json.dumps(closing)}" if closing else ""
    written = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # as chat templates do
    schema = json.dumps({"anyOf": calls, "x-guidance": written})
    return f"start: SPACE call SPACE{end}\nSPACE: /[ \\n]{{0,2}}/\ncall: %json {schema}\n"
