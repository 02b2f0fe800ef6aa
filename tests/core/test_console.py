import io
import re
import sys
import time

import pytest

from lanbot.core import console
from lanbot.core.console import Progress, duration, say, size, table, track, visible


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"),
        (0, "0s"),
        (9.4, "9s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (185, "3m05s"),
        (3_599.6, "1h00m"),
        (7_620, "2h07m"),
        (86_399, "23h59m"),
        (273_600, "3d04h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1_024, "1.0 KiB"),
        (1_536, "1.5 KiB"),
        (5 * 1_024**2, "5.0 MiB"),
        (1.5 * 1_024**3, "1.5 GiB"),
        (2_048 * 1_024**3, "2,048.0 GiB"),
    ],
)
def test_size(count: float, text: str) -> None:
    assert size(count) == text


ROWS = [("gsm8k", 0.5, 7), ("a longer name", 12.25, "")]
HEADER = ("task", "score", "n")


def test_a_plain_table_is_aligned() -> None:
    assert table(ROWS, HEADER).split("\n") == [
        "task           score  n",
        "-------------  -----  -",
        "gsm8k            0.5  7",
        "a longer name  12.25",
    ]


def test_a_markdown_table_is_aligned() -> None:
    assert table(ROWS, HEADER, markdown=True).split("\n") == [
        "| task          | score |  n |",
        "| ------------- | ----: | -: |",
        "| gsm8k         |   0.5 |  7 |",
        "| a longer name | 12.25 |    |",
    ]


def test_more_columns_may_stand_to_the_left() -> None:
    assert table([("a", "b")], ("what", "is it"), left=2).split("\n") == [
        "what  is it",
        "----  -----",
        "a     b",
    ]


def test_a_table_without_rows_is_its_header() -> None:
    assert table([], ("a", "b")) == "a  b\n-  -"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_progress_rewrites_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "10")
    line = Progress("reading words", 10)
    line.due = 0
    line.show(5)
    line.close()
    line.close()
    assert screen.getvalue() == "\r\x1b[2Kreading w\n"


def test_in_a_log_progress_is_plain_lines_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    line = Progress("base", 4, "%")
    line.show(1, "too soon")
    line.due = 0
    line.show(1, "loss 2.5", "")
    line.show(2, "too soon again")
    line.close("done")
    line.close()
    shown, done = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"base  25\.0% \| loss 2\.5 \| 0s left", shown)
    assert done == "done"


@pytest.mark.parametrize(
    ("progress", "done", "line"),
    [
        (Progress("reading", 40, "rows"), 10, "reading | 10 of 40 rows | 2 rows/s | 15s left"),
        (Progress("reading", unit="rows"), 1, "reading | 1 rows | 0.2 rows/s"),
        (
            Progress("reading", 60_000, "rows", first=20_000),
            30_000,
            "reading | 30,000 of 60,000 rows | 2,000 rows/s | 15s left",
        ),
        (Progress("reading", 60, first=20), 20, "reading | 20 of 60 items | 0 items/s"),
        (Progress("data.bin", 4_096, "bytes"), 1_024, "data.bin | 1.0 KiB of 4.0 KiB | 205 B/s | 15s left"),
        (Progress("rl", 8, "%", first=4), 5, "rl    62.5% | 15s left"),
    ],
)
def test_a_line_says_how_far_how_fast_and_how_long(
    monkeypatch: pytest.MonkeyPatch, progress: Progress, done: int, line: str
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: progress.started + 5)
    assert progress.line(done) == line


def test_work_of_less_than_two_seconds_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    line = Progress("reading", 4)
    monkeypatch.setattr(time, "monotonic", lambda: start + 1.9)
    line.show(1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(time, "monotonic", lambda: line.started + 2)
    line.show(2)
    assert capsys.readouterr().err == "reading | 2 of 4 items | 1 items/s | 2s left\n"


def test_only_the_main_rank_shows_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(console, "FIRST_SECONDS", 0.0)
    with Progress("reading", 4) as line:
        line.show(1)
        line.close("done")
    assert capsys.readouterr() == ("", "")


def test_track_passes_all_items_on() -> None:
    assert list(track(range(5), "counting", total=5)) == [0, 1, 2, 3, 4]
    assert list(track(iter("abc"), "reading", size=len)) == ["a", "b", "c"]


def test_say_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("hello")
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize("hidden", ["\u202e", "\u2066", "\u200f", "\u2028", "\ufeff", "\u200b", "\U000e0041"])
def test_characters_that_hide_or_reorder_text_are_made_visible(hidden: str) -> None:
    assert visible(f"a{hidden}b") == f"a[U+{ord(hidden):04X}]b"


@pytest.mark.parametrize("plain", ["é 猫 العربية\n\t", "👩\u200d💻", "می\u200cخواهم"])
def test_what_text_needs_stays_as_it_is(plain: str) -> None:
    assert visible(plain) == plain


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3_569, "59 min"), (3_600, "1 h"), (7_790, "2 h 10 min"),
     (35_990, "10 h"), (36_001, "10 h"), (5e6, "1,389 h")],
)  # fmt: skip
def test_hours_in_words(seconds: float, shown: str) -> None:
    assert console.hours(seconds) == shown


def test_ranges_in_words() -> None:
    assert console.between("8 min", "16 min") == "8 to 16 min"
    assert console.between("45 s", "3 min") == "45 s to 3 min"
    assert console.between("2 h 31 min", "4 h 31 min") == "2 h 31 min to 4 h 31 min"
    assert console.between("$5", "$5") == "$5"
    assert [console.dollars(x) for x in (0.004, 4.6, 9.999, 1_250.4)] == ["$0.00", "$4.60", "$10", "$1,250"]
