"""One Python expression written by a model, evaluated in the host by walking its syntax tree.

Nothing is compiled or run as code: what the walk does not know has no value. Every value is bounded before
it is built, so that no text can hold the host up or fill its memory.
"""

import ast
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from types import MappingProxyType
from typing import Any

from lanbot.core.errors import Stopped

# No syntax repeats anything, so the source also bounds the nodes evaluated: never more than its characters.
MAX_SOURCE = 2_000
# A level takes up to five interpreter frames, of which Python allows 1,000 in all.
MAX_DEPTH = 60
# 1,233 digits: beyond what anybody asks for, and under the 4,300 that Python agrees to turn into text.
MAX_BITS = 4_096
# Characters of a string. An element of a collection, or of an element, counts as several, because handling it
# costs as much: the slowest evaluations found then take 20 ms.
MAX_SIZE = 100_000
ELEMENT = 4
# The same unit, over all the values of one evaluation. A value has one consumer, so this bounds the time.
MAX_WORK = 250_000
# What the model reads back takes room in its context.
MAX_ANSWER = 2_000

_CUT = "... [cut]"
_TOO_MANY_BITS = f"too large: an integer of more than {MAX_BITS:,} bits"
_NO_FUNCTIONS: Mapping[str, Callable[..., object]] = MappingProxyType({})


class ExpressionError(Exception):
    """Why an expression has no value, in words that help the model to mend it."""


def evaluate(code: str, functions: Mapping[str, Callable[..., object]] = _NO_FUNCTIONS) -> object:
    """The value of the expression `code`, which may call `functions` by name.

    Raises ExpressionError: it is no single expression, uses what is not allowed, fails, is too large, or a
    function that it called raised. Only lanbot.core.errors.Stopped, raised by a function, passes through.
    """
    code = code.strip()
    if not code:
        raise ExpressionError("empty expression")
    if len(code) > MAX_SOURCE:
        raise ExpressionError(f"too long: {len(code):,} characters of at most {MAX_SOURCE:,}")
    try:
        with warnings.catch_warnings():  # Python's advice on what a model wrote is for nobody
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(code, mode="eval")
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
        # Python's own words; the names of the bounded stand-ins below lose their underscore.
        raise ExpressionError(str(error).removeprefix("_")) from None


def answer(code: str, functions: Mapping[str, Callable[..., object]] = _NO_FUNCTIONS) -> str:
    """What the model reads back: the value as text or "error: <why>", at most MAX_ANSWER characters.

    Raises nothing of its own; a function's lanbot.core.errors.Stopped passes through.
    """
    text = ""
    try:
        for piece in _pieces(evaluate(code, functions)):
            text += piece
            if len(text) > MAX_ANSWER:  # the rest would be cut
                break
    except ExpressionError as error:
        text = f"error: {error}"
    except Stopped:
        raise
    except Exception as error:  # the text of an object that a function returned
        text = f"error: the value cannot be shown ({type(error).__name__})"
    if len(text) > MAX_ANSWER:
        text = text[: MAX_ANSWER - len(_CUT)] + _CUT
    return text.encode(errors="replace").decode()  # a function may bring surrogates, say in a file's name


def format_value(value: object) -> str:
    """`value` as text: 24 for 24.0, floats to 10 significant digits, strings as they are, the rest by repr.

    Raises ExpressionError: a float that is not finite.
    """
    return "".join(_pieces(value))


def _pieces(value: object, nested: bool = False) -> Iterator[str]:
    """The text of `value`, piece by piece, so that a long one need not be built to be cut."""
    if isinstance(value, str):
        yield repr(value) if nested else value
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ExpressionError("not a finite number")
        yield str(int(value)) if value.is_integer() else f"{value:.10g}"
    elif isinstance(value, dict):
        yield "{"
        for i, (key, item) in enumerate(value.items()):
            yield ", " if i else ""
            yield from _pieces(key, nested=True)
            yield ": "
            yield from _pieces(item, nested=True)
        yield "}"
    elif isinstance(value, (list, tuple)):
        yield "[" if isinstance(value, list) else "("
        for i, item in enumerate(value):
            yield ", " if i else ""
            yield from _pieces(item, nested=True)
        yield "]" if isinstance(value, list) else ",)" if len(value) == 1 else ")"
    else:
        yield repr(value)


def _size(value: object) -> int:
    """The characters of `value`, or the weight of its elements, a shared one counted each time.

    Raises ExpressionError: more than MAX_SIZE, an integer over MAX_BITS, or a float that is not finite.
    """
    total, rest = -ELEMENT, [value]  # the value itself is no element
    while rest:
        item = rest.pop()
        total += ELEMENT
        if isinstance(item, (str, bytes)):
            total += len(item)
        elif isinstance(item, int):
            if item.bit_length() > MAX_BITS:
                raise ExpressionError(_TOO_MANY_BITS)
            total += item.bit_length() // 16  # its digits beyond a few
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise ExpressionError("too large: not a finite number")
        elif isinstance(item, (list, tuple, dict)):
            rest.extend(item)
            if isinstance(item, dict):
                rest.extend(item.values())
            _check_size(total + ELEMENT * len(rest))  # here, so that a list that holds itself ends too
    _check_size(total)
    return total


