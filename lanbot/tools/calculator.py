"""One Python expression written by a model, evaluated in the host by walking its syntax tree.

Nothing is compiled or run as code: what the walk does not know has no value. Every value is bounded before
it is built, so that no text can occupy the host or fill its memory.
"""

import ast
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from types import MappingProxyType
from typing import Any

from lanbot.core.errors import Stopped
from lanbot.tools.operations import COMPARISONS, FUNCTIONS, METHODS, UNARY, ExpressionError, binary, collection, size

# No syntax repeats anything, so the source also bounds the nodes evaluated: never more than its characters.
MAX_SOURCE = 2_000
# A level takes up to five interpreter frames, of which Python allows 1,000 in all.
MAX_DEPTH = 60
# In the unit of `size`, over all the values of one evaluation. A value has one consumer, so this bounds the time.
MAX_WORK = 250_000
# What the model reads back takes room in its context.
MAX_ANSWER = 2_000

_LANGUAGE = (
    *(ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare),
    *(ast.IfExp, ast.Subscript, ast.Slice, ast.Call, ast.keyword, ast.Attribute, ast.Name, ast.expr_context),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)
_CUT = "... [cut]"
_NO_FUNCTIONS: Mapping[str, Callable[..., object]] = MappingProxyType({})
_THOUSANDS = re.compile(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?![\w,])")


def evaluate(code: str, functions: Mapping[str, Callable[..., object]] = _NO_FUNCTIONS) -> object:
    """The value of the expression `code`, which may call `functions` by name.

    Raises ExpressionError if it is not a single expression, uses what is not allowed, fails or is too large, and if a
    function that it called raised anything but lanbot.core.errors.Stopped.
    """
    code = code.strip()
    if not code:
        raise ExpressionError("empty expression")
    if len(code) > MAX_SOURCE:
        raise ExpressionError(f"too long: {len(code):,} characters of at most {MAX_SOURCE:,}")
    try:
        with warnings.catch_warnings():  # of Python, about what a model wrote
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(code, mode="eval")
        _refuse_thousands(tree, code)
    except SyntaxError as error:
        raise ExpressionError(f"not a single Python expression: {error.msg}") from None
    except ValueError as error:  # NUL bytes, surrogates
        raise ExpressionError(f"not a single Python expression: {error}") from None
    except (RecursionError, MemoryError):
        raise ExpressionError("too deeply nested") from None
    try:
        return _Walk(functions).value(tree.body)
    except ZeroDivisionError:
        raise ExpressionError("division by zero") from None
    except (OverflowError, MemoryError):
        raise ExpressionError("too large") from None
    except RecursionError:
        raise ExpressionError("too deeply nested") from None
    except KeyError as error:
        raise ExpressionError(f"no such key: {error}") from None
    except (TypeError, ValueError, IndexError) as error:
        # Python's own words; the names of the checked functions lose their underscore.
        raise ExpressionError(str(error).removeprefix("_")) from None


def _refuse_thousands(tree: ast.Expression, code: str) -> None:
    """Raises ExpressionError for 1,100 * 2, which Python takes for the tuple (1, 200).

    Only where a tuple is the whole expression or an operand: elsewhere it may well be meant.
    """
    found = _THOUSANDS.search(code)
    if found is None:
        return
    places: list[ast.AST] = [tree, *(node for node in ast.walk(tree) if isinstance(node, (ast.BinOp, ast.Compare)))]
    if any(isinstance(node, ast.Tuple) for place in places for node in ast.iter_child_nodes(place)):
        raise ExpressionError(f"no commas in numbers: {found[0].replace(',', '')}, not {found[0]}")


