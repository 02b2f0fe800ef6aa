import math
import operator
import warnings
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanbot.core.errors import Stopped, UserError
from lanbot.tools.calculator import MAX_ANSWER, answer, evaluate, format_value
from lanbot.tools.operations import MAX_SIZE, ExpressionError


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("2 + 2", "4"),
        ("48/2", "24"),
        ("0.1+0.2", "0.3"),
        ("1/3", "0.3333333333"),
        ("2 + 3 * 4 - 10 // 3 % 2", "13"),
        ("-2 ** 2", "-4"),
        ("2 ** 3 ** 2", "512"),
        ("2 ** -1", "0.5"),
        ("2 ** 0.5", "1.414213562"),
        ("-7 // 2, -7 % 2", "(-4, 1)"),
        ("-0.0", "0"),
        ("1e-7 / 3", "3.333333333e-08"),
        ("+True + True", "2"),
        ("2 ** 200", str(2**200)),
        ("+".join(str(i) for i in range(1, 101)), "5050"),
        ("  \n 1 + 1 \n", "2"),
        ("(1 +\n 1)", "2"),
        ("1 + 1  # two", "2"),
        ("(" * 50 + "7" + ")" * 50, "7"),
    ],
)
def test_arithmetic(code, text):
    assert answer(code) == text


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("1 < 2 < 3", True),
        ("1 < 2 > 5 < 1 / 0", False),
        ("3 in [1, 2]", False),
        ("'b' in 'abc'", True),
        ("'k' not in {'k': 1}", False),
        ("None is None", True),
        ("1 is not None", True),
        ("not 0", True),
        ("0 or 'x'", "x"),
        ("0 and 1 / 0", 0),
        ("1 and []", []),
        ("'yes' if 2 > 1 else 1 / 0", "yes"),
        ("[1, 2] + [3]", [1, 2, 3]),
        ("3 * (0,)", (0, 0, 0)),
        ("'ab' * -1", ""),
        ("{'a': [1, 2.5]}['a'][1]", 2.5),
        ("'abcdef'[1:-1:2]", "bd"),
        ("[1, 2, 3][::-1]", [3, 2, 1]),
        ("(1, 2)[-1]", 2),
    ],
)
def test_values(code, value):
    assert evaluate(code) == value


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("len('straße')", 6),
        ("min(3, 1), max([1, 4]), min('hello')", (1, 4, "e")),
        ("round(2.567, 1), round(2.5), round(1234, -2)", (2.6, 2, 1200)),
        ("sum([1, 2.5]), sum((1, 2), 10)", (3.5, 13)),
        ("sorted('cab')", ["a", "b", "c"]),
        ("sorted([3, 1, 2], reverse=True)", [3, 2, 1]),
        ("abs(-3), int('42'), int('ff', 16), float('1.5'), str(12)", (3, 42, 255, 1.5, "12")),
        ("list('abc')", ["a", "b", "c"]),
        ("'strawberry'.count('r')", 3),
        ("'aBc'.upper() + 'aBc'.lower()", "ABCabc"),
        ("'a bc'.title() + 'abc'.capitalize()", "A BcAbc"),
        ("' a '.strip() + ' a '.lstrip() + ' a '.rstrip() + 'xax'.strip('x')", "aa  aa"),
        ("'banana'.replace('a', 'o'), 'banana'.replace('a', 'o', 1)", ("bonono", "bonana")),
        ("'ab'.replace('', '-')", "-a-b-"),
        ("'a b c'.split(), 'a,b,c'.split(',', 1)", (["a", "b", "c"], ["a", "b,c"])),
        ("'-'.join(['a', 'b']), '-'.join('abc')", ("a-b", "a-b-c")),
        ("'abc'.startswith('ab'), 'abc'.endswith(('x', 'c'))", (True, True)),
        ("'abc'.find('z'), 'abc'.index('c')", (-1, 2)),
        ("'12'.isdigit(), 'ab'.isalpha()", (True, True)),
        ("'a\\nb'.splitlines()", ["a", "b"]),
        ("'7'.zfill(3)", "007"),
        ("[1, 2, 1].count(1), [1, 2].index(2)", (2, 1)),
        ("'strawberry'[::-1].upper().find('B')", 4),
    ],
)
def test_functions_and_methods(code, value):
    assert evaluate(code) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (24.0, "24"),
        (1e20, "100000000000000000000"),
        (2 / 3, "0.6666666667"),
        ("as it is\n", "as it is\n"),
        (True, "True"),
        (None, "None"),
        ([], "[]"),
        ((), "()"),
        ((1.0,), "(1,)"),
        ({}, "{}"),
        (
            [0.1 + 0.2, "a'b", (2.0, True), {1.0: None, "k": [0.5]}],
            """[0.3, "a'b", (2, True), {1: None, 'k': [0.5]}]""",
        ),
    ],
)
def test_format_value(value, text):
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("1234567890.12*100", "123456789012"),
        ("1234567890.12 + 0", "1234567890.12"),
        ("987654321.25 * 2", "1975308642.5"),
        ("99999999.123", "99999999.12"),
        ("1234567890123456.5 + 0", "1234567890123456.5"),
    ],
)
def test_large_numbers_keep_their_digits(code, text):
    assert answer(code) == text


