"""Options: flags come before the environment, the environment before defaults."""

from pathlib import Path

import pytest

from lanbot.core.options import Options

NAMES = ("LANBOT_MIRROR", "LANBOT_OFFLINE", "HF_HUB_OFFLINE", "LANBOT_CACHE", "LANBOT_RUNS", "LANBOT_UNSAFE_EXEC")


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_defaults() -> None:
    cache = Path.home() / ".cache" / "lanbot"
    assert Options.from_environment() == Options(None, False, cache, Path("runs"), False)


def test_the_environment_sets_what_no_flag_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(NAMES, ("/mirror", "1", "0", "/cache", "/runs", "yes"), strict=True):
        monkeypatch.setenv(name, value)
    assert Options.from_environment() == Options(Path("/mirror"), True, Path("/cache"), Path("/runs"), True)
    assert Options.from_environment(mirror=Path("/other")).mirror == Path("/other")


@pytest.mark.parametrize("value", ["", "0", "false", "no", "off"])
def test_a_switch_that_is_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANBOT_UNSAFE_EXEC", value)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert not Options.from_environment().unsafe_exec and not Options.from_environment().offline
    assert Options.from_environment(unsafe_exec=True).unsafe_exec
