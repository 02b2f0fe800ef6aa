"""Warm-up, stable, decay."""

import pytest

from lanbot.training.schedule import wsd


def test_up_then_flat_then_down() -> None:
    scales = [wsd(i / 100, warmup=0.1, decay=0.4) for i in range(101)]
    assert scales[:11] == sorted(scales[:11])
    assert scales[10:61] == [1.0] * 51
    assert scales[60:] == sorted(scales[60:], reverse=True)
    assert scales[80] == pytest.approx(0.5)
    assert scales[100] == 0


def test_the_first_step_is_small_but_not_nothing() -> None:
    assert 0 < wsd(0.0, warmup=0.1, decay=0.5) < 0.05


@pytest.mark.parametrize(("warmup", "decay"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.7, 0.7)])
def test_the_edges_are_scales_too(warmup: float, decay: float) -> None:
    scales = [wsd(i / 50, warmup, decay) for i in range(51)]
    assert all(0 <= scale <= 1 for scale in scales)
    assert max(scales[:-1]) > 0


def test_without_warmup_and_decay_it_is_flat() -> None:
    assert {wsd(i / 10, 0.0, 0.0) for i in range(11)} == {1.0}


def test_a_cosine_is_flat_first_and_falls_slowly_at_both_ends() -> None:
    line, cosine = ([wsd(i / 100, 0.1, 0.5, cosine=on) for i in range(101)] for on in (False, True))
    assert cosine[:51] == line[:51] and cosine[-1] == 0.0
    assert cosine[75] == pytest.approx(0.5) == pytest.approx(line[75])
    assert cosine[60] > line[60] + 0.1 and cosine[90] < line[90] - 0.1
    assert cosine[50:] == sorted(cosine[50:], reverse=True)
