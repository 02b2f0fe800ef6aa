"""Where files are kept while rented machines come and go: a folder, the hub, S3, or another machine.

    file:/PATH, or a path       a folder
    hf:OWNER/NAME[@REVISION]    a model repository of the Hugging Face hub; keeps deleted checkpoints in its history
    hf-bucket:OWNER/NAME[/DIR]  a Storage Bucket of the hub
    s3://BUCKET[/DIR]           any S3-compatible store: AWS_ENDPOINT_URL and the other variables of boto3
    rsync:[USER@]HOST:/PATH     a machine with rsync, find and sha256sum, by ssh without a password

A push is complete when the stored file's size and digest were compared with the local file's: computed by the store
from what it received (S3, the hub), or from a copy that was read back.
"""

import base64
import hashlib
import io
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from lanbot.core.errors import UserError
from lanbot.core.files import beside

Content = Path | bytes
"""What is pushed; bytes for a file that changes while it is read."""
PART = 64 << 20
"""Bytes of a part of an upload to S3, and of a read."""


class StoreError(Exception):
    """A store failed, or has not what was pushed. It may pass: try again."""


class Entry(NamedTuple):
    size: int
    sha256: str | None
    """Where the store knows it."""


class Store(ABC):
    """Files by name (relative, with slashes). Every method raises StoreError, or an error of the client's library."""

    every = 30.0
    """Seconds between two pushes of what changes all the time: logs, metrics, the status."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.moved: Callable[[int], None] = lambda count: None
        """Called with the bytes that have moved since the last call, within a file; not by every kind."""

    @abstractmethod
    def names(self, prefix: str = "") -> dict[str, Entry]:
        """The files whose names begin with `prefix`; {} if there are none, or no store yet."""

    @abstractmethod
    def delete(self, names: Iterable[str]) -> None:
        """Those that are missing are ignored."""

    @abstractmethod
    def _put(self, files: Mapping[str, Content]) -> None: ...

    @abstractmethod
    def _get(self, name: str, local: Path) -> None: ...

    @abstractmethod
    def problem(self, local: Content, name: str) -> str | None:
        """How the stored file differs from the local one, by size and digest; None if it does not."""

    def push(self, files: Mapping[str, Content]) -> None:
        """Stores files under the names given and compares them. Raises StoreError if one differs."""
        if files:
            self._put(files)
            if problems := [found for name, local in files.items() if (found := self.problem(local, name))]:
                raise StoreError(f"{self.url}: {problems[0]}")

    def pull(self, name: str, local: Path) -> None:
        """Fetches a file and compares it; it is complete or absent. Raises StoreError if it differs."""
        temporary = beside(local)
        local.parent.mkdir(parents=True, exist_ok=True)
        self._get(name, temporary)
        if found := self.problem(temporary, name):
            temporary.unlink()
            raise StoreError(f"{self.url}: {found}")
        temporary.replace(local)

    def verify(self, root: Path, names: Iterable[str], prefix: str = "") -> list[str]:
        """The problems of stored files `prefix` + name that should equal root / name."""
        return [found for name in names if (found := self.problem(root / name, prefix + name))]


def open_store(url: str) -> Store:
    """Raises UserError if the URL names no kind of store, or its client is not installed."""
    kind = url.partition(":")[0]
    if kind == "s3":
        return S3Store(url)
    if kind in ("hf", "hf-bucket"):
        from lanbot.cloud.hub_stores import BucketStore, HubStore

        return HubStore(url) if kind == "hf" else BucketStore(url)
    if kind == "rsync":
        return RsyncStore(url)
    if kind == "file" or (url and ":" not in url):
        path = urlsplit(url).path if kind == "file" else url
        return FolderStore(url, Path(path).expanduser())
    known = "/PATH, hf:OWNER/NAME, hf-bucket:OWNER/NAME, s3://BUCKET or rsync:HOST:/PATH"
    raise UserError(f"store {url!r}: not known", f"Write {known}.")


def safe(name: str) -> bool:
    """Whether a name from a listing stays inside the folder that it is pulled into."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and "\0" not in name


def _chunks(content: Content) -> Iterator[bytes]:
    """Of PART bytes; an empty file has one empty chunk."""
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        yield file.read(PART)
        while chunk := file.read(PART):
            yield chunk


def digest(content: Content, start: bytes = b"", algorithm: str = "sha256") -> str:
    found = hashlib.new(algorithm, start)
    for chunk in _chunks(content):
        found.update(chunk)
    return found.hexdigest()


