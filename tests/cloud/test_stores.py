"""Every kind of store holds what was pushed, says so only if it is so, and gives it back."""

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import serve

from lanbot.cloud import hub_stores, storage, stores
from lanbot.cloud.stores import FolderStore, Store, StoreError, open_store
from lanbot.core.errors import UserError

NAME = "runs/a b/sft/step_000400/model.safetensors"
BYTES = os.urandom(300_000)
KINDS = ("folder", "s3", "rsync", "hub", "bucket")


class Kept:
    """A store, and a way to change a stored file behind its back."""

    def __init__(self, store: Store, change: Callable[[str, bytes], None]) -> None:
        self.store, self.change = store, change


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=KINDS)
def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    return getattr(Make(request, tmp_path, monkeypatch), request.param)()  # type: ignore[no-any-return]


class Make:
    def __init__(self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.request, self.tmp_path, self.monkeypatch = request, tmp_path, monkeypatch

    def folder(self) -> Kept:
        root = self.tmp_path / "store"
        return Kept(open_store(f"file:{root}"), lambda name, data: void((root / name).write_bytes(data)))

    def s3(self) -> Kept:
        endpoint = self.request.getfixturevalue("s3")
        for name, value in {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "secret"}.items():
            self.monkeypatch.setenv(f"AWS_{name}", value)
        self.monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        bucket = hashlib.sha1(str(self.tmp_path).encode()).hexdigest()
        store = open_store(f"s3://{bucket}/some/folder")
        assert isinstance(store, stores.S3Store)
        client = store.client
        client.create_bucket(Bucket=bucket)
        return Kept(
            store, lambda name, data: void(client.put_object(Bucket=bucket, Key=f"some/folder/{name}", Body=data))
        )

    def rsync(self) -> Kept:
        if not shutil.which("rsync"):
            pytest.skip("no rsync")
        programs = self.tmp_path / "bin"
        programs.mkdir()
        ssh = programs / "ssh"
        ssh.write_text(  # runs the command here instead of there
            '#!/bin/sh\nwhile [ "$1" = -o ] || [ "$1" = -l ]; do shift 2; done\nshift\nexec sh -c "$*"\n'
        )
        ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
        self.monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        root = self.tmp_path / "the store"
        store = open_store(f"rsync:user@host:{root}")
        return Kept(store, lambda name, data: void((root / name).write_bytes(data)))

    def hub(self) -> Kept:
        files = serve(self.request, self.monkeypatch)
        return Kept(open_store("hf:me/bot"), lambda name, data: void(files.__setitem__(name, data)))

    def bucket(self) -> Kept:
        files: dict[str, bytes] = {}
        store = open_store("hf-bucket:me/bot/some/folder")
        assert isinstance(store, hub_stores.BucketStore)
        store.api = Buckets(files)
        return Kept(store, lambda name, data: void(files.__setitem__(f"some/folder/{name}", data)))


def void(value: object) -> None:
    return None


class Buckets:
    """Buckets as huggingface_hub's client shows them; their transport is not public."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def batch_bucket_files(self, bucket: str, add: Any = (), delete: Any = ()) -> None:
        assert bucket == "me/bot"
        for content, name in add:
            self.files[name] = content if isinstance(content, bytes) else Path(content).read_bytes()
        for name in delete:
            del self.files[name]

    def _file(self, name: str) -> Any:
        from huggingface_hub import BucketFile

        data = self.files[name]
        digest = hub_stores._xet_hash(data) if data else "0" * 64
        return BucketFile(type="file", path=name, size=len(data), xetHash=digest)

    def list_bucket_tree(self, bucket: str, prefix: str | None, recursive: bool) -> Any:
        return [self._file(name) for name in self.files if not prefix or name.startswith(f"{prefix}/")]

    def get_bucket_paths_info(self, bucket: str, names: list[str]) -> Any:
        return [self._file(name) for name in names if name in self.files]

    def download_bucket_files(self, bucket: str, files: Any, raise_on_missing_files: bool) -> None:
        for name, local in files:
            Path(local).write_bytes(self.files[name])


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local file"
    path.write_bytes(BYTES)
    return path


def test_what_was_pushed_is_listed_and_comes_back(kept: Kept, local: Path, tmp_path: Path) -> None:
    kept.store.push({NAME: local, "runs/a b/node/status.json": b"{}", "runs/a b/empty": b""})
    listed = kept.store.names("runs/a b/")
    assert {name: entry.size for name, entry in listed.items()} == {
        NAME: len(BYTES),
        "runs/a b/node/status.json": 2,
        "runs/a b/empty": 0,
    }
    kept.store.pull(NAME, tmp_path / "back" / "model")
    assert (tmp_path / "back" / "model").read_bytes() == BYTES
    kept.store.pull("runs/a b/empty", tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


def test_an_empty_store_has_no_files(kept: Kept) -> None:
    assert kept.store.names() == {} == kept.store.names("runs/x/")


def test_a_store_that_can_be_written_proves_it_and_is_as_before(kept: Kept, tmp_path: Path) -> None:
    kept.store.push({NAME: BYTES})
    storage.prove(kept.store, "runs/a b/node/")
    assert kept.store.names().keys() == {NAME}


def test_names_are_those_that_begin_with_the_prefix(kept: Kept) -> None:
    kept.store.push({"runs/one/a": b"1", "runs/one-more/a": b"2", "b": b"3"})
    assert set(kept.store.names("runs/one/")) == {"runs/one/a"}
    assert set(kept.store.names("runs/one")) == {"runs/one/a", "runs/one-more/a"}
    assert len(kept.store.names()) == 3


def test_a_second_push_replaces_the_first(kept: Kept, tmp_path: Path) -> None:
    kept.store.push({"log": b"one"})
    kept.store.push({"log": b"two"})
    kept.store.pull("log", tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == b"two"


def test_deleted_files_are_gone_and_missing_ones_are_no_error(kept: Kept) -> None:
    kept.store.push({"a/one": b"1", "a/two": b"2"})
    kept.store.delete(["a/one", "a/never"])
    assert set(kept.store.names()) == {"a/two"}


@pytest.mark.parametrize("change", [BYTES[:-1], BYTES[:-1] + bytes([BYTES[-1] ^ 1]), b""], ids=["cut", "bit", "empty"])
def test_damage_in_the_store_is_found(kept: Kept, local: Path, tmp_path: Path, change: bytes) -> None:
    kept.store.push({NAME: local})
    (tmp_path / NAME).parent.mkdir(parents=True)
    shutil.copyfile(local, tmp_path / NAME)
    assert kept.store.verify(tmp_path, [NAME]) == []
    kept.change(NAME, change)
    (problem,) = kept.store.verify(tmp_path, [NAME])
    assert NAME in problem


def test_what_is_missing_is_a_problem(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    kept.store.push({"other": b"2"})
    assert kept.store.verify(tmp_path, ["a"]) == ["a is missing"]


def test_large_uploads_to_s3_are_compared_part_by_part(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PART", 5 << 20)
    kept = Make(request, tmp_path, monkeypatch).s3()
    (tmp_path / "large").write_bytes(data := os.urandom((12 << 20) + 5))
    kept.store.push({"large": tmp_path / "large"})
    assert kept.store.verify(tmp_path, ["large"]) == []
    (tmp_path / "large").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert kept.store.verify(tmp_path, ["large"]) == ["large has another digest"]


def test_s3_tells_how_far_a_large_file_is(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: Path
) -> None:
    store, counts = Make(request, tmp_path, monkeypatch).s3().store, []
    store.moved = counts.append
    store.push({NAME: local})
    assert sum(counts) == local.stat().st_size
    counts.clear()
    store.pull(NAME, tmp_path / "again")
    assert sum(counts) == local.stat().st_size


def test_a_store_without_checksums_is_read_back(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Make(request, tmp_path, monkeypatch).s3()
    (tmp_path / "a").write_bytes(b"1")
    kept.change("a", b"1")
    assert kept.store.verify(tmp_path, ["a"]) == []
    kept.change("a", b"2")
    assert kept.store.verify(tmp_path, ["a"]) == ["a has another digest"]


def test_a_push_whose_copy_differs_fails(tmp_path: Path) -> None:
    class Lossy(FolderStore):
        def _put(self, files: Any) -> None:
            super()._put(dict.fromkeys(files, b"1"))

    with pytest.raises(StoreError, match="a has another digest"):
        Lossy("x", tmp_path).push({"a": b"2"})


def test_a_pull_whose_copy_differs_leaves_nothing(tmp_path: Path) -> None:
    class Lossy(FolderStore):
        def _get(self, name: str, local: Path) -> None:
            local.write_bytes(b"cut")

    store = Lossy("x", tmp_path / "store")
    store.push({"a": b"whole"})
    with pytest.raises(StoreError):
        store.pull("a", tmp_path / "out" / "a")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("url", ["", "ftp://x/y", "hf:one-name", "hf-bucket:x", "rsync:host", "rsync:-oProxy=x:/a"])
def test_a_url_of_no_store_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="store"):
        open_store(url)


def test_a_name_that_leaves_the_folder_is_not_safe() -> None:
    assert stores.safe("runs/a/b") and not any(map(stores.safe, ("../a", "a/../../b", "/etc/passwd", "a\\b", "a\0")))
