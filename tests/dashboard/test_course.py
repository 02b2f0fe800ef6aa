"""What is kept of a course, and what a curve as wide as a screen shows of it."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import line

from lanbot.dashboard.columns import parse
from lanbot.dashboard.course import Course, thin

NUMBERS = st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf])


def course(rows: list[dict]) -> Course:
    made = Course()
    made.add(*parse("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return made


@given(st.lists(NUMBERS, max_size=400), st.integers(1, 40), st.integers(0, 2**32))
def test_no_value_is_outside_of_what_is_drawn_and_none_is_invented(values: list[float], points: int, seed: int) -> None:
    x = np.sort(np.random.default_rng(seed).integers(0, 200, len(values)).astype(float))
    y = np.array(values, float)
    found = thin(x, y, 0.0, 200.0, points)
    finite = y[np.isfinite(y)]
    assert len(found["x"]) <= 2 * points + 1
    assert sum(found.get("count", [1] * len(found["x"]))) == len(finite)
    if not len(finite):
        assert found["x"] == []
        return
    lows, highs = found.get("low", found["mean"]), found.get("high", found["mean"])
    assert min(lows) == pytest.approx(finite.min(), rel=1e-5)
    assert max(highs) == pytest.approx(finite.max(), rel=1e-5)
    slack = 1e-5 * max(1.0, abs(finite).max())
    assert all(low - slack <= mean <= high + slack for low, mean, high in zip(lows, found["mean"], highs, strict=True))
    assert found["x"] == sorted(found["x"])
    assert all(np.isfinite(found[name]).all() for name in found)


@given(st.integers(0, 9_999), st.integers(20, 400))
def test_a_single_spike_is_seen_wherever_it_is(place: int, points: int) -> None:
    y = np.ones(10_000)
    y[place] = 50.0
    found = thin(np.arange(10_000.0), y, 0.0, 9_999.0, points)
    at = found["high"].index(50.0)
    assert found["low"][at] == 1.0
    assert abs(found["x"][at] - place) <= 10_000 / points


def test_a_part_is_drawn_to_its_edges() -> None:
    x = np.arange(1_000.0)
    found = thin(x, x, 100.0, 110.0, 50)
    assert found["x"] == list(range(99, 112))  # each step, and one beyond at either side
    wide = thin(x, x, 100.0, 900.0, 10)
    assert (wide["x"][0], wide["x"][-1], len(wide["x"])) == (99.0, 901.0, 12)


def test_a_run_that_went_back_to_a_checkpoint_shows_its_later_steps() -> None:
    first = [{"step": 0, "val_bpb": 2.0}, *(line(i, loss=5.0) for i in range(1, 31)), {"step": 30, "val_bpb": 1.5}]
    again = [line(i, loss=1.0) for i in range(21, 26)]
    found = course([*first, *again])
    assert found.steps["step"].tolist() == list(range(1, 26))
    assert found.steps["loss"].tolist() == [5.0] * 20 + [1.0] * 5
    assert found.measured["step"].tolist() == [0.0]  # that at 30 will be measured again


@given(st.lists(st.integers(1, 12), max_size=40), st.integers(1, 40))
def test_steps_end_in_order_however_the_lines_come_in(steps: list[int], piece: int) -> None:
    found, text = Course(), [json.dumps(line(step, loss=float(i))) + "\n" for i, step in enumerate(steps)]
    for start in range(0, len(text), piece):
        found.add(*parse("".join(text[start : start + piece]).encode()))
    kept: dict[int, float] = {}
    for i, step in enumerate(steps):  # one line after the other
        kept = {one: loss for one, loss in kept.items() if one < step} | {step: float(i)}
    pairs = zip(found.steps["step"].tolist(), found.steps["loss"].tolist(), strict=True) if steps else []
    assert dict(pairs) == kept


def test_skipped_updates_and_spikes_are_marked() -> None:
    rows = [line(i) for i in range(1, 101)]
    del rows[41]["loss"]  # a loss that is not finite is not written
    for row in rows[41:]:
        row["skipped"] = 1
    rows[70]["spike"] = True
    found = course(rows).curves("step", None, 600)
    assert (found["skipped"], found["spikes"]) == ([42.0], [71.0])
    assert 42.0 not in found["curves"]["loss"]["x"]
    assert found["end"] == 100.0


def test_clocks() -> None:
    rows = [{"step": 0, "val_bpb": 2.0, "tokens": 0, "seconds": 0.0}, line(1), line(2)]
    made = course(rows)
    assert made.curves("seconds", None, 10)["curves"]["loss"]["x"] == [0.5, 1.0]
    assert made.curves("tokens", None, 10)["curves"]["loss"]["x"] == [2_048.0, 4_096.0]
    flops = made.curves("flops", 1e6, 10)
    assert flops["curves"]["loss"]["x"] == [2.048e9, 4.096e9]
    assert flops["dots"]["val_bpb"] == {"x": [0.0], "mean": [2.0]}
    assert made.curves("flops", None, 10)["curves"] == {}  # not known for this phase


@given(st.lists(st.binary(max_size=60).filter(lambda one: b"\n" not in one), max_size=12), st.integers(0, 12))
def test_damaged_lines_cost_no_others(damaged: list[bytes], place: int) -> None:
    good = [json.dumps(line(i)).encode() for i in range(1, 6)]
    place = min(place, len(good))
    columns, bad = parse(b"\n".join([*good[:place], *damaged, *good[place:]]) + b"\n")
    assert [step for step in columns["step"].tolist() if step in range(1, 6)] == [1, 2, 3, 4, 5]
    assert bad <= len(damaged)


def test_what_is_no_line_of_metrics_is_counted() -> None:
    columns, bad = parse(b'{"step": 1, "loss": 2}\n[1]\n{"loss": 3}\nx\n{"step": "a"}\n\n{"step": 2, "loss": "no"}\n')
    assert columns["step"].tolist() == [1.0, 2.0]
    assert columns["loss"][0] == 2.0 and math.isnan(columns["loss"][1])
    assert bad == 4


@pytest.mark.parametrize("lines", [b"null\n", b'{"step": 1} null\n{"step": 2}\n', b'{"step": 2}\nnull\n'])
def test_a_line_of_null_does_not_end_the_process(lines: bytes) -> None:
    columns, bad = parse(lines)  # Arrow's reader would
    assert bad == 1 and columns["step"].tolist() in ([], [2.0])


def test_a_clock_without_numbers_is_still_json() -> None:
    rows = [line(1), {"step": 1, "val_bpb": 2.0}, {**line(2), "seconds": 1e400, "tokens": 1e308}]
    for clock in ("seconds", "tokens", "flops"):
        json.dumps(course(rows).curves(clock, 1e6, 10), allow_nan=False)
