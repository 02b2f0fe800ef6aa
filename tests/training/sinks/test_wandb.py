"""What wandb writes offline, which `wandb sync` sends."""

import json
import os
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from followed import Training, expected

from lanbot.core.errors import UserError
from lanbot.distributed.runtime import Runtime
from lanbot.training.sinks import check, following

pytest.importorskip("wandb")
RUNTIME = Runtime.single()
BLOCK = 32_768


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


def records(path: Path) -> Iterator[Any]:
    """Of a .wandb file: a log of LevelDB, whose blocks hold pieces with (checksum, length, kind) before them."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, held = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        held += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = Record()
            record.ParseFromString(held)
            yield record
            held = b""


def read(folder: Path) -> tuple[list[tuple[str, str, str]], dict[str, list[tuple[int, Any]]]]:
    """(id, name, group) of the runs in the order in which they were opened, and all figures by name."""
    runs, found = [], defaultdict(list)
    for path in sorted(folder.glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        for record in records(path):
            if record.HasField("run"):
                runs.append((record.run.run_id, record.run.display_name, record.run.run_group))
            if record.HasField("history"):
                values = {
                    one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in record.history.item
                }
                for name, value in values.items():
                    found[name].append((record.history.step.num or values.get("_step"), value))
    return list(dict.fromkeys(runs)), found


def test_a_phase_that_resumes_is_one_run_with_each_step_once(training: Callable[..., Training]) -> None:
    phase = training("wandb")
    with following(phase.run, "base", RUNTIME):
        phase.lines(range(25))
    phase.back_to(20)
    with following(phase.run, "base", RUNTIME):
        phase.lines(range(21, 31))
        phase.done()
    runs, found = read(phase.phase / "wandb")
    assert [(name, group) for _, name, group in runs] == [("bot/base", "bot")]
    assert {name: found[name] for name in ("loss", "tokens", "val_bpb")} == expected(range(31))
    assert found["eval/identity"] == [(30, 0.75)]
    assert found["samples/_type"] == [(30, "table-file")]
    assert not os.path.exists("wandb")


def test_without_a_key_it_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UserError) as caught:
        check(["wandb"])
    assert caught.value.problem == "log.sinks: wandb has no key"
    assert "WANDB_API_KEY" in caught.value.remedy
