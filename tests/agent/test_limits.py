import pytest

from lanbot.agent import limits as ends
from lanbot.agent.limits import Limits, problem_of, shortened
from lanbot.config.agent import Agent as Settings


@pytest.mark.parametrize("room", [*range(0, 120, 7), 300])
def test_a_shortened_text_keeps_its_ends_says_what_is_missing_and_fits(room: int) -> None:
    text = "".join(chr(97 + i % 26) for i in range(200))
    cut = shortened(text, room, len)
    if room >= 200:
        assert cut == text
        return
    assert len(cut) <= max(room, 28)
    missing = 200 - sum(map(len, [line for line in cut.split("\n") if "cut]" not in line]))
    assert f"[{missing} characters cut]" in cut
    if room > 40:
        head, _, tail = cut.split("\n")
        assert text.startswith(head) and text.endswith(tail) and len(head) >= len(tail) > 0


def test_a_text_of_a_hundred_million_characters_is_never_counted_as_a_whole() -> None:
    longest = 0

    def count(text: str) -> int:
        nonlocal longest
        longest = max(longest, len(text))
        return len(text)

    assert len(shortened("x" * 100_000_000, 50, count)) <= 50
    assert longest < 10_000


# -- what a user reads -------------------------------------------------------------------------------------------


def test_every_reason_has_a_line_and_a_remedy() -> None:
    reasons = {value for name, value in vars(ends).items() if name.isupper() and isinstance(value, str)}
    reasons -= {ends.NOT_RUN, ends.CUT}
    assert problem_of(ends.ANSWERED, Limits(), 100) is None
    for reason in reasons - {ends.ANSWERED}:
        problem = problem_of(reason, Limits(), 100)
        assert problem is not None and problem.problem and problem.remedy
    told = problem_of(ends.TOKEN_LIMIT, Limits(max_tokens=1_234), 9_000)
    assert told is not None and "1,234 tokens" in str(told) and "max_tokens" in str(told)


def test_zero_in_a_recipe_is_no_limit() -> None:
    made = Limits.of(Settings(max_call_seconds=0.0))
    assert (made.max_seconds, made.max_cost, made.max_call_seconds) == (None, None, None)
    assert Limits.of(Settings()) == Limits()
    assert Limits.of(Settings(max_seconds=5.0, max_cost=0.5)).max_cost == 0.5
