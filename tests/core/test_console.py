import io
import sys

import pytest

from lanbot.core.console import Progress, duration, say, size, table, track


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
    line = Progress()
    line.last = float("-inf")
    line.show("a line that is too long")
    line.close()
    line.close()
    assert screen.getvalue() == "\r\x1b[2Ka line th\n"


def test_in_a_log_progress_is_plain_lines_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    line = Progress()
    line.show("too soon")
    line.last = float("-inf")
    line.show("shown")
    line.show("too soon again")
    line.show("the last", final=True)
    line.close()
    assert capsys.readouterr().err == "shown\nthe last\n"


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(quiet=True).show("x", final=True)
    assert capsys.readouterr() == ("", "")


def test_track_passes_all_items_on() -> None:
    assert list(track(range(5), "counting", total=5)) == [0, 1, 2, 3, 4]
    assert list(track(iter("abc"), "reading", size=len)) == ["a", "b", "c"]


def test_say_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("hello")
    assert capsys.readouterr() == ("", "hello\n")
