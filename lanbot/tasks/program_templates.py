"""The templates of the task `programs`. Each makes a problem for each value of its slot, {v}; {r} is its repr.

The oracle computes what the checks expect, in another way than the solution does.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Inputs = Sequence[tuple[Any, ...]]


class Template(NamedTuple):
    name: str
    arguments: str
    does: str
    """A sentence for the docstring."""
    body: str
    """The reference solution, one level of indentation less than in the function."""
    oracle: Callable[..., Any]
    """(value of the slot, *inputs) -> the expected result."""
    values: Sequence[Any]
    inputs: Inputs
    """Arguments of the checks; the first two are shown in the docstring."""


NUMBERS: Inputs = (([3, 1, 4, 1, 5, 9, 2, 6],), ([10, -3, 7, 0, 12],), ([],), ([5],), ([8, 8, 2, -6, 15, 30, 21],))
SMALL = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12)
INTEGERS = ((1,), (7,), (0,), (-4,), (25,), (100,))
WORDS: Inputs = (
    (["pear", "fig", "banana", "kiwi"],),
    (["stone", "a", "river", "sand", "tree"],),
    ([],),
    (["moonlight", "to", "sun"],),
)
TEXTS = (
    ("the cat sat on the mat",),
    ("Many a river runs to sea",),
    ("",),
    ("banana",),
    ("Level up, again and again!",),
)
LETTERS = ("a", "e", "i", "n", "r", "s", "t", "o")


def loop(start: str, each: str, over: str = "numbers", end: str = "result") -> str:
    """A body that goes over a list: result = start; for x in list: each; return end."""
    lines = "".join(f"    {line}\n" for line in each.split("\n"))
    return f"result = {start}\nfor x in {over}:\n{lines}return {end}"


TEMPLATES: tuple[Template, ...] = (
    # -- one number ----------------------------------------------------------------------------------------
    Template("plus_{v}", "x", "Return x plus {v}.", "return x + {v}", lambda v, x: sum((x, v)), SMALL, INTEGERS),
    Template("times_{v}", "x", "Return {v} times x.", "return {v} * x",
             lambda v, x: (sum([abs(x)] * v) if x >= 0 else -sum([abs(x)] * v)), SMALL, INTEGERS),
    Template("take_away_{v}", "x", "Return x with {v} taken away.", "return x - {v}", lambda v, x: -(v - x), SMALL,
             INTEGERS),
    Template("is_multiple_of_{v}", "x", "Tell whether x can be divided by {v} without a remainder.",
             "return x % {v} == 0", lambda v, x: x in range(-1_000 * v, 1_000 * v, v), SMALL, INTEGERS),
    Template("remainder_by_{v}", "x", "Return the remainder of x, which is not negative, divided by {v}.",
             "return x % {v}", lambda v, x: x - v * math.floor(x / v), SMALL, ((17,), (9,), (0,), (100,), (36,))),
    Template("at_most_{v}", "x", "Return x, or {v} if x is greater than {v}.", "if x > {v}:\n    return {v}\nreturn x",
             lambda v, x: min(x, v), SMALL, INTEGERS),
    Template("at_least_{v}", "x", "Return x, or {v} if x is less than {v}.", "if x < {v}:\n    return {v}\nreturn x",
             lambda v, x: max(x, v), SMALL, INTEGERS),
    Template("distance_to_{v}", "x", "Return how far x is from {v}.", "return abs(x - {v})",
             lambda v, x: max(x, v) - min(x, v), SMALL, INTEGERS),
    Template("power_{v}", "x", "Return x multiplied by itself so that it is a factor {v} times.",
             "result = 1\nfor _ in range({v}):\n    result *= x\nreturn result", lambda v, x: x**v, SMALL[:5],
             ((2,), (3,), (0,), (1,), (-2,))),
    Template("round_down_to_{v}", "x", "Return the greatest multiple of {v} that is not above x.",
             "return x // {v} * {v}", lambda v, x: max(m for m in range(-500 * v, 500 * v, v) if m <= x), SMALL,
             INTEGERS),
    # -- two numbers ---------------------------------------------------------------------------------------
    Template("sum_plus_{v}", "a, b", "Return the sum of a and b, plus {v}.", "return a + b + {v}",
             lambda v, a, b: sum([a, b, v]), SMALL, ((1, 2), (5, 0), (-3, 3), (10, 20))),
    Template("larger_times_{v}", "a, b", "Return {v} times the larger of a and b.", "return {v} * max(a, b)",
             lambda v, a, b: sorted([v * a, v * b])[-1], SMALL, ((1, 2), (5, 0), (-3, 3), (10, 20))),
    Template("both_above_{v}", "a, b", "Tell whether a and b are both greater than {v}.", "return a > {v} and b > {v}",
             lambda v, a, b: min(a, b) > v, SMALL, ((1, 20), (15, 13), (8, 5), (11, 2))),
    Template("differ_by_{v}", "a, b", "Tell whether a and b differ by exactly {v}.", "return abs(a - b) == {v}",
             lambda v, a, b: b in (a - v, a + v), SMALL, ((1, 3), (10, 5), (4, 4), (0, 8), (2, 5))),
    Template("minutes_of_{v}_rounds", "minutes, seconds",
             "A round takes so many minutes and seconds. Return the seconds of {v} rounds.",
             "return (minutes * 60 + seconds) * {v}", lambda v, m, s: v * 60 * m + v * s, SMALL,
             ((1, 30), (0, 45), (2, 0), (10, 5))),
    # -- lists of numbers ----------------------------------------------------------------------------------
    Template("count_above_{v}", "numbers", "Return how many of the numbers are greater than {v}.",
             loop("0", "if x > {v}:\n    result += 1"), lambda v, n: len([x for x in n if x > v]), SMALL, NUMBERS),
    Template("keep_below_{v}", "numbers", "Return a list of the numbers that are less than {v}, in their order.",
             loop("[]", "if x < {v}:\n    result.append(x)"), lambda v, n: list(filter(lambda x: x < v, n)), SMALL,
             NUMBERS),
    Template("add_{v}_to_each", "numbers", "Return a list of the numbers, each greater by {v}.",
             "return [x + {v} for x in numbers]", lambda v, n: list(map(v.__add__, n)), SMALL, NUMBERS),
    Template("scale_by_{v}", "numbers", "Return a list of the numbers, each multiplied by {v}.",
             "return [x * {v} for x in numbers]", lambda v, n: list(map(v.__mul__, n)), SMALL, NUMBERS),
    Template("sum_of_multiples_of_{v}", "numbers",
             "Return the sum of those numbers that {v} divides without a remainder.",
             loop("0", "if x % {v} == 0:\n    result += x"), lambda v, n: sum(x for x in n if math.gcd(x, v) == v),
             SMALL, NUMBERS),
    Template("first_{v}_of", "numbers", "Return a list of the first {v} numbers, or of all if there are fewer.",
             "return numbers[:{v}]", lambda v, n: [x for i, x in enumerate(n) if i < v], SMALL[:6], NUMBERS),
    Template("last_{v}_of", "numbers", "Return a list of the last {v} numbers, or of all if there are fewer.",
             "return numbers[-{v}:]", lambda v, n: [x for i, x in enumerate(n) if i >= len(n) - v], SMALL[:6], NUMBERS),
    Template("every_{v}th", "numbers", "Return a list of every {v}th number, beginning with the first.",
             "return numbers[::{v}]", lambda v, n: [x for i, x in enumerate(n) if i % v == 0], SMALL[:5], NUMBERS),
    Template("has_number_{v}", "numbers", "Tell whether {v} is one of the numbers.", "return {v} in numbers",
             lambda v, n: n.count(v) > 0, SMALL, NUMBERS),
    Template("without_{v}", "numbers", "Return a list of the numbers without any {v}.",
             "return [x for x in numbers if x != {v}]",
             lambda v, n: list(itertools.filterfalse(lambda x: x == v, n)), SMALL, NUMBERS),
    Template("capped_sum_{v}", "numbers", "Return the sum of the numbers, each of which counts as at most {v}.",
             loop("0", "result += min(x, {v})"), lambda v, n: sum(v if x > v else x for x in n), SMALL, NUMBERS),
    Template("index_of_first_above_{v}", "numbers",
             "Return the index of the first number greater than {v}, or -1 if there is none.",
             "for i, x in enumerate(numbers):\n    if x > {v}:\n        return i\nreturn -1",
             lambda v, n: next((i for i in range(len(n)) if n[i] > v), -1), SMALL, NUMBERS),
    Template("split_at_{v}", "numbers",
             "Return two lists in a list: the numbers up to {v}, and those above it, in their order.",
             "low = [x for x in numbers if x <= {v}]\nhigh = [x for x in numbers if x > {v}]\nreturn [low, high]",
             lambda v, n: [[x for x in n if (x > v) == above] for above in (False, True)], SMALL, NUMBERS),
    Template("sum_of_top_{v}", "numbers", "Return the sum of the {v} greatest numbers, or of all if there are fewer.",
             "return sum(sorted(numbers, reverse=True)[:{v}])", lambda v, n: sum(sorted(n)[max(0, len(n) - v):]),
             SMALL[:5], NUMBERS),
    Template("replace_{v}_by_zero", "numbers", "Return a list of the numbers with 0 in place of each {v}.",
             loop("[]", "if x == {v}:\n    result.append(0)\nelse:\n    result.append(x)"),
             lambda v, n: [x * (x != v) for x in n], SMALL, NUMBERS),
    # -- texts ---------------------------------------------------------------------------------------------
    Template("count_letter_{v}", "text", "Return how often the letter {v} is in the text, as a small letter.",
             "return text.count({r})", lambda v, t: Counter(t)[v], LETTERS, TEXTS),
    Template("remove_letter_{v}", "text", "Return the text without the small letter {v}.",
             'return text.replace({r}, "")',
             lambda v, t: "".join(c for c in t if c != v), LETTERS, TEXTS),
    Template("starts_with_{v}", "text", "Tell whether the text begins with the letter {v}, small or capital.",
             "return text.lower().startswith({r})", lambda v, t: t[:1] in (v, v.upper()) and t != "", LETTERS, TEXTS),
    Template("first_{v}_letters", "text", "Return the first {v} characters of the text, or all if there are fewer.",
             "return text[:{v}]", lambda v, t: "".join(itertools.islice(t, v)), SMALL[:6], TEXTS),
    Template("repeat_{v}_times", "text", "Return the text written {v} times in a row.", "return text * {v}",
             lambda v, t: "".join([t] * v), SMALL[:5], (("ab",), ("ha ",), ("",), ("Go!",))),
    Template("mark_letter_{v}", "text", "Return the text with a star, *, in place of each small letter {v}.",
             'return text.replace({r}, "*")', lambda v, t: "*".join(t.split(v)), LETTERS, TEXTS),
    Template("words_with_{v}", "text",
             "Return how many words of the text, which spaces separate, have the small letter {v}.",
             "count = 0\nfor word in text.split():\n    if {r} in word:\n        count += 1\nreturn count",
             lambda v, t: sum(v in word for word in t.split()), LETTERS, TEXTS),
    Template("words_longer_than_{v}", "words",
             "Return a list of the words that have more than {v} letters, in their order.",
             loop("[]", "if len(x) > {v}:\n    result.append(x)", "words"), lambda v, w: [x for x in w if x[v:]],
             SMALL[:6], WORDS),
    Template("join_by_{v}", "words", "Return the words as one text with {r} between them.",
             "return {r}.join(words)", lambda v, w: "".join(x for word in w for x in (v, word))[len(v):],
             ("-dash-", " and ", " or ", " plus ", " then "), WORDS),
    Template("pad_to_{v}", "text", "Return the text with dots, ., added at its end until it has {v} characters.",
             'while len(text) < {v}:\n    text += "."\nreturn text', lambda v, t: t.ljust(v, "."), SMALL,
             (("ab",), ("",), ("hello",), ("moonlight!",))),
    # -- dictionaries and ranges ---------------------------------------------------------------------------
    Template("keys_above_{v}", "counts", "Return a sorted list of the keys whose values are greater than {v}.",
             "return sorted(key for key, value in counts.items() if value > {v})",
             lambda v, d: [k for k in sorted(d) if d[k] > v], SMALL,
             (({"ink": 3, "pen": 12, "cup": 7},), ({"oak": 1},), ({},), ({"b": 9, "a": 20, "c": 6},))),
    Template("give_each_{v}", "names", "Return a dictionary that gives each name the number {v}.",
             "return {{name: {v} for name in names}}", lambda v, n: dict.fromkeys(n, v), SMALL,
             ((["Ada", "Bo"],), ([],), (["Cy", "Di", "Ed"],))),
    Template("multiples_of_{v}_up_to", "limit",
             "Return a list of the multiples of {v} from {v} up to the limit, which may be one.",
             "return list(range({v}, limit + 1, {v}))", lambda v, limit: [x for x in range(1, limit + 1) if x % v == 0],
             SMALL,
             ((20,), (9,), (0,), (50,))),
    Template("count_down_by_{v}", "start",
             "Return a list that begins with start and goes down by {v} while it is not negative.",
             "result = []\nwhile start >= 0:\n    result.append(start)\n    start -= {v}\nreturn result",
             lambda v, start: list(range(start, -1, -v)), SMALL, ((10,), (7,), (0,), (31,))),
    Template("digits_above_{v}", "number",
             "Return how many digits of the number, which is not negative, are greater than {v}.",
             "return sum(int(digit) > {v} for digit in str(number))",
             lambda v, n: len([c for c in str(n) if c in "0123456789"[v + 1:]]), SMALL[:6],
             ((1904,), (57,), (0,), (99999,))),
)  # fmt: skip
