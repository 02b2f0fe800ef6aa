"""Downloads from a server that cuts connections, stalls, refuses and sends wrong bytes."""

import email.utils
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import Fault, Hub, answer, cut, git_oid, instead, sha256, slow, stall, without_ranges

from lanbot.core import console, http
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.data import download
from lanbot.data.download import Remote

options = Options.from_environment

CONTENT = random.Random(0).randbytes(100_000)


@pytest.fixture
def remote(hub: Hub, tmp_path: Path) -> Remote:
    hub.plain["words.bin"] = CONTENT
    path = tmp_path / "cache" / "deep" / "words.bin"
    return Remote("words.bin", f"{hub.storage}/plain/words.bin", path, len(CONTENT), f"sha256:{sha256(CONTENT)}")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would have been waited between tries."""
    waited: list[float] = []
    monkeypatch.setattr(http, "sleep", waited.append)
    return waited


def refused(remote: Remote) -> UserError:
    with pytest.raises(UserError) as caught:
        download.get([remote], options())
    assert str(caught.value).count("\n") == 1
    assert not remote.path.exists()
    return caught.value


def ranges(hub: Hub) -> list[str]:
    return [asked.range for asked in hub.contents("words.bin")]


def only_the_file_is_left(remote: Remote) -> bool:
    return [path.name for path in remote.path.parent.iterdir()] == [remote.path.name]


def test_a_file_is_downloaded_once(hub: Hub, remote: Remote) -> None:
    assert download.get([remote], options()) == [remote.path] == download.get([remote], options())
    assert remote.path.read_bytes() == CONTENT
    assert ranges(hub) == [""]
    assert only_the_file_is_left(remote)


def test_what_is_not_as_long_as_listed_is_fetched_again(hub: Hub, remote: Remote) -> None:
    remote.path.parent.mkdir(parents=True)
    remote.path.write_bytes(CONTENT[:-1])
    assert download.get([remote], options())[0].read_bytes() == CONTENT


@pytest.mark.parametrize("fault", [cut, stall])
def test_a_download_resumes_after_a_broken_or_stalled_connection(
    fault: Callable[[int], Fault], hub: Hub, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "STALL_SECONDS", 0.4)
    hub.faults["words.bin"] = [fault(30_000), fault(20_000)]
    assert download.get([remote], options())[0].read_bytes() == CONTENT
    assert ranges(hub) == ["", "bytes=30000-", "bytes=50000-"]


def test_a_connection_that_breaks_again_and_again_still_downloads_the_file(
    hub: Hub, remote: Remote, pauses: list[float]
) -> None:
    hub.faults["words.bin"] = [cut(4_000) for _ in range(3 * http.TRIES)]
    assert len(hub.faults["words.bin"]) > 100_000 // 4_000
    assert download.get([remote], options())[0].read_bytes() == CONTENT
    assert len(ranges(hub)) == 25


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again_later_and_later(
    status: int, hub: Hub, remote: Remote, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "BACKOFF", 1.0)
    hub.faults["words.bin"] = [answer(status) for _ in range(8)]
    assert download.get([remote], options())[0].read_bytes() == CONTENT
    assert all(limit / 2 <= pause <= limit for pause, limit in zip(pauses, [1, 2, 4, 8, 16, 32, 60, 60], strict=True))


def test_the_server_says_how_long_to_wait(hub: Hub, remote: Remote, pauses: list[float]) -> None:
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    hub.faults["words.bin"] = [
        answer(429, Retry_After="7"),
        answer(503, Retry_After=in_a_minute),
        answer(429, RateLimit='"resolvers";r=0;t=55'),
        answer(429, Retry_After="99999"),
        answer(429, Retry_After="soon"),
    ]
    download.get([remote], options())
    assert pauses[0] == 7 and 50 < pauses[1] <= 60 and pauses[2:4] == [55, http.RETRY_AFTER_MAX] and pauses[4] < 1


def test_it_gives_up_in_the_end_and_the_next_run_resumes(hub: Hub, remote: Remote, pauses: list[float]) -> None:
    hub.faults["words.bin"] = [cut(30_000)] + [answer(503) for _ in range(http.TRIES - 1)]
    error = refused(remote)
    assert "words.bin: the server answers 503" in error.problem and f"{http.TRIES} tries" in error.problem
    assert "again" in error.remedy
    assert download.get([remote], options())[0].read_bytes() == CONTENT
    assert ranges(hub)[-1] == "bytes=30000-"


def test_no_network(hub: Hub, remote: Remote, pauses: list[float]) -> None:
    hub.close()
    error = refused(remote)
    assert "no connection to 127.0.0.1" in error.problem and "network" in error.remedy
    assert len(pauses) == http.TRIES - 1
    assert not any(remote.path.parent.iterdir())


@pytest.mark.parametrize(
    "fault",
    [
        instead(lambda body: body[:-1] + bytes([body[-1] ^ 1])),
        instead(lambda body: body[:-1]),
        instead(lambda body: body + b"!"),
        instead(lambda body: b"<html>Please log in.</html>"),
        instead(lambda body: b""),
    ],
    ids=["a bit", "short", "long", "page", "nothing"],
)
def test_wrong_bytes_are_fetched_again_a_few_times_and_never_kept(fault: Fault, hub: Hub, remote: Remote) -> None:
    hub.faults["words.bin"] = [fault, fault]
    assert download.get([remote], options())[0].read_bytes() == CONTENT
    remote.path.unlink()
    hub.faults["words.bin"] = [fault] * download.WRONG_TRIES
    error = refused(remote)
    assert "words.bin: the content does not match the listing" in error.problem
    assert set(ranges(hub)) == {""}
    assert not any(remote.path.parent.iterdir())


def test_a_part_damaged_on_disk_is_detected(hub: Hub, remote: Remote) -> None:
    remote.path.parent.mkdir(parents=True)
    for left in (b"x" * 50_000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1)):
        remote.part().write_bytes(left)
        assert download.get([remote], options())[0].read_bytes() == CONTENT
        remote.path.unlink()


def test_a_complete_part_needs_no_request(hub: Hub, remote: Remote) -> None:
    remote.path.parent.mkdir(parents=True)
    remote.part().write_bytes(CONTENT)
    assert download.get([remote], options())[0].read_bytes() == CONTENT
    assert not hub.asked and only_the_file_is_left(remote)


def test_a_server_without_ranges(hub: Hub, remote: Remote) -> None:
    hub.faults["words.bin"] = [cut(30_000), without_ranges(), cut(1)]
    assert download.get([remote], options())[0].read_bytes() == CONTENT
    assert len(ranges(hub)) == 2
    remote.path.unlink()
    hub.faults["words.bin"] = [
        cut(30_000),
        answer(416),
        cut(30_000),
        answer(206, b"?", Content_Range="bytes 5-9/100000"),
    ]
    assert download.get([remote], options())[0].read_bytes() == CONTENT


def test_a_wrong_range_is_rejected(hub: Hub, remote: Remote) -> None:
    hub.faults["words.bin"] = [cut(30_000), answer(206, b"?", Content_Range="bytes 5-5/100000")]
    assert download.get([remote._replace(digest="", size=None)], options())[0].read_bytes() == CONTENT


def test_a_server_without_ranges_that_always_cuts_is_given_up(hub: Hub, remote: Remote, pauses: list[float]) -> None:
    hub.faults["words.bin"] = [without_ranges(30_000) for _ in range(2 * http.TRIES)]
    assert "the connection broke" in refused(remote).problem
    assert len(ranges(hub)) == http.TRIES


def test_a_small_file_of_the_hub_is_checked_by_its_git_name(hub: Hub, remote: Remote) -> None:
    remote = remote._replace(digest=f"git:{git_oid(CONTENT)}")
    hub.faults["words.bin"] = [instead(lambda body: b"?" + body[1:])]
    assert download.get([remote], options())[0].read_bytes() == CONTENT
    assert len(ranges(hub)) == 2


@pytest.mark.parametrize("weak", [False, True])
def test_of_a_file_without_a_digest_two_versions_are_never_mixed(weak: bool, hub: Hub, remote: Remote) -> None:
    remote, hub.weak_etags = remote._replace(size=None, digest=""), weak
    hub.faults["words.bin"] = [cut(30_000)]
    assert download.get([remote], options())[0].read_bytes() == CONTENT
    assert ranges(hub) == ["", "" if weak else "bytes=30000-"]
    remote.path.unlink()
    remote.part().write_bytes(b"of an earlier run")

    def changed(handler: object, body: bytes) -> None:
        cut(30_000)(handler, body)  # type: ignore[arg-type]
        hub.plain["words.bin"] = CONTENT[::-1]

    hub.faults["words.bin"] = [changed]
    assert download.get([remote], options())[0].read_bytes() == CONTENT[::-1]


def test_an_address_that_is_not_there(hub: Hub, remote: Remote, pauses: list[float]) -> None:
    assert "404" in refused(remote._replace(url=f"{hub.storage}/plain/none")).problem
    assert "cannot be reached" in refused(remote._replace(url="gopher://127.0.0.1/x")).problem
    assert pauses == []


# -- the disk ----------------------------------------------------------------------------------------------


def test_a_full_disk_is_reported_beforehand_with_the_size_needed(
    hub: Hub, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3_000))
    error = refused(remote)
    assert "97.7 KiB" in error.problem and "2.9 KiB are free" in error.problem and "LANBOT_CACHE" in error.remedy
    assert not hub.asked


def test_a_disk_that_fills_up_meanwhile(hub: Hub, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "no room for words.bin" in refused(remote).problem


def test_a_cache_that_cannot_be_written(hub: Hub, remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    error = refused(remote)
    assert str(tmp_path / "cache") in error.problem and "LANBOT_CACHE" in error.remedy


# -- many --------------------------------------------------------------------------------------------------


def several(hub: Hub, folder: Path, count: int) -> list[Remote]:
    hub.plain |= {f"{i}.txt": b"%d" % i * 1_000 for i in range(count)}
    return [
        Remote(name, f"{hub.storage}/plain/{name}", folder / name, len(data), f"sha256:{sha256(data)}")
        for name, data in hub.plain.items()
        if name.endswith(".txt")
    ]


def test_files_are_downloaded_in_parallel(hub: Hub, tmp_path: Path) -> None:
    remotes = several(hub, tmp_path, 20)
    first = [remote.name for remote in remotes[: download.PARALLEL]]

    together = []

    def once_all_are_asked_for(handler: object, body: bytes) -> None:
        if all(hub.contents(name) for name in first):
            hub.let_go.set()
        together.append(hub.let_go.wait(5))
        slow(0)(handler, body)  # type: ignore[arg-type]

    for name in first:
        hub.faults[name] = [once_all_are_asked_for]
    paths = download.get(remotes, options())
    assert together == [True] * download.PARALLEL
    assert [path.read_bytes() for path in paths] == [hub.plain[path.name] for path in paths]


def test_a_failure_does_not_wait_for_the_other_downloads(hub: Hub, tmp_path: Path) -> None:
    remotes = several(hub, tmp_path, 3)
    hub.faults["0.txt"], hub.faults["2.txt"] = [slow(30)], [answer(404)]
    with pytest.raises(UserError, match=r"2\.txt"):
        download.get(remotes, options())
    assert not remotes[0].path.exists()


def test_what_failed_ahead_is_tried_again_when_it_is_needed(hub: Hub, remote: Remote) -> None:
    hub.faults["words.bin"] = [answer(404)]
    download.ahead([remote], options())
    while download._jobs:
        time.sleep(0.01)
    assert download.get([remote], options())[0].read_bytes() == CONTENT
    remote.path.unlink()
    hub.faults["words.bin"] = [answer(404), answer(404)]
    download.ahead([remote], options())
    assert "404" in refused(remote).problem


def test_offline_only_the_cache_is_used(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remotes = several(hub, tmp_path, 4)
    download.get(remotes[:1], options())
    asked = len(hub.asked)
    for name in ("LANBOT_OFFLINE", "HF_HUB_OFFLINE"):
        with monkeypatch.context() as context:
            context.setenv(name, "1")
            assert download.get(remotes[:1], options()) == [remotes[0].path]
            download.ahead(remotes, options())
            with pytest.raises(UserError, match=r"1\.txt \(nor are 2 more\): not in the cache"):
                download.get(remotes, options())
    assert len(hub.asked) == asked


def test_progress_shows_amount_rate_and_trouble(
    hub: Hub, remote: Remote, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FIRST_SECONDS", "LOG_SECONDS"):
        monkeypatch.setattr(console, name, 0.0)
    monkeypatch.setattr(http, "BACKOFF", 0.5)
    hub.faults["words.bin"] = [cut(50_000, 0.15), answer(503)]
    download.get([remote], options())
    said = capsys.readouterr().err
    assert "downloading words.bin | 48.8 KiB of 97.7 KiB | " in said and "/s | " in said and "left" in said
    assert "the connection broke" in said and "the server answers 503" in said and f"try 2 of {http.TRIES}" in said
    remote.path.unlink()
    monkeypatch.setenv("RANK", "1")
    hub.faults["words.bin"] = [slow(0.2)]
    download.get([remote], options())
    assert capsys.readouterr().err == ""


# -- several processes -------------------------------------------------------------------------------------


def process(remote: Remote) -> subprocess.Popen[str]:
    """Another process that downloads a file and says how that ended."""
    code = f"""if True:
        import signal
        from pathlib import PosixPath
        from lanbot.core.options import Options
        from lanbot.data import download
        from lanbot.data.download import Remote
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
        try:
            print(len(download.get([{remote!r}], Options.from_environment())[0].read_bytes()))
        except KeyboardInterrupt:
            print("stopped")
    """
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def wait_until(size: int, part: Path) -> None:
    while not (part.exists() and part.stat().st_size >= size):
        time.sleep(0.01)


def test_three_processes_download_once(hub: Hub, remote: Remote) -> None:
    hub.faults["words.bin"] = [stall(30_000)]
    first = process(remote)
    wait_until(30_000, remote.part())
    others = [process(remote), process(remote)]
    time.sleep(0.7)  # they wait for the lock by now; if not, they find the file: either way they must not fetch it
    hub.let_go.set()
    assert [p.communicate(timeout=20)[0] for p in (first, *others)] == ["100000\n"] * 3
    assert ranges(hub) == ["", "bytes=30000-"]
    assert only_the_file_is_left(remote)


def test_another_process_resumes_the_part_of_a_killed_one(hub: Hub, remote: Remote) -> None:
    hub.faults["words.bin"] = [stall(30_000)]
    killed = process(remote)
    wait_until(30_000, remote.part())
    waiting = process(remote)
    time.sleep(0.3)
    killed.kill()
    assert waiting.communicate(timeout=20)[0] == "100000\n"
    assert ranges(hub) == ["", "bytes=30000-"]
    killed.communicate()


def test_ctrl_c_ends_a_process_that_waits_for_a_download(hub: Hub, remote: Remote) -> None:
    hub.faults["words.bin"] = [stall(30_000)]
    stopped = process(remote)
    wait_until(30_000, remote.part())
    stopped.send_signal(signal.SIGINT)
    assert stopped.communicate(timeout=10)[0] == "stopped\n" and stopped.returncode == 0
    assert download.get([remote], options())[0].read_bytes() == CONTENT
    assert ranges(hub) == ["", "bytes=30000-"]


def test_a_waiting_process_starts_a_new_part_when_the_holder_gives_up(tmp_path: Path) -> None:
    path, order = tmp_path / "a.part", []

    def wait() -> None:
        with download.locked(path, order.append) as file:
            file.write(b"mine")

    with download.locked(path, order.append):
        waiting = threading.Thread(target=wait)
        waiting.start()
        while not order:
            time.sleep(0.01)
    waiting.join()
    assert path.read_bytes() == b"mine" and "another process" in order[0]