@pytest.mark.parametrize(
    ("code", "number", "written"),
    [
        ("1,100 * 2", "1100", "1,100"),
        ("1,000", "1000", "1,000"),
        ("2 * 1,234,567", "1234567", "1,234,567"),
        ("(1,100 + 50) * 2", "1100", "1,100"),
        ("12,500 > 12,000", "12500", "12,500"),
    ],
)
def test_a_number_with_commas_is_an_error_that_names_the_fix(code, number, written):
    assert answer(code) == f"error: no commas in numbers: {number}, not {written}"


@pytest.mark.parametrize("code", ["max(1,100)", "sum([1,100])", "1, 100", "(1,10)", "sorted((5,100))", "'1,100'"])
def test_other_commas_are_allowed(code):
    assert not answer(code).startswith("error")


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, [1.0, math.nan]])
def test_format_value_refuses_what_is_not_finite(value):
    with pytest.raises(ExpressionError, match="finite"):
        format_value(value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1/0", "division by zero"),
        ("1.5 % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("x + 1", "unknown name 'x'"),
        ("foo(1)", "unknown name 'foo'"),
        ("len", "call it, len"),
        ("'a'.format()", "str has no method 'format'"),
        ("'a' + 1", "does not work on str and int"),
        ("[1][5]", "list index out of range"),
        ("{'a': 1}['b']", "no such key: 'b'"),
        ("int('abc')", "invalid literal"),
        ("'abc'.index('z')", "substring not found"),
        ("(-8) ** 0.5", "negative number"),
        ("1 is 1", "None only"),
        ("len(5)", "a string, list, tuple or dict is needed, not int"),
        ("'a'.replace('b')", "^replace.. missing"),
        ("{[]: 1}", "unhashable"),
        ("1 < 'a'", "not supported between"),
        ("", "empty"),
        (" \n\t", "empty"),
        ("x = 1", "not a single Python expression"),
        ("1\n2", "not a single Python expression"),
        ("import os", "not a single Python expression"),
        ("1 +", "not a single Python expression"),
        ("1\0", "null bytes"),
        ("'\ud800'", "surrogates"),
        (r"'\ud800'", "surrogates"),
        ("1" + " " * 2_000 + "+1", "too long"),
    ],
)
def test_the_error_says_what_to_fix(code, message):
    with pytest.raises(ExpressionError, match=message):
        evaluate(code)
    assert answer(code).startswith("error: ")


@pytest.mark.parametrize(
    "code",
    [
        "lambda: 1",
        "(lambda: 1)()",
        "[x for x in 'ab']",
        "{x for x in 'ab'}",
        "{x: 1 for x in 'ab'}",
        "sum(x for x in [1])",
        "f'{1}'",
        "(x := 1)",
        "max(*[1, 2])",
        "sorted(**{'reverse': True})",
        "[*'ab']",
        "{**{}}",
        "{1, 2}",
        "1j",
        "b'a'",
        "...",
        "1 << 2",
        "1 | 2",
        "[[1]] @ [[1]]",
        "~1",
        "await x",
        "(yield)",
        "'%d' % 1",
        "sum([[1], [2]], [])",
        "max([1], key=len)",
        "sorted([1], key=abs)",
        "sorted([1], reverse=True, reverse=False)",
        "len(obj=[1])",
        "'a b'.split(maxsplit=1)",
        "[2, 1].sort()",
        "[1].append(2)",
        "{'a': 1}.get('a')",
        "'a'.upper",
        "1 .real",
        "(1)(2)",
        "'abc'['a']",
        "5[0]",
    ],
)
def test_nothing_else_is_allowed(code):
    with pytest.raises(ExpressionError):
        evaluate(code)


@pytest.mark.parametrize(
    "code",
    [
        "__import__('os').system('true')",
        "eval('1')",
        "exec('1')",
        "open('/etc/passwd')",
        "globals()",
        "getattr('a', 'upper')",
        "type(1)",
        "().__class__.__base__.__subclasses__()",
        "'a'.__class__",
        "'a'.__class__()",
        "''.__getattribute__('format')",
        "[].__init__([1])",
        "len.__self__",
        "str.mro()",
        "str.join('', ['a'])",
        "list.__class__",
        "evaluate.__globals__",
        "'{0.__class__}'.format(1)",
        "'{x}'.format_map({'x': 1})",
        "'%99999999d' % 1",
        "'a'.encode()",
        "'a'.translate({})",
        "f'{().__class__}'",
        "(1).__class__",
        "breakpoint()",
    ],
)
def test_there_is_no_way_out(code):
    with pytest.raises(ExpressionError):
        evaluate(code, {"evaluate": evaluate})