def _check_size(size: int) -> None:
    if size > MAX_SIZE:
        limit = f"{MAX_SIZE:,} characters or {MAX_SIZE // ELEMENT:,} elements"
        raise ExpressionError(f"too large: a value of more than {limit}")


# --- operators


def _binary(op: ast.operator, left: Any, right: Any) -> Any:
    """`left op right`, its size checked first. Raises ExpressionError, and what Python raises."""
    if type(op) not in _ARITHMETIC:
        raise ExpressionError(f"{type(op).__name__} is not allowed here, only + - * / // % **")
    symbol, compute = _ARITHMETIC[type(op)]
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return compute(left, right)
    if symbol == "+" and type(left) is type(right) and isinstance(left, (str, list, tuple)):
        _check_size(_size(left) + _size(right))
        return left + right
    if symbol == "*" and isinstance(left, int):
        left, right = right, left
    if symbol == "*" and isinstance(left, (str, list, tuple)) and isinstance(right, int):
        _check_size(_size(left) * max(0, right))
        return left * right
    raise ExpressionError(f"{symbol} does not work on {type(left).__name__} and {type(right).__name__}")


def _multiply(left: Any, right: Any) -> Any:
    # A product has this many bits or one more, and the one more is seen in the check of every result.
    integers = isinstance(left, int) and isinstance(right, int)
    if integers and left.bit_length() + right.bit_length() - 1 > MAX_BITS:
        raise ExpressionError(_TOO_MANY_BITS)
    return left * right


def _power(base: Any, exponent: Any) -> Any:
    integers = isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1
    if integers and (exponent > MAX_BITS or exponent * math.log2(abs(base)) > MAX_BITS):
        raise ExpressionError(_TOO_MANY_BITS)
    result = base**exponent
    if isinstance(result, complex):
        raise ExpressionError("a negative number to a fractional power is not real")
    return result


def _contains(item: Any, items: Any) -> bool:
    return item in _collection(items)


_ARITHMETIC: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", _multiply),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
    ast.Pow: ("**", _power),
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: _contains,
    ast.NotIn: lambda item, items: not _contains(item, items),
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}


# --- functions and methods: those of Python, behind a check where they could take long or grow


def _collection(value: Any) -> Any:
    if not isinstance(value, (str, list, tuple, dict)):
        raise ExpressionError(f"a string, list, tuple or dict is needed, not {type(value).__name__}")
    return value


def _of_items(function: Callable[..., Any], *values: Any, **keywords: Any) -> Any:
    if len(values) == 1:  # more are the values themselves, max(1, 2), or for Python to refuse
        _collection(values[0])
    return function(*values, **keywords)


def _number(kind: Callable[..., Any], value: Any, *base: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_BITS:  # the digits of the largest integer in base 2
        raise ExpressionError(_TOO_MANY_BITS)
    return kind(value, *base)


def _round(number: Any, ndigits: Any = None) -> Any:
    if isinstance(ndigits, int) and abs(ndigits) > MAX_BITS:  # round(1, -n) computes 10**n
        raise ExpressionError(f"too large: round to {ndigits:.3g} digits")
    return round(number, ndigits)


def _sum(values: Any, start: Any = 0) -> Any:
    # Numbers only: Python adds lists in quadratic time.
    if not all(isinstance(value, (int, float)) for value in (start, *_collection(values))):
        raise ExpressionError("sum works on numbers")
    return sum(values, start)


def _strip(strip: Callable[..., str], text: str, *characters: Any) -> str:
    if characters and isinstance(characters[0], str):
        _check_size(len(text) * len(characters[0]))  # Python looks each one up in the other
    return strip(text, *characters)


def _replace(text: str, old: Any, new: Any, count: Any = -1) -> str:
    found = text.count(old)
    _check_size(len(text) + (found if count < 0 else min(found, count)) * (len(new) - len(old)))
    return text.replace(old, new, count)


def _join(text: str, items: Any) -> str:
    lengths = [len(item) for item in _collection(items) if isinstance(item, str)]
    _check_size(sum(lengths) + len(text) * max(0, len(lengths) - 1))
    return text.join(items)


def _zfill(text: str, width: Any) -> str:
    if isinstance(width, int):
        _check_size(width)
    return text.zfill(width)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{function.__name__: partial(_of_items, function) for function in (len, list, max, min, sorted)},
    **{kind.__name__: partial(_number, kind) for kind in (float, int)},
    "abs": abs,
    "round": _round,
    "str": str,
    "sum": _sum,
}
_PLAIN = "capitalize count endswith find index isalpha isdigit lower split splitlines startswith title upper"
_METHODS: dict[type, dict[str, Callable[..., Any]]] = {
    str: {
        **{name: getattr(str, name) for name in _PLAIN.split()},
        **{name: partial(_strip, getattr(str, name)) for name in ("strip", "lstrip", "rstrip")},
        "join": _join,
        "replace": _replace,
        "zfill": _zfill,
    },
    list: {"count": list.count, "index": list.index},
}
_SYMBOLS: dict[type[ast.AST], str] = {ast.Starred: "*", ast.NamedExpr: ":=", ast.UnaryOp: "~"}


