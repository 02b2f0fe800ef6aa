"""Calls of a turn: counted, cycles refused."""

import pytest

from lanbot.tools.bounded import BoundedCalls


def answers(calls: str, max_steps: int = 100) -> list[str | None]:
    run = BoundedCalls(str.upper, max_steps)
    return [run(code) for code in calls]


def test_calls_are_counted_that_the_tool_never_saw() -> None:
    first, second, third, fourth = answers("abcd", 2)
    assert (first, second, fourth) == ("A", "B", None)
    assert third == "error: no more than 2 calls; answer now"


@pytest.mark.parametrize(
    ("calls", "run"),
    [
        ("aaaa", "AA"),
        ("ababab", "ABAB"),
        ("abcabcab", "ABCABC"),
        ("xyababab", "XYABAB"),
        ("aabaab", "AABAAB"),
        ("aabbaabb", "AABBAABB"),
        ("abacadae", "ABACADAE"),
        ("aabaacaa", "AABAACAA"),
    ],
)
def test_cycles_are_run_twice(calls: str, run: str) -> None:
    made = answers(calls)
    assert "".join(answer for answer in made if answer and not answer.startswith("error")) == run
    if len(run) < len(calls):
        assert str(made[len(run)]).startswith("error: the same call") and made[len(run) + 1 :][:1] in ([None], [])


def test_after_a_refused_call_another_one_is_run_and_the_refusal_is_told_again() -> None:
    made = answers("aaabaaa")
    assert [str(answer)[:19] for answer in made] == ["A", "A", "error: the same cal", "B", "A", "A", made[2][:19]]


def test_an_output_is_shortened() -> None:
    run = BoundedCalls(lambda code: "x" * 100, 3, lambda text: text[:7])
    assert run("?") == "x" * 7
