"""A metrics.jsonl that grows, is replaced, is damaged, or is not there."""

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest
from made_runs import line

from lanbot.dashboard import metrics_file
from lanbot.dashboard.metrics_file import Background, MetricsFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def write(path: Path, rows: list[dict], mode: str = "a", end: str = "") -> None:
    with path.open(mode) as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows) + end)


def losses(file: MetricsFile, background: Background | None = None) -> list[float]:
    found = file.curves(background or Background(), "step", None, 1_000)
    return found["curves"].get("loss", {"mean": []})["mean"]


def test_lines_are_seen_as_they_come_and_a_half_one_when_it_is_whole(path: Path) -> None:
    file = MetricsFile(path)
    assert losses(file) == []  # not there yet
    path.touch()
    assert losses(file) == []
    half = json.dumps(line(3, loss=7.0))
    write(path, [line(1, loss=5.0), line(2, loss=6.0)], end=half[:40])
    assert losses(file) == [5.0, 6.0]
    with path.open("a") as more:
        more.write(half[40:])
    assert losses(file) == [5.0, 6.0]  # its end is not written
    with path.open("a") as more:
        more.write("\n")
    assert losses(file) == [5.0, 6.0, 7.0]
    found = file.curves(Background(), "step", None, 1_000)
    assert (found["read"], found["sampled"], found["lines"], found["bad"]) == (1.0, False, 3, 0)


def test_a_file_that_was_replaced_is_read_again(path: Path) -> None:
    file = MetricsFile(path)
    write(path, [line(i, loss=5.0) for i in range(1, 31)])
    assert losses(file) == [5.0] * 30
    beside = path.with_name("beside")  # as a run does that goes on from a checkpoint
    write(beside, [line(i, loss=5.0) for i in range(1, 21)])
    beside.replace(path)
    write(path, [line(i, loss=4.0) for i in range(21, 60)])
    assert losses(file) == [5.0] * 20 + [4.0] * 39
    write(path, [line(i, loss=3.0) for i in range(1, 90)], mode="w")  # in place, and longer than before
    assert losses(file) == [3.0] * 89
    path.unlink()
    assert losses(file) == []
    write(path, [line(1, loss=2.0)])
    assert losses(file) == [2.0]


def test_of_a_large_file_a_sample_is_seen_first_and_all_of_it_later(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(metrics_file, "AT_ONCE", 1 << 14)
    monkeypatch.setattr(metrics_file, "PIECE", 1 << 16)
    monkeypatch.setattr(metrics_file, "SAMPLES", 50)
    rows = [line(i, loss=1.0) for i in range(1, 3_001)]
    rows[1_234]["loss"] = 99.0
    write(path, rows)
    file, idle = MetricsFile(path), Background()
    monkeypatch.setattr(idle, "add", lambda file: None)
    first = file.curves(idle, "step", None, 600)
    assert first["sampled"] and first["read"] < 1
    x = first["curves"]["loss"]["x"]
    assert 50 <= len(x) <= 80 and (x[0], x[-1]) == (1.0, 3_000.0)
    assert max(b - a for a, b in pairwise(x)) < 100  # evenly
    background, deadline = Background(), time.monotonic() + 20
    while (found := file.curves(background, "step", None, 600))["sampled"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (found["lines"], found["read"]) == (3_000, 1.0)
    assert max(found["curves"]["loss"]["high"]) == 99.0  # one in 3,000
    write(path, [line(3_001, loss=7.0)])
    assert file.curves(background, "step", None, 600)["lines"] == 3_001


def test_a_line_without_end_is_passed_over(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(metrics_file, "AT_ONCE", 1 << 10)
    monkeypatch.setattr(metrics_file, "PIECE", 1 << 10)
    write(path, [line(1)], end="x" * 5_000 + "\n" + json.dumps(line(2)) + "\n")
    file = MetricsFile(path)
    for _ in range(20):
        file.read(1 << 10)
    assert file.course.steps["step"].tolist() == [1.0, 2.0]