@pytest.mark.parametrize(
    "code",
    [
        "9**9**9",
        "2**4096",
        "(-2)**10**100",
        "10**4000*10**4000",
        "10**1200*10**1200",
        "2**4095+2**4095",
        "*".join(["9" * 100] * 19),
        "9" * 1_999,
        "0x" + "f" * 1_990,
        "int('9'*5000)",
        "int('1'*4097, 2)",
        "float('9'*50000)",
        "2.0**10000",
        "1e308*10",
        "1e999",
        "10**400/3",
        "10**400*1.0",
        "float('inf')",
        "float('nan')",
        "sum([1e308, 1e308])",
        "round(5, -10**9)",
        "round(5.5, 10**900)",
        "'a'*10**10",
        "10**10*'a'",
        "[0]*10**10",
        "(0,)*10**10",
        "[[0]*1000]*100000",
        "[[[[[0]*99]*99]*99]*99]*99",
        "[2**4000]*100000",
        "'a'*60000+'a'*60000",
        "[0]*20000+[0]*20000",
        "[[0]*20000, [0]*20000]",
        "{1: 'a'*60000, 2: 'a'*60000}",
        "('a'*99999).replace('', 'b'*90000)",
        "('a'*99999).replace('a', 'bb')",
        "('a'*1000).join('b'*1000)",
        "','.join(['a'*60000]*2)",
        "'1'.zfill(10**10)",
        "'\u0390'.upper()*50000",
        "('\u0390'*50000).upper()",
        "list('a'*99999)",
        "('a '*49999).split()",
        "('ab'*25000).strip('b'*49999+'a')",
        "str([0.1]*24000)",
        "+".join(["len('a'*50000)"] * 100),
        "+".join(["len(sorted([2, 3.5, 1]*3000))"] * 50),
        "-" * 1_900 + "1",
        "not " * 490 + "1",
        "[" * 99 + "]" * 99,
        "[" * 1_000 + "]" * 1_000,
        "(" * 1_000 + "1" + ")" * 990,
        "{1:" * 150 + "1" + "}" * 150,
        "2" + "**1" * 600,
        "'a'" + ".upper()" * 200,
        "[0]" + "[0]" * 600,
        "0 if 0 else " * 150 + "1",
    ],
)
def test_hostile_inputs_are_refused(code):
    with pytest.raises(ExpressionError, match=r"too (large|deeply|many)"):
        evaluate(code)


def test_the_bounds_are_no_tighter_than_said():
    assert evaluate("2**4095") == 2**4095
    assert evaluate("1**10**900 + (-1)**(10**900) + 0**10**900") == 2
    assert evaluate(f"('a'*{MAX_SIZE}).count('a')") == MAX_SIZE
    assert evaluate("len('a'*50000 + 'b'*50000)") == 100_000
    assert evaluate("len([0]*25000)") == 25_000
    assert evaluate("+".join(["1"] * 1_000)) == 1_000


def test_functions_take_positional_and_keyword_arguments():
    def read_file(path, start=1, lines=200):
        return f"{path}:{start}:{lines}"

    functions = {"read_file": read_file}
    assert evaluate("read_file('a.txt')", functions) == "a.txt:1:200"
    assert evaluate("read_file('a' + '.txt', lines=2 * 5, start=3)", functions) == "a.txt:3:10"
    assert evaluate("read_file('a').upper().split(':')[0]", functions) == "A"
    assert evaluate("read_file('a') if 0 else len(read_file('b'))", functions) == 7
    for code in (
        "read_file()",
        "read_file(1, 2, 3, 4)",
        "read_file('a', mode=1)",
        "read_file('a', path='b')",
    ):
        assert answer(code, functions).startswith("error: ")
    for code in ("read_file('a', start=1, start=2)", "read_file(*['a'])", "read_file(**{'path': 'a'})"):
        with pytest.raises(ExpressionError):
            evaluate(code, functions)
    with pytest.raises(ExpressionError, match=r"call it, read_file"):
        evaluate("[read_file]", functions)