class _Walk:
    """One evaluation: the functions of the harness, and how much work and nesting is used up."""

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
        self.work += _size(value)
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
            case ast.UnaryOp() if type(node.op) in _UNARY:
                return _UNARY[type(node.op)](self.value(node.operand))
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
                return _collection(self.value(node.value))[self.subscript(node.slice)]
            case ast.Call():
                return self.call(node)
            case ast.Name(id=name) if name in self.functions or name in _FUNCTIONS:
                raise ExpressionError(f"{name} is a function: call it, {name}(...)")
            case ast.Name(id=name):
                raise self.unknown(name)
        raise ExpressionError(f"{_SYMBOLS.get(type(node), type(node).__name__)} is not allowed here")

    def unknown(self, name: str) -> ExpressionError:
        near = get_close_matches(name, [*self.functions, *_FUNCTIONS], 1, cutoff=0.7)
        return ExpressionError(f"unknown name '{name}'" + (f"; did you mean {near[0]}?" if near else ""))

    def dictionary(self, node: ast.Dict) -> dict[Any, Any]:
        result = {}
        for key, item in zip(node.keys, node.values, strict=True):
            if key is None:
                raise ExpressionError("** is not allowed here")
            result[self.value(key)] = self.value(item)
        return result

    def chain(self, node: ast.BinOp) -> Any:
        """1 + 2 + ... + 100 nests to the left; taken as the flat list that its writer sees."""
        steps: list[ast.BinOp] = []
        left: ast.expr = node
        while isinstance(left, ast.BinOp):
            steps.append(left)
            left = left.left
        value = self.visit(left)
        for step in reversed(steps):
            value = _binary(step.op, self.bounded(value), self.value(step.right))
        return value  # bounded by the caller, as every visit is

    def compare(self, node: ast.Compare) -> Any:
        left, result = self.value(node.left), True
        for op, operand in zip(node.ops, node.comparators, strict=True):
            right = self.value(operand)
            if isinstance(op, (ast.Is, ast.IsNot)) and left is not None and right is not None:
                raise ExpressionError("'is' compares with None only; use ==")
            result = _COMPARISONS[type(op)](left, right)
            if not result:
                break
            left = right
        return result

    def subscript(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Slice):
            return slice(*[part and self.value(part) for part in (node.lower, node.upper, node.step)])
        return self.value(node)

    def call(self, node: ast.Call) -> Any:
        """The value of a call. Whatever a function of the harness raises becomes an ExpressionError."""
        match node.func:
            case ast.Name(id=name) if name in self.functions or name in _FUNCTIONS:
                function = self.functions[name] if name in self.functions else _FUNCTIONS[name]
            case ast.Name(id=name):
                raise self.unknown(name)
            case ast.Attribute(attr=name):
                receiver = self.value(node.func.value)
                methods = _METHODS.get(type(receiver), {})
                if name not in methods:
                    raise ExpressionError(f"{type(receiver).__name__} has no method '{name}' here")
                function = partial(methods[name], receiver)
            case _:
                raise ExpressionError("only functions and methods can be called")
        ours = isinstance(node.func, ast.Attribute) or name not in self.functions
        args = [self.value(arg) for arg in node.args]
        keywords: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise ExpressionError("** is not allowed here")
            # Python's functions take more, such as max(key=...), that the checks above do not know.
            if keyword.arg in keywords or (ours and (name, keyword.arg) != ("sorted", "reverse")):
                raise ExpressionError(f"unknown or repeated keyword '{keyword.arg}' of {name}")
            keywords[keyword.arg] = self.value(keyword.value)
        if ours:
            return function(*args, **keywords)
        try:
            return function(*args, **keywords)
        except (ExpressionError, Stopped):
            raise
        except TypeError as error:  # often a missing argument: said of the name that the model knows
            raise ExpressionError(str(error).replace(getattr(function, "__qualname__", name), name, 1)) from error
        except Exception as error:
            raise ExpressionError(str(error) or type(error).__name__) from error
