"""What is in Trackio's own database."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from followed import Training, expected

from lanbot.distributed.runtime import Runtime
from lanbot.training.sinks import following

pytest.importorskip("trackio")
RUNTIME = Runtime.single()


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where it will be; Trackio reads the environment once, so that its modules are told."""
    import trackio.sqlite_storage
    import trackio.utils

    for module in (trackio, trackio.utils, trackio.sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path, raising=False)
    return tmp_path / "lanbot.db"


def read(path: Path) -> dict[str, dict[str, list[tuple[int, Any]]]]:
    """By run and name, in the order in which they came."""
    found: dict[str, dict[str, list[tuple[int, Any]]]] = defaultdict(lambda: defaultdict(list))
    with sqlite3.connect(path) as connection:
        for run, step, text in connection.execute("SELECT run_id, step, metrics FROM metrics ORDER BY id"):
            for name, value in json.loads(text).items():
                found[run][name].append((step, value))
    return found


def test_a_phase_that_resumes_is_one_run_with_each_step_once(
    training: Callable[..., Training], database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phase = training("trackio")
    with following(phase.run, "base", RUNTIME):
        phase.lines(range(25))
    phase.back_to(20)
    with following(phase.run, "base", RUNTIME):
        phase.lines(range(21, 31))
        phase.done()
    (found,) = read(database).values()
    assert {name: found[name] for name in ("loss", "tokens", "val_bpb")} == expected(range(31))
    assert found["eval/identity"] == [(30, 0.75)]
    ((step, table),) = found["samples"]
    assert step == 30 and "It is\n4 | `x`" in json.dumps(table).replace("\\n", "\n")
    said = capsys.readouterr()
    assert said.out == "" and "trackio show" in said.err


def test_a_run_that_is_made_anew_is_another_one(training: Callable[..., Training], database: Path) -> None:
    phase = training("trackio")
    for _ in range(2):
        with following(phase.run, "base", RUNTIME):
            phase.lines(range(5))
        for path in sorted(phase.phase.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    assert [found["loss"] for found in read(database).values()] == [expected(range(5))["loss"]] * 2
