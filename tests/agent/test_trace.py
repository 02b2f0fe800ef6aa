"""What a trace says of a session besides replies and calls."""

from session_events import COUNT, TEA

from lanbot.agent.events import Asked, Called, Calling, Compacted, Ended, Event, Permission, Replied
from lanbot.agent.sessions import About
from lanbot.agent.trace import Trace, as_text, trace
from lanbot.chat.messages import python, text

ABOUT = About(3, "2026-11-27T20:00:00+00:00", "demo rl", "", [], 2, 0)


def traced(*events: Event) -> Trace:
    return trace(ABOUT, [(1_800_000_000.0 + i, event) for i, event in enumerate(events)])


def lines(made: Trace) -> list[str]:
    return [line.strip().split("   ")[0] for line in as_text(made).split("\n")]


def test_decisions_refusals_and_missing_results_stand_with_their_calls() -> None:
    made = traced(
        Asked("write"),
        Replied([python("write_file('a', 'b')"), python(COUNT)], "call"),
        Calling(1, "write_file('a', 'b')"),
        Permission("write_file", {"path": "a"}, "deny", "rule write = deny"),
        Called(1, "error: not allowed", refused="denied"),
        Calling(2, COUNT),
    )
    shown = lines(made)
    at = shown.index(">>> write_file('a', 'b')")
    assert shown[at + 1 : at + 5] == [
        "deny (rule write = deny): write_file(path='a')",
        "error: not allowed (not run: denied)",
        f">>> {COUNT}",
        "(no result)",
    ]
    assert shown[at + 5] == "not ended after 0.00 s" and "turn 1, 2027-01-15 08:00:00: write" in shown


def test_compaction_stands_before_the_reply_that_read_less() -> None:
    shown = lines(traced(*TEA, *TEA[:1], Compacted([], "outputs shortened", 5_000, 900), *TEA[1:]))
    at = shown.index("(outputs shortened: 5,000 to 900 tokens)")
    assert shown[at + 1] == "2" and shown[at + 2] == "answered after 0.25 s"


def test_a_broken_off_or_empty_reply_says_so() -> None:
    shown = as_text(
        traced(Asked("tea?"), Replied([text("A dri")], "length"), Replied([], "stop"), Ended("token limit"))
    )
    assert "1     A dri (length) " in shown and "2     (nothing) " in shown and "token limit after 0.00 s" in shown


def test_long_sessions_stay_aligned() -> None:
    made = traced(
        *TEA, Asked("more"), Replied([text("long " * 100)], "stop", 123_456, 0, 1_000, 61.5), Ended("answered")
    )
    rows = [line for line in as_text(made).split("\n") if line.startswith(("step", "1 ", "2 "))]
    assert len({len(row) for row in rows}) == 1 and "123,456" in rows[-1]


def test_an_empty_session_is_a_trace() -> None:
    assert "turns 0, replies 0" in as_text(traced())