def test_a_function_comes_before_the_calculators_own():
    assert evaluate("sum(3, by=4)", {"sum": lambda value, by: value * by}) == 12


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such note"), "error: no such note"),
        (
            UserError("no file a.txt", "list_files() shows what there is"),
            "error: no file a.txt\nlist_files() shows what there is",
        ),
        (ExpressionError("mine"), "error: mine"),
        (TimeoutError(), "error: TimeoutError"),
        (RecursionError("deep"), "error: deep"),
        (StopIteration(), "error: StopIteration"),
        (OSError("x" * 10_000), "error: " + "x" * (MAX_ANSWER - 16) + "... [cut]"),
    ],
)
def test_what_a_function_raises_is_shown_to_the_model(error, text):
    def fail():
        raise error

    assert answer("1 + fail()", {"fail": fail}) == text
    with pytest.raises(ExpressionError):
        evaluate("fail()", {"fail": fail})


def test_a_signal_during_a_function_is_not_taken_for_its_failure():
    def fail():
        raise Stopped(130, "stopped")

    with pytest.raises(Stopped):
        answer("fail()", {"fail": fail})


def test_what_a_function_returns_is_bounded_too():
    endless: list = []
    endless.append(endless)
    deep: list = []
    for _ in range(5_000):
        deep = [deep]
    for value in (endless, "a" * 10**6, [[0] * 10**4] * 10**4, 10**5000, math.inf):
        with pytest.raises(ExpressionError, match="too large"):
            evaluate("f()", {"f": lambda value=value: value})
    assert answer("f()", {"f": lambda: deep}).startswith("error: ")
    assert answer("f() == f()", {"f": lambda: deep}) in ("True", "error: too deeply nested")


def test_an_object_of_a_function_can_be_shown_and_nothing_more():
    class Page:
        secret = 1

        def __repr__(self):
            return "<page>"

        def __len__(self):
            raise AssertionError

        def __truediv__(self, other):
            raise AssertionError

    functions = {"fetch": Page}
    assert answer("fetch()", functions) == "<page>"
    assert answer("[fetch()]", functions) == "[<page>]"
    for code in (
        "fetch().secret",
        "fetch().__repr__()",
        "len(fetch())",
        "fetch() / 2",
        "fetch()[0]",
        "1 in fetch()",
    ):
        with pytest.raises(ExpressionError):
            evaluate(code, functions)


def test_an_answer_never_raises_for_an_object_that_cannot_be_shown():
    class Broken:
        def __repr__(self):
            raise RuntimeError

    assert answer("f()", {"f": Broken}) == "error: the value cannot be shown (RuntimeError)"


def test_an_answer_is_cut():
    assert answer("'a' * 2000") == "a" * 2_000
    for code in ("'a' * 2001", "[12] * 20000", "[[1]*100]*100", "('a'*50, 'b'*5000)"):
        text = answer(code)
        assert len(text) == MAX_ANSWER and text.endswith("... [cut]")


def test_an_answer_can_be_written_as_utf8():
    assert answer("f()", {"f": lambda: "a\udc80b"}) == "a?b"


# Arithmetic compared with exact fractions: (text, value), the value None where it divides by zero.
_OPERATIONS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": lambda a, b: Fraction(math.floor(a / b)),
    "%": lambda a, b: a - b * math.floor(a / b),
}


def _combine(left, symbol, right):
    text = f"({left[0]}) {symbol} ({right[0]})"
    if left[1] is None or right[1] is None or (symbol in ("//", "%") and right[1] == 0):
        return text, None
    return text, _OPERATIONS[symbol](left[1], right[1])


_trees = st.recursive(
    st.integers(-50, 50).map(lambda n: (str(n), Fraction(n))),
    lambda trees: st.builds(_combine, trees, st.sampled_from(sorted(_OPERATIONS)), trees),
    max_leaves=20,
)


@given(_trees)
def test_integer_arithmetic_agrees_with_fractions(tree):
    code, expected = tree
    if expected is None:
        with pytest.raises(ExpressionError, match="division by zero"):
            evaluate(code)
    else:
        assert evaluate(code) == expected
        assert answer(code) == str(expected)


@given(_trees, _trees)
def test_division_agrees_with_fractions(left, right):
    code = f"({left[0]}) / ({right[0]})"
    if left[1] is None or not right[1]:
        with pytest.raises(ExpressionError, match="division by zero"):
            evaluate(code)
    else:
        assert evaluate(code) == float(left[1] / right[1])


_PIECES = """
0 1 9 1e9 0.5 'a' 'b'*99 [ ] ( ) { } : , . + - * / // % ** < == = in not and or if else is None True
len( sum( sorted( str( int( round( .count( .join( .replace( .__class__ .format( x f(
"""


@given(st.text() | st.lists(st.sampled_from(_PIECES.split()), max_size=15).map(" ".join))
def test_an_answer_never_raises(code):
    text = answer(code, {"f": lambda *args, **keywords: args[0]})
    assert len(text) <= MAX_ANSWER
    text.encode()


def test_python_gives_no_advice_on_what_a_model_wrote() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(ExpressionError):
            evaluate("12and 3 is 4")
    assert not said
