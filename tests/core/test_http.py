"""Waiting between tries."""

import pytest

from lanbot.core.http import Again, Retries, retried, retry_after


def test_a_wait_is_read_from_seconds_and_from_a_date() -> None:
    assert retry_after("3") == 3 and retry_after(" 0.5 ") == 0.5
    assert retry_after("-1") == retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("soon") is retry_after("nan") is retry_after("") is retry_after(None) is None


def test_pauses_grow_up_to_a_limit_and_follow_what_the_server_asks_for() -> None:
    retries = Retries(6, first=1, most=4, most_asked=9)
    for limit in (1, 2, 4):
        pause = retries.pause(Again("busy"))
        assert pause is not None and limit / 2 <= pause <= limit
    assert retries.pause(Again("busy", after=7)) == 7
    assert retries.pause(Again("busy", after=9e9)) == 9
    assert retries.pause(Again("busy")) is None


def test_progress_starts_the_count_anew() -> None:
    retries = Retries(2, first=1, most=4, most_asked=9)
    again = Again("cut")
    again.moved = True
    assert all(retries.pause(again) for _ in range(9))
    assert retries.pause(Again("cut")) is None


def test_an_attempt_is_repeated_until_it_succeeds_and_its_last_failure_is_raised() -> None:
    waited: list[float] = []
    notes: list[str] = []
    failures = [Again("busy"), Again("still busy", after=7)]

    def attempt() -> str:
        if failures:
            raise failures.pop(0)
        return "done"

    assert retried(attempt, Retries(3, first=1, most=4, most_asked=9), notes.append, waited.append) == "done"
    assert len(waited) == 2 and waited[1] == 7 and notes[1] == "still busy; try 3 of 3 in 7s"
    failures += [Again("busy"), Again("broken")]
    with pytest.raises(Again, match="broken"):
        retried(attempt, Retries(2, first=1, most=4, most_asked=9), notes.append, waited.append)
    assert len(waited) == 3