def size_of(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def difference(name: str, content: Content, size: int | None, stored: str, wanted: str) -> str | None:
    """size: None if the file is missing."""
    if size is None:
        return f"{name} is missing"
    if size != size_of(content):
        return f"{name} has {size:,} bytes instead of {size_of(content):,}"
    return f"{name} has another digest" if stored != wanted else None


class FolderStore(Store):
    def __init__(self, url: str, root: Path) -> None:
        super().__init__(url)
        self.root = root

    def names(self, prefix: str = "") -> dict[str, Entry]:
        top = self.root / prefix.rpartition("/")[0]
        paths = (Path(folder, file) for folder, _, files in os.walk(top) for file in files)
        named = {path.relative_to(self.root).as_posix(): path for path in paths if not path.name.endswith(".tmp")}
        return {name: Entry(path.stat().st_size, None) for name, path in named.items() if name.startswith(prefix)}

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            path = self.root / name
            path.unlink(missing_ok=True)
            with suppress(OSError):  # until a folder has more in it
                for folder in path.relative_to(self.root).parents[:-1]:
                    (self.root / folder).rmdir()

    def _put(self, files: Mapping[str, Content]) -> None:
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = beside(path)
            try:
                with temporary.open("wb") as file:
                    for chunk in _chunks(content):
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def _get(self, name: str, local: Path) -> None:
        shutil.copyfile(self.root / name, local)

    def problem(self, local: Content, name: str) -> str | None:
        path = self.root / name
        if not path.is_file():
            return difference(name, local, None, "", "")
        return difference(name, local, path.stat().st_size, digest(path), digest(local))


class S3Store(Store):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        try:
            import boto3
            from boto3.s3.transfer import TransferConfig
            from botocore.config import Config
        except ImportError:
            raise UserError(f"{url} needs boto3", "Install it: pip install 'lanbot[cloud]'") from None
        self.bucket, path = urlsplit(url).netloc, urlsplit(url).path.strip("/")
        self.prefix = f"{path}/" if path else ""
        self.client: Any = boto3.client("s3", config=Config(retries={"mode": "standard", "total_max_attempts": 5}))
        self.transfer = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART)

    def names(self, prefix: str = "") -> dict[str, Entry]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
        listed = [found for page in pages for found in page.get("Contents", [])]
        return {found["Key"].removeprefix(self.prefix): Entry(found["Size"], None) for found in listed}

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + name)

    def _put(self, files: Mapping[str, Content]) -> None:
        for name, content in files.items():
            with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
                arguments = {"ChecksumAlgorithm": "SHA256"}  # the store compares it with what it receives
                self.client.upload_fileobj(
                    file, self.bucket, self.prefix + name, arguments, lambda count: self.moved(count), self.transfer
                )

    def _get(self, name: str, local: Path) -> None:
        self.client.download_file(self.bucket, self.prefix + name, str(local), Callback=lambda count: self.moved(count))

    def problem(self, local: Content, name: str) -> str | None:
        from botocore.exceptions import ClientError

        where = {"Bucket": self.bucket, "Key": self.prefix + name}
        try:
            head = self.client.head_object(**where, ChecksumMode="ENABLED")
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
                return difference(name, local, None, "", "")
            raise
        stored, wanted = head.get("ChecksumSHA256"), _s3_checksum(local)
        if not stored or ("-" in stored) != ("-" in wanted):  # another's upload, or a store without checksums
            found = hashlib.sha256()
            for chunk in self.client.get_object(**where)["Body"].iter_chunks(PART):
                found.update(chunk)
            stored, wanted = found.hexdigest(), digest(local)
        return difference(name, local, head["ContentLength"], stored, wanted)


def _s3_checksum(content: Content) -> str:
    """The checksum that S3 computes: of a multipart upload, that of its parts' checksums and their number."""
    parts = [hashlib.sha256(chunk).digest() for chunk in _chunks(content)]
    if size_of(content) < PART:
        return base64.b64encode(parts[0]).decode()
    return f"{base64.b64encode(hashlib.sha256(b''.join(parts)).digest()).decode()}-{len(parts)}"


class RsyncStore(Store):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.host, _, self.root = url.removeprefix("rsync:").partition(":")
        if not re.fullmatch(r"[\w.@-]+", self.host) or self.host.startswith("-") or not self.root.startswith("/"):
            raise UserError(f"store {url!r}: not a machine's folder", "Write rsync:USER@HOST:/PATH.")
        self.root = self.root.rstrip("/") + "/"

    def _run(self, *command: str, given: bytes = b"") -> bytes:
        done = subprocess.run(command, input=given, capture_output=True, check=False)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise StoreError(f"{self.url}: {said[-1] if said else f'{command[0]} failed ({done.returncode})'}")
        return done.stdout

    def _there(self, script: str, given: bytes = b"") -> bytes:
        """What a shell script prints that runs in the store's folder."""
        root = shlex.quote(self.root)
        options = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=20")
        return self._run("ssh", *options, self.host, f"mkdir -p {root} && cd {root} && {script}", given=given)

    def names(self, prefix: str = "") -> dict[str, Entry]:
        lines = self._there(r"find . -type f ! -name '*.tmp' -printf '%s %P\0'").decode().split("\0")[:-1]
        pairs = [line.split(" ", 1) for line in lines]
        return {name: Entry(int(size), None) for size, name in pairs if name.startswith(prefix)}

    def delete(self, names: Iterable[str]) -> None:
        self._there("xargs -0 rm -f --", "".join(f"{name}\0" for name in names).encode())

    def _put(self, files: Mapping[str, Content]) -> None:
        folders = {str(PurePosixPath(name).parent) for name in files}
        self._there("xargs -0 mkdir -p --", "".join(f"{folder}\0" for folder in folders).encode())
        for name, content in files.items():
            with tempfile.NamedTemporaryFile() as file:
                if isinstance(content, bytes):
                    file.write(content)
                    file.flush()
                self._rsync(file.name if isinstance(content, bytes) else str(content), f"{self.host}:{self.root}{name}")

    def _get(self, name: str, local: Path) -> None:
        self._rsync(f"{self.host}:{self.root}{name}", str(local))

    def _rsync(self, source: str, target: str) -> None:
        # without -t a file of the same size and age would be taken for the same: -I always compares
        self._run("rsync", "-I", "-s", "-e", "ssh -o BatchMode=yes", "--", source, target)

    def problem(self, local: Content, name: str) -> str | None:
        quoted = shlex.quote(f"./{name}")
        said = self._there(f"if [ -f {quoted} ]; then stat -c %s {quoted} && sha256sum < {quoted}; fi").decode().split()
        if not said:
            return difference(name, local, None, "", "")
        return difference(name, local, int(said[0]), said[1], digest(local))
