"""What sinks are sent: each figure once, in order, whatever happens to them or to the run."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from followed import Training, expected

from lanbot.config.recipe_file import load
from lanbot.core.errors import Stopped, UserError
from lanbot.distributed.runtime import Runtime
from lanbot.training.sinks import check, follow, following
from lanbot.training.sinks.sink import Place, Sink

RUNTIME = Runtime.single()
ME = f"{__name__}:Recorded"


class Recorded(Sink):
    """Remembers what it is sent, beyond its life; fails or hangs where a test wants it to."""

    name = "recorded"
    got: ClassVar[dict[str, list[tuple[int, Any]]]] = defaultdict(list)
    said: ClassVar[list[Sequence[tuple[str, str]]]] = []
    opened: ClassVar[list[Place]] = []
    closed: ClassVar[list[str]] = []
    fails: ClassVar[set[str]] = set()
    hangs: ClassVar[threading.Event | None] = None

    def __init__(self, place: Place) -> None:
        self.opened.append(place)
        self._fail("open")

    def figures(self, step: int, values: dict[str, float]) -> None:
        self._fail("figures")
        if self.hangs:
            self.hangs.wait()
        for name, value in values.items():
            self.got[name].append((step, value))

    def samples(self, step: int, rows: Sequence[tuple[str, str]]) -> None:
        self.said.append(rows)

    def flush(self) -> None:
        self._fail("flush")

    def close(self) -> None:
        self.closed.append("closed")
        self._fail("close")

    def _fail(self, where: str) -> None:
        if where in self.fails:
            raise ConnectionError(f"no network\nin {where}")


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    for kept in (Recorded.got, Recorded.said, Recorded.opened, Recorded.closed, Recorded.fails):
        kept.clear()  # type: ignore[attr-defined]
    yield
    if Recorded.hangs:
        Recorded.hangs.set()
    for thread in threading.enumerate():
        if thread.name.startswith("sink"):
            thread.join()
    Recorded.hangs = None


def until(condition: Callable[[], object]) -> None:
    for _ in range(4_000):
        if condition():
            return
        time.sleep(0.005)
    pytest.fail("it never came to that")


def test_a_sink_gets_every_line_while_the_phase_trains_and_its_results_at_the_end(
    training: Callable[..., Training],
) -> None:
    phase = training(ME)
    with following(phase.run, "base", RUNTIME):
        phase.lines(range(25))
        until(lambda: Recorded.got["loss"][-1:] == [(24, 4.76)])
        assert not Recorded.said
        phase.lines(range(25, 31))
        phase.done()
    got = dict(Recorded.got)
    assert {name: got.pop(name) for name in ("loss", "tokens", "val_bpb")} == expected(range(31))
    assert got == {
        "eval/identity": [(30, 0.75)],
        "eval/identity_stderr": [(30, 0.1)],
        "eval/pass@1_before": [(30, 0.5)],
        "eval/pass@1_before_stderr": [(30, 0.1)],
        "eval/val_bpb": [(30, 1.25)],
    }
    assert Recorded.said == [[("2+2?", "It is\n4 | `x`")]]
    assert len(Recorded.opened) == len(Recorded.closed) == 1
    assert Recorded.opened[0].name == "bot/base"


def test_steps_that_are_repeated_after_a_stop_are_not_sent_twice(training: Callable[..., Training]) -> None:
    phase = training(ME)

    def stopped() -> None:
        with following(phase.run, "base", RUNTIME):
            phase.lines(range(25))
            raise Stopped(130, "stopped")

    with pytest.raises(Stopped):
        stopped()
    phase.back_to(20)
    with following(phase.run, "base", RUNTIME):
        phase.lines(range(21, 41))
        phase.done()
    with following(phase.run, "base", RUNTIME):  # as a run that is done
        pass
    assert {name: Recorded.got[name] for name in ("loss", "tokens", "val_bpb")} == expected(range(41))
    assert len(Recorded.said) == 1
    first, second = Recorded.opened
    assert first.id == second.id
    assert (first.sent, second.sent) == (-1, 24)


def test_a_file_that_is_written_anew_meanwhile_is_read_from_its_start(training: Callable[..., Training]) -> None:
    """As by a phase that resumes, after its sink has begun to read."""
    phase = training(ME)
    with following(phase.run, "base", RUNTIME):
        phase.lines(range(25))
        until(lambda: Recorded.got["loss"][-1:] == [(24, 4.76)])
        phase.back_to(20)
        phase.lines(range(21, 61))
    assert {name: Recorded.got[name] for name in ("loss", "tokens", "val_bpb")} == expected(range(61))


def test_a_phase_that_is_trained_anew_is_another_one(training: Callable[..., Training]) -> None:
    phase = training(ME)
    for _ in range(2):
        with following(phase.run, "base", RUNTIME):
            phase.lines(range(5))
        for path in sorted(phase.phase.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    assert Recorded.opened[0].id != Recorded.opened[1].id
    assert len(Recorded.got["loss"]) == 8


@pytest.mark.parametrize("where", ["open", "figures", "flush", "close"])
def test_a_sink_that_fails_is_named_once_and_gets_later_what_it_missed(
    where: str, training: Callable[..., Training], capsys: pytest.CaptureFixture[str]
) -> None:
    phase = training(ME)
    Recorded.fails.add(where)
    with following(phase.run, "base", RUNTIME):
        phase.lines(range(11))
        until(lambda: len(Recorded.opened) > 2 or where == "close")
        phase.done()
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "ConnectionError: no network in" in said[0] and "metrics.jsonl" in said[0]
    Recorded.fails.clear()
    with following(phase.run, "base", RUNTIME):
        pass
    got = {name: dict(Recorded.got[name]) for name in ("loss", "tokens", "val_bpb")}
    assert got == {name: dict(points) for name, points in expected(range(11)).items()}
    assert Recorded.said[-1:] and capsys.readouterr().err == ""


def test_a_sink_that_comes_back_while_the_phase_trains_misses_nothing(training: Callable[..., Training]) -> None:
    phase = training(ME)
    Recorded.fails.add("figures")
    with following(phase.run, "base", RUNTIME):
        phase.lines(range(11))
        until(lambda: len(Recorded.opened) > 1)
        Recorded.fails.clear()
        until(lambda: Recorded.got["val_bpb"][-1:] == [(10, 1.9)])
    assert {name: Recorded.got[name] for name in ("loss", "tokens", "val_bpb")} == expected(range(11))


def test_a_sink_that_hangs_does_not_hold_the_run(
    training: Callable[..., Training], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(follow, "PATIENCE", 0.05)
    Recorded.hangs = threading.Event()
    phase = training(ME)
    with following(phase.run, "base", RUNTIME):
        phase.lines(range(11))
        until(lambda: Recorded.opened)
    assert "it does not answer" in capsys.readouterr().err


def test_a_line_that_is_still_being_written_is_left_for_later(training: Callable[..., Training]) -> None:
    phase = training(ME)
    with following(phase.run, "base", RUNTIME):
        phase.lines(range(3))
        with (phase.phase / "metrics.jsonl").open("a") as file:
            file.write('{"step": 3, "lo')
            file.flush()
            until(lambda: len(Recorded.got["loss"]) == 2)
            file.write('ss": 4.5}\n')
    assert Recorded.got["loss"][-1] == (3, 4.5)


def test_only_rank_0_writes(training: Callable[..., Training]) -> None:
    phase = training(ME)
    with following(phase.run, "base", replace(RUNTIME, rank=1)):
        phase.lines(range(3))
        phase.done()
    assert not Recorded.opened
    assert sorted(path.name for path in phase.phase.iterdir()) == ["evals.json", "metrics.jsonl"]


def test_a_phase_without_steps_opens_no_sink(training: Callable[..., Training]) -> None:
    phase = training(ME)
    with following(phase.run, "base", RUNTIME):
        phase.phase.mkdir(parents=True)
        phase.done()
    assert not Recorded.opened


def test_a_package_that_is_missing_is_reported_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        check(["tensorboard"])
    assert caught.value.problem == "log.sinks: the package tensorboard is not installed"
    assert "pip install 'lanbot[tensorboard]'" in caught.value.remedy


def test_a_sink_that_there_is_not_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        load("smoke", {"log.sinks": "tensorbord"})
    assert "log.sinks: no sink 'tensorbord'. Did you mean tensorboard?" in caught.value.problem
    assert load("smoke", {"log.sinks": "tensorboard,wandb"}).log.sinks == ("tensorboard", "wandb")
    with pytest.raises(UserError, match="not a Sink"):
        check(["lanbot.core.errors:UserError"])
