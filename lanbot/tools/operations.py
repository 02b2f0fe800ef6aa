"""The operators, functions and methods of the calculator's language: Python's, checked where they could take long or
return something large."""

import ast
import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

# 1,233 digits: more than anybody asks for, and fewer than the 4,300 that Python converts to text.
MAX_BITS = 4_096
# Characters of a string. An element of a collection, nested ones included, counts as several, because handling it
# costs as much: the slowest evaluations found then take 20 ms.
MAX_SIZE = 100_000
ELEMENT = 4

_TOO_MANY_BITS = f"too large: an integer of more than {MAX_BITS:,} bits"


class ExpressionError(Exception):
    """Why an expression has no value, in words that help the model to correct it."""


def size(value: object) -> int:
    """The characters of `value`, or the weight of its elements; a shared element counts each time.

    Raises ExpressionError for more than MAX_SIZE, an integer over MAX_BITS, or a float that is not finite.
    """
    total, rest = -ELEMENT, [value]  # the value itself is not an element
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
            _check_size(total + ELEMENT * len(rest))  # here, so that a list that contains itself ends too
    _check_size(total)
    return total


def _check_size(size: int) -> None:
    if size > MAX_SIZE:
        limit = f"{MAX_SIZE:,} characters or {MAX_SIZE // ELEMENT:,} elements"
        raise ExpressionError(f"too large: a value of more than {limit}")


def binary(op: ast.operator, left: Any, right: Any) -> Any:
    """`left op right`, its size checked first. Raises ExpressionError, and what Python raises."""
    if type(op) not in _ARITHMETIC:
        raise ExpressionError(f"{type(op).__name__} is not allowed here, only + - * / // % **")
    symbol, compute = _ARITHMETIC[type(op)]
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return compute(left, right)
    if symbol == "+" and type(left) is type(right) and isinstance(left, (str, list, tuple)):
        _check_size(size(left) + size(right))
        return left + right
    if symbol == "*" and isinstance(left, int):
        left, right = right, left
    if symbol == "*" and isinstance(left, (str, list, tuple)) and isinstance(right, int):
        _check_size(size(left) * max(0, right))
        return left * right
    raise ExpressionError(f"{symbol} does not work on {type(left).__name__} and {type(right).__name__}")


def _multiply(left: Any, right: Any) -> Any:
    # A product has this many bits or one more; the check of every result sees the one more.
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
    return item in collection(items)


_ARITHMETIC: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", _multiply),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
    ast.Pow: ("**", _power),
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
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


def collection(value: Any) -> Any:
    if not isinstance(value, (str, list, tuple, dict)):
        raise ExpressionError(f"a string, list, tuple or dict is needed, not {type(value).__name__}")
    return value


def _of_items(function: Callable[..., Any], *values: Any, **keywords: Any) -> Any:
    if len(values) == 1:  # several are the values themselves, max(1, 2), or Python raises
        collection(values[0])
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
    if not all(isinstance(value, (int, float)) for value in (start, *collection(values))):
        raise ExpressionError("sum works on numbers")
    return sum(values, start)


def _strip(strip: Callable[..., str], text: str, *characters: Any) -> str:
    if characters and isinstance(characters[0], str):
        _check_size(len(text) * len(characters[0]))  # Python searches each one in the other
    return strip(text, *characters)


def _replace(text: str, old: Any, new: Any, count: Any = -1) -> str:
    found = text.count(old)
    _check_size(len(text) + (found if count < 0 else min(found, count)) * (len(new) - len(old)))
    return text.replace(old, new, count)


def _join(text: str, items: Any) -> str:
    lengths = [len(item) for item in collection(items) if isinstance(item, str)]
    _check_size(sum(lengths) + len(text) * max(0, len(lengths) - 1))
    return text.join(items)


def _zfill(text: str, width: Any) -> str:
    if isinstance(width, int):
        _check_size(width)
    return text.zfill(width)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{function.__name__: partial(_of_items, function) for function in (len, list, max, min, sorted)},
    **{kind.__name__: partial(_number, kind) for kind in (float, int)},
    "abs": abs,
    "round": _round,
    "str": str,
    "sum": _sum,
}
_PLAIN = "capitalize count endswith find index isalpha isdigit lower split splitlines startswith title upper"
METHODS: dict[type, dict[str, Callable[..., Any]]] = {
    str: {
        **{name: getattr(str, name) for name in _PLAIN.split()},
        **{name: partial(_strip, getattr(str, name)) for name in ("strip", "lstrip", "rstrip")},
        "join": _join,
        "replace": _replace,
        "zfill": _zfill,
    },
    list: {"count": list.count, "index": list.index},
}
