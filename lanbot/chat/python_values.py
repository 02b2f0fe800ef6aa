"""Values in Python that fit a JSON schema, as rules of a grammar in llguidance's dialect of lark."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

TERMINALS = r"""
value: TEXT | DECIMAL | "True" | "False" | "None" | values | mapping
values: "[" (value (NEXT value)*)? "]"
mapping: "{" (item (NEXT item)*)? "}"
item: TEXT COLON value
NEXT: /, ?/
COLON: /: ?/
INTEGER: /-?(0|[1-9][0-9]{0,15})/
DECIMAL: /-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,15})?/
TEXT: /"([^"\\\x00-\x1f\x7f]|\\[nrt"'\\])*"/ | /'([^'\\\x00-\x1f\x7f]|\\[nrt"'\\])*'/
"""
WRITTEN = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
    "json_allowed_escapes": 'nrbtf\\"',
}
"""How JSON is written: spaced as chat templates do, without halves of surrogate pairs. `oneOf` is read as `anyOf`."""
MOST_RULES = 10_000
BOUNDS = {
    "string": ("pattern", "format", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
BOUNDS["integer"] = BOUNDS["number"]
PLAIN = {
    "string": "TEXT",
    "integer": "INTEGER",
    "number": "DECIMAL",
    "boolean": '("True" | "False")',
    "null": '"None"',
}


def as_json(schema: Mapping[str, Any]) -> str:
    """JSON under a schema, as the body of a rule. Raises ValueError for numbers that are none."""
    return f"%json {json.dumps({**schema, 'x-guidance': WRITTEN}, allow_nan=False)}"


def literal(text: str) -> str:
    """A text, as a grammar writes it."""
    return json.dumps(text)


def quoted(value: Any) -> str:
    """A value as Python writes it; a text in either kind of quotes."""
    if not isinstance(value, str):
        return literal(repr(value))
    return f"({literal(repr(value))} | {literal(json.dumps(value, ensure_ascii=False))})"


class Values:
    """Rules for the values of a schema, named after `name`. root: the schema that `$ref` points into.

    Types, const, enum, anyOf, items, properties with those that are required, and bounds of texts and numbers hold;
    other keywords do not, and an object has no further properties.
    """

    def __init__(self, name: str, root: Mapping[str, Any]) -> None:
        self.name, self.root = name, root
        self.rules: list[str] = []
        self._references: dict[str, str] = {}

    def of(self, schema: Any) -> str:
        """What matches a value of this schema. Raises ValueError for a reference that leads nowhere, and for a schema
        that is too large."""
        if not isinstance(schema, Mapping):
            return "value"
        if isinstance(schema.get("$ref"), str):
            return self._reference(schema["$ref"])
        if "const" in schema:
            return quoted(schema["const"])
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return self._rule(" | ".join(map(quoted, schema["enum"])), terminal=True)
        for key in ("anyOf", "oneOf", "allOf"):
            among = schema.get(key)
            if isinstance(among, list) and among and (key != "allOf" or len(among) == 1):
                return _any(self.of(one) for one in among)
        kind = schema.get("type")
        if isinstance(kind, list) and kind:
            return _any(self.of({**schema, "type": one}) for one in dict.fromkeys(kind))
        if kind == "array":
            return self._array(schema)
        if kind == "object":
            return self._object(schema)
        if bounds := {key: schema[key] for key in BOUNDS.get(str(kind), ()) if key in schema}:
            return self._rule(as_json({"type": kind, **bounds}))
        return PLAIN.get(str(kind), "value")

    def _rule(self, body: str, terminal: bool = False) -> str:
        """terminal: its texts are one word for the parser, however many they are."""
        if len(self.rules) >= MOST_RULES:
            raise ValueError(f"more than {MOST_RULES:,} kinds of values")
        name = f"{self.name}_{len(self.rules)}"
        name = name.upper() if terminal else name
        self.rules.append(f"{name}: {body}")
        return name

    def _reference(self, path: str) -> str:
        if path not in self._references:
            if path != "#" and not path.startswith("#/"):
                raise ValueError(f"$ref {path[:100]!r} leads elsewhere")
            found: Any = self.root
            for step in path.removeprefix("#").split("/")[1:]:
                found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
            if found is None:
                raise ValueError(f"$ref {path[:100]!r} leads nowhere")
            name = self._references[path] = f"{self.name}_r{len(self._references)}"
            self.rules.append(f"{name}: {self.of(found)}")
        return self._references[path]

    def _array(self, schema: Mapping[str, Any]) -> str:
        if schema.get("items") is False:
            return literal("[]")
        item, least, most = self.of(schema.get("items")), schema.get("minItems", 0), schema.get("maxItems")
        if most == 0:
            return literal("[]")
        least = least if isinstance(least, int) else 0
        more = f"(NEXT {item}){{{max(0, least - 1)},{most - 1 if isinstance(most, int) else ''}}}"
        return self._rule(f'"[" {item} {more} "]"' if least > 0 else f'"[" ({item} {more})? "]"')

    def _object(self, schema: Mapping[str, Any]) -> str:
        properties, required = schema.get("properties"), schema.get("required") or ()
        if not isinstance(properties, Mapping) or not properties:
            further = schema.get("additionalProperties")
            if further is False:
                return literal("{}")
            pair = f"TEXT COLON {self.of(further)}"
            return self._rule(f'"{{" ({pair} (NEXT {pair})*)? "}}"')
        rest, may_be_empty = "", True
        firsts: list[str] = []  # what may come first
        for name, one in reversed(list(properties.items())):
            entry = self._rule(f"{quoted(name)} COLON {self.of(one)}")
            if name in required:
                firsts, may_be_empty = [], False
            firsts.append(f"{entry} {rest}")
            rest = self._rule(f"NEXT {entry} {rest}" if name in required else f"(NEXT {entry})? {rest}")
        return self._rule(f'"{{" {_any(firsts)}{"?" if may_be_empty else ""} "}}"')


def _any(alternatives: Iterable[str]) -> str:
    return f"({' | '.join(alternatives)})"
