"""A stand-in for Shadeform whose clock moves whenever LanBot waits, and a folder to type commands in."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from renting import TOKEN, Client, stubs
from shadeform_server import Server

from lanbot.cloud import launch, records, storage, watch
from lanbot.cloud.providers import shadeform


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named, because a machine could not install this checkout."""
    monkeypatch.setenv("LANBOT_PACKAGE", "lanbot")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        for module in (launch, watch, shadeform):
            monkeypatch.setattr(module, "sleep", server.advance)
        monkeypatch.setattr(records, "now", server.now)
        yield server


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Client:
    return Client(server, tmp_path / "runs" / ".cloud")


# -- lanbot cloud, as typed -------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder and no keys, as a person begins; a plan of one hour a phase; a node in the midst of sft."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANBOT_RUNS", str(tmp_path / "runs"))
    for name in ("SHADEFORM_API_KEY", "HF_TOKEN", "WANDB_API_KEY", "LANBOT_STORE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("LANBOT_SOURCE", "hf:me/old#mid")
    monkeypatch.setattr(storage, "said", lambda record: {"status.json": {"phase": "sft", "step": 40, "progress": 0.5}})
    monkeypatch.setattr(storage, "clear", lambda record: None)
    monkeypatch.setattr(storage, "listed", lambda url: ["mid_checkpoints/d20/model_000813.pt"])
    for name, stub in stubs().items():
        monkeypatch.setitem(sys.modules, f"lanbot.cloud.{name}", stub)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def account(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """With the key in the environment."""
    monkeypatch.setenv("SHADEFORM_API_URL", server.url)
    monkeypatch.setenv("SHADEFORM_API_KEY", server.key)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return server
