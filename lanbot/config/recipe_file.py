"""The recipe as a TOML file: reading with command-line overrides, error messages, writing."""

import dataclasses
import os
import tomllib
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lanbot.config.recipe import Recipe, recipe_class
from lanbot.core.errors import UsageError, UserError, did_you_mean

SHIPPED = Path(__file__).parent / "recipes"
ALIASES = {"base.depth": "model.depth"}
"""Other spellings of keys on the command line."""
KINDS = {"int": "a whole number", "float": "a number", "string": "text in quotes", "bool": "true or false"}
KINDS |= {"tuple": "a list, in brackets", "dataclass": "a section"}
"""What a value must be, by the first word of pydantic's type of error."""
BOUNDS = {"greater_than_equal": "{ge} or more", "greater_than": "more than {gt}", "less_than_equal": "{le} or less"}
BOUNDS |= {"less_than": "less than {lt}", "multiple_of": "a multiple of {multiple_of}", "finite_number": "finite"}


def load(
    source: str | Path,
    overrides: Mapping[str, str] | None = None,
    complete: Callable[[Recipe], Recipe] = lambda recipe: recipe,
) -> Recipe:
    """The resolved recipe of a file, or of a shipped recipe's name, with command-line overrides applied.

    complete: called before it is resolved, to fill in what comes from elsewhere.

    Raises UserError that names file, key and the nearest right name.
    """
    path = find(str(source))
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a TOML file: {error}", "Fix the line that it names.") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "Name a file that can be read.") from None
    kind: type[Recipe] = Recipe
    for key, text in sorted((overrides or {}).items(), key=lambda pair: pair[0] != "phases"):
        kind = _class_of(data)
        key = ALIASES.get(key, key)
        *sections, name = key.split(".")
        value, table = _parse_override(kind, key, text), data
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise UserError(f"--{key}: {section} is not a section", "See lanbot/config/recipes for examples.")
        table[name] = value
    try:
        kind = _class_of(data)
        return complete(TypeAdapter(kind).validate_python(data)).resolve()
    except ValidationError as error:
        raise _user_error(path, kind, error) from None
    except ValueError as error:
        raise UserError(f"{path}: {error}", "Fix the recipe, or override the key on the command line.") from None


def find(source: str) -> Path:
    """The recipe's file: a path, or the name of a shipped one."""
    if os.path.isfile(source):
        return Path(source)
    shipped = SHIPPED / f"{source}.toml"
    if Path(source).name == source and os.path.isfile(shipped):
        return shipped
    names = sorted(path.stem for path in SHIPPED.glob("*.toml"))
    remedy = f"Name a .toml file, or a shipped recipe: {', '.join(names)}.{did_you_mean(source, names)}"
    raise UserError(f"{source}: no such recipe", remedy)


def _class_of(data: dict[str, Any]) -> type[Recipe]:
    phases = data.get("phases")
    good = isinstance(phases, list) and all(isinstance(phase, str) for phase in phases)
    return recipe_class(tuple(phases or ())) if good else Recipe


def _user_error(path: Path, kind: type[Recipe], caught: ValidationError) -> UserError:
    """The first problem in one line: file, key, value, what is right."""
    error = caught.errors()[0]
    what, value, bounds = error["type"], error["input"], error.get("ctx", {})
    key = "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in error["loc"]).removeprefix(".")
    if what == "unexpected_keyword_argument":
        names = _keys(_kind_at(kind, error["loc"][:-1]))
        unknown = f"unknown key {key}.{did_you_mean(str(error['loc'][-1]), names)}"
        return UserError(f"{path}: {unknown}", f"Keys here: {', '.join(names)}.")
    if what in BOUNDS:
        problem = f"{key} = {value}; it must be {BOUNDS[what].format(**bounds)}"
    elif what == "value_error":
        problem = f"{key}{'.' if key else ''}{bounds['error']}"
    elif what in ("missing", "too_short", "string_too_short"):
        problem = f"{key} is {'missing' if what == 'missing' else 'empty'}"
    else:
        problem = f"{key} must be {KINDS.get(what.partition('_')[0], what)}, not {value!r}"
    return UserError(f"{path}: {problem}", "Fix the value.")


def _kind_at(kind: Any, path: Sequence[str | int]) -> Any:
    """The type of the key at `path` below a section, None if there is none; for X | None it is X."""
    for name in path:
        kind = typing.get_args(kind)[0] if isinstance(name, int) else _keys(kind).get(name)
        if type(None) in typing.get_args(kind):
            kind = typing.get_args(kind)[0]
    return kind


def _keys(section: Any) -> dict[str, Any]:
    return typing.get_type_hints(section) if dataclasses.is_dataclass(section) else {}


def _parse_override(recipe: type[Recipe], key: str, text: str) -> Any:
    """The text of `--key text` as the type that the key has."""
    path = key.split(".")
    for i, name in enumerate(path):
        keys = _keys(_kind_at(recipe, path[:i]))
        if name not in keys:
            unknown = f"unknown key {'.'.join(path[: i + 1])}.{did_you_mean(name, keys)}"
            raise UsageError(f"--{key}: {unknown}", f"Keys here: {', '.join(keys)}.")
    kind = _kind_at(recipe, path)
    if kind == tuple[str, ...]:
        return [item.strip() for item in text.split(",") if item.strip()]
    if kind not in (int, float, str, bool):
        raise UsageError(f"--{key} cannot be set on the command line", "Write it in the recipe's file.")
    try:
        return TypeAdapter(kind).validate_strings(text)
    except ValidationError:
        wanted = KINDS["string" if kind is str else kind.__name__]
        raise UsageError(f"--{key} must be {wanted}, not {text!r}", "Fix the value.") from None


def dump(recipe: Recipe) -> str:
    """TOML that `load` reads back to the same recipe. Keys that are None are left out."""
    values = dataclasses.asdict(recipe)
    lines = [f"{key} = {toml_value(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for section, keys in values.items():
        if isinstance(keys, dict):
            lines += ["", f"[{section}]", *(f"{k} = {toml_value(v)}" for k, v in keys.items() if v is not None)]
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {toml_value(v)}" for k, v in value.items() if v is not None) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return repr(value)