def is_calculation(code: str, functions: Iterable[str] = ()) -> bool:
    """Whether the code is in the language of `evaluate`, right or wrong: anything else is a program."""
    try:
        nodes = list(ast.walk(ast.parse(code.strip()[: MAX_SOURCE + 1], mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return names <= {*functions, *FUNCTIONS} and all(isinstance(node, _LANGUAGE) for node in nodes)


def answer(code: str, functions: Mapping[str, Callable[..., object]] = _NO_FUNCTIONS) -> str:
    """What the model reads back: the value as text or "error: <why>", at most MAX_ANSWER characters.

    Raises nothing but a function's lanbot.core.errors.Stopped.
    """
    try:
        text = format_value(evaluate(code, functions))
    except ExpressionError as error:
        text = f"error: {error}"
    except Stopped:
        raise
    except Exception as error:  # of the text of an object that a function returned
        text = f"error: the value cannot be shown ({type(error).__name__})"
    if len(text) > MAX_ANSWER:
        text = text[: MAX_ANSWER - len(_CUT)] + _CUT
    return text.encode(errors="replace").decode()  # a function may return surrogates, say in a file's name


def format_value(value: object, nested: bool = False) -> str:
    """`value` as text: 24 for 24.0, strings as they are, everything else as repr shows it.

    Floats have 10 significant digits, large ones as many as are exact. Raises ExpressionError for a float that is not
    finite.
    """
    if isinstance(value, str):
        return repr(value) if nested else value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ExpressionError("not a finite number")
        if value.is_integer():
            return str(int(value))
        # 10 digits would cut the cents of a hundred million, and 15 the units of a quadrillion.
        return f"{value:.10g}" if abs(value) < 1e8 else f"{value:.15g}" if abs(value) < 1e15 else repr(value)
    if isinstance(value, dict):
        items = (f"{format_value(key, True)}: {format_value(item, True)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(format_value(item, True) for item in value) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(format_value(item, True) for item in value) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


_SYMBOLS: dict[type[ast.AST], str] = {ast.Starred: "*", ast.NamedExpr: ":=", ast.UnaryOp: "~"}


class _Walk:
    """One evaluation: the tools' functions, and how much work and nesting has been used."""

    def __init__(self, functions: Mapping[str, Callable[..., object]]) -> None:
        self.functions = functions
        self.work = 0
        self.depth = 0

    def value(self, node: ast.expr) -> Any:
        """The value of `node`, within the bounds. Raises ExpressionError, and what Python raises."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ExpressionError("too deeply nested")
        value = self.bounded(self.visit(node))
        self.depth -= 1
        return value

    def bounded(self, value: Any) -> Any:
        self.work += size(value)
        if self.work > MAX_WORK:
            raise ExpressionError("too large: all the values of the expression together")
        return value

    def visit(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=str() as text):
                text.encode()  # raises ValueError for a surrogate, which could not be written anywhere
                return text
            case ast.Constant(value=bool() | int() | float() | None):
                return node.value
            case ast.Constant():
                raise ExpressionError(f"{type(node.value).__name__} is not allowed here")
            case ast.List():
                return [self.value(item) for item in node.elts]
            case ast.Tuple():
                return tuple([self.value(item) for item in node.elts])
            case ast.Dict():
                return self.dictionary(node)
            case ast.BinOp():
                return self.chain(node)
            case ast.UnaryOp() if type(node.op) in UNARY:
                return UNARY[type(node.op)](self.value(node.operand))
            case ast.BoolOp():
                stop = isinstance(node.op, ast.Or)
                for operand in node.values:
                    value = self.value(operand)
                    if bool(value) is stop:
                        break
                return value
            case ast.Compare():
                return self.compare(node)
            case ast.IfExp():
                return self.value(node.body if self.value(node.test) else node.orelse)
            case ast.Subscript():
                return collection(self.value(node.value))[self.subscript(node.slice)]
            case ast.Call():
                return self.call(node)
            case ast.Name(id=name) if name in self.functions or name in FUNCTIONS:
                raise ExpressionError(f"{name} is a function: call it, {name}(...)")
            case ast.Name(id=name):
                raise self.unknown(name)
        raise ExpressionError(f"{_SYMBOLS.get(type(node), type(node).__name__)} is not allowed here")

    def unknown(self, name: str) -> ExpressionError:
        near = get_close_matches(name, [*self.functions, *FUNCTIONS], 1, cutoff=0.7)
        return ExpressionError(f"unknown name '{name}'" + (f"; did you mean {near[0]}?" if near else ""))

    def dictionary(self, node: ast.Dict) -> dict[Any, Any]:
        result = {}
        for key, item in zip(node.keys, node.values, strict=True):
            if key is None:
                raise ExpressionError("** is not allowed here")
            result[self.value(key)] = self.value(item)
        return result

    def chain(self, node: ast.BinOp) -> Any:
        """1 + 2 + ... + 100 nests to the left; evaluated as the flat list that it looks like."""
        steps: list[ast.BinOp] = []
        left: ast.expr = node
        while isinstance(left, ast.BinOp):
            steps.append(left)
            left = left.left
        value = self.visit(left)
        for step in reversed(steps):
            value = binary(step.op, self.bounded(value), self.value(step.right))
        return value  # bounded by the caller, as every visit is

    def compare(self, node: ast.Compare) -> Any:
        left, result = self.value(node.left), True
        for op, operand in zip(node.ops, node.comparators, strict=True):
            right = self.value(operand)
            if isinstance(op, (ast.Is, ast.IsNot)) and left is not None and right is not None:
                raise ExpressionError("'is' compares with None only; use ==")
            result = COMPARISONS[type(op)](left, right)
            if not result:
                break
            left = right
        return result

    def subscript(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Slice):
            return slice(*[part and self.value(part) for part in (node.lower, node.upper, node.step)])
        return self.value(node)

    def call(self, node: ast.Call) -> Any:
        """The value of a call. Whatever a tool's function raises becomes an ExpressionError."""
        match node.func:
            case ast.Name(id=name) if name in self.functions or name in FUNCTIONS:
                function = self.functions[name] if name in self.functions else FUNCTIONS[name]
            case ast.Name(id=name):
                raise self.unknown(name)
            case ast.Attribute(attr=name):
                receiver = self.value(node.func.value)
                methods = METHODS.get(type(receiver), {})
                if name not in methods:
                    raise ExpressionError(f"{type(receiver).__name__} has no method '{name}' here")
                function = partial(methods[name], receiver)
            case _:
                raise ExpressionError("only functions and methods can be called")
        builtin = isinstance(node.func, ast.Attribute) or name not in self.functions
        args = [self.value(arg) for arg in node.args]
        keywords: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise ExpressionError("** is not allowed here")
            # Python's functions take others, such as max(key=...), which the checks do not cover.
            if keyword.arg in keywords or (builtin and (name, keyword.arg) != ("sorted", "reverse")):
                raise ExpressionError(f"unknown or repeated keyword '{keyword.arg}' of {name}")
            keywords[keyword.arg] = self.value(keyword.value)
        if builtin:
            return function(*args, **keywords)
        try:
            return function(*args, **keywords)
        except (ExpressionError, Stopped):
            raise
        except Exception as error:
            raise ExpressionError(str(error) or type(error).__name__) from error
