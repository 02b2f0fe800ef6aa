"""write_atomic: complete or unchanged, whatever the path is."""

import os
import stat
import threading
from pathlib import Path

import pytest

from lanbot.core.files import write_atomic


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    real, link = tmp_path / "there" / "real.txt", tmp_path / "link.txt"
    link.symlink_to(real)
    for text in ("one", "two"):
        write_atomic(link, text)
        assert link.is_symlink() and real.read_text() == text
    assert os.listdir(tmp_path / "there") == ["real.txt"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_a_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file.txt"
    path.write_text("before")
    path.chmod(mode)
    write_atomic(path, "after")
    assert (stat.S_IMODE(path.stat().st_mode), path.read_text()) == (mode, "after")


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write_atomic(pipe, "said")
    reader.join(10)
    assert read == ["said"] and stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_to() -> None:
    write_atomic(Path("/dev/null"), "nothing")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (tmp_path / ".a.txt.tmp").symlink_to(secret)
    write_atomic(tmp_path / "a.txt", "mine")
    assert (secret.read_text(), (tmp_path / "a.txt").read_text()) == ("secret", "mine")


def test_text_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.txt", "é 猫\n")
    assert (tmp_path / "a.txt").read_bytes() == "é 猫\n".encode()
