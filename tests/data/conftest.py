from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub

from lanbot.core import http


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A mock hub in place of the real one, an empty cache and short backoff."""
    server = Hub()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("LANBOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("LANBOT_MIRROR", "LANBOT_OFFLINE", "HF_HUB_OFFLINE", "HF_TOKEN", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(http, "BACKOFF", 0.005)
    yield server
    server.close()
