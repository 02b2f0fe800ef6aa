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
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from lanbot.core.console import no_bars
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
    if kind == "hf":
        return HubStore(url)
    if kind == "hf-bucket":
        return BucketStore(url)
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


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _difference(name: str, content: Content, size: int | None, stored: str, wanted: str) -> str | None:
    """size: None if the file is missing."""
    if size is None:
        return f"{name} is missing"
    if size != _size(content):
        return f"{name} has {size:,} bytes instead of {_size(content):,}"
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
            return _difference(name, local, None, "", "")
        return _difference(name, local, path.stat().st_size, digest(path), digest(local))


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
                return _difference(name, local, None, "", "")
            raise
        stored, wanted = head.get("ChecksumSHA256"), _s3_checksum(local)
        if not stored or ("-" in stored) != ("-" in wanted):  # another's upload, or a store without checksums
            found = hashlib.sha256()
            for chunk in self.client.get_object(**where)["Body"].iter_chunks(PART):
                found.update(chunk)
            stored, wanted = found.hexdigest(), digest(local)
        return _difference(name, local, head["ContentLength"], stored, wanted)


def _s3_checksum(content: Content) -> str:
    """The checksum that S3 computes: of a multipart upload, that of its parts' checksums and their number."""
    parts = [hashlib.sha256(chunk).digest() for chunk in _chunks(content)]
    if _size(content) < PART:
        return base64.b64encode(parts[0]).decode()
    return f"{base64.b64encode(hashlib.sha256(b''.join(parts)).digest()).decode()}-{len(parts)}"


class HubStore(Store):
    every = 120.0  # each push is a commit, of which the hub accepts some hundred an hour

    def __init__(self, url: str) -> None:
        super().__init__(url)
        from huggingface_hub import HfApi

        self.repo, _, revision = url.removeprefix("hf:").partition("@")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo):
            raise UserError(f"store {url!r}: not the name of a repository", "Write hf:OWNER/NAME.")
        self.revision, self.api, self.lock = revision or None, HfApi(), threading.Lock()

    def names(self, prefix: str = "") -> dict[str, Entry]:
        from huggingface_hub.errors import RepositoryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        try:
            tree = list(self.api.list_repo_tree(self.repo, recursive=True, revision=self.revision))
        except RepositoryNotFoundError:
            return {}
        files = [found for found in tree if isinstance(found, RepoFile) and found.path.startswith(prefix)]
        return {found.path: Entry(found.size, found.lfs.sha256 if found.lfs else None) for found in files}

    def delete(self, names: Iterable[str]) -> None:
        from huggingface_hub import CommitOperationDelete

        if there := sorted(set(names) & set(self.names())):
            self._commit([CommitOperationDelete(name) for name in there], "Delete")

    def _put(self, files: Mapping[str, Content]) -> None:
        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.errors import RepositoryNotFoundError

        added = [CommitOperationAdd(name, content) for name, content in files.items()]
        with no_bars():
            try:
                self.api.preupload_lfs_files(self.repo, added, revision=self.revision, free_memory=False)
            except RepositoryNotFoundError:
                self.api.create_repo(self.repo, private=True, exist_ok=True)
                self.api.preupload_lfs_files(self.repo, added, revision=self.revision, free_memory=False)
            self._commit(added, "Push")

    def _commit(self, operations: list[Any], verb: str) -> None:
        first = operations[0].path_in_repo + (f" and {len(operations) - 1} more" if operations[1:] else "")
        with self.lock:  # the hub refuses two commits at once
            self.api.create_commit(self.repo, operations, commit_message=f"{verb} {first}", revision=self.revision)

    def _get(self, name: str, local: Path) -> None:
        with tempfile.TemporaryDirectory(dir=local.parent, prefix=".pull") as folder, no_bars():
            fetched = self.api.hf_hub_download(self.repo, name, revision=self.revision, local_dir=folder)
            os.replace(fetched, local)

    def problem(self, local: Content, name: str) -> str | None:
        found: Any = next(iter(self.api.get_paths_info(self.repo, [name], revision=self.revision)), None)
        if found is None:
            return _difference(name, local, None, "", "")
        if found.lfs:
            return _difference(name, local, found.size, found.lfs.sha256, digest(local))
        return _difference(name, local, found.size, found.blob_id, digest(local, b"blob %d\0" % _size(local), "sha1"))


class BucketStore(Store):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        from huggingface_hub import HfApi

        owner, _, rest = url.removeprefix("hf-bucket:").partition("/")
        name, _, folder = rest.partition("/")
        self.bucket, self.prefix = f"{owner}/{name}", f"{folder.strip('/')}/" if folder.strip("/") else ""
        self.api: Any = HfApi()
        if not (owner and name):
            raise UserError(f"store {url!r}: not the name of a bucket", "Write hf-bucket:OWNER/NAME.")
        if not hasattr(self.api, "batch_bucket_files"):
            raise UserError(f"{url} needs a newer huggingface_hub", "pip install -U huggingface_hub")

    def names(self, prefix: str = "") -> dict[str, Entry]:
        from huggingface_hub.errors import HfHubHTTPError

        top = (self.prefix + prefix).rpartition("/")[0]
        try:
            tree = list(self.api.list_bucket_tree(self.bucket, prefix=top or None, recursive=True))
        except HfHubHTTPError as error:
            if error.response.status_code != 404:
                raise
            return {}
        named = {found.path.removeprefix(self.prefix): found for found in tree if found.type == "file"}
        return {name: Entry(found.size, None) for name, found in named.items() if name.startswith(prefix)}

    def delete(self, names: Iterable[str]) -> None:
        if there := sorted(set(names) & set(self.names())):
            self.api.batch_bucket_files(self.bucket, delete=[self.prefix + name for name in there])

    def _put(self, files: Mapping[str, Content]) -> None:
        from huggingface_hub.errors import HfHubHTTPError

        added = [(content, self.prefix + name) for name, content in files.items()]
        with no_bars():
            try:
                self.api.batch_bucket_files(self.bucket, add=added)
            except HfHubHTTPError as error:
                if error.response.status_code != 404:
                    raise
                self.api.create_bucket(self.bucket, private=True, exist_ok=True)
                self.api.batch_bucket_files(self.bucket, add=added)

    def _get(self, name: str, local: Path) -> None:
        with no_bars():
            files = [(self.prefix + name, local)]
            self.api.download_bucket_files(self.bucket, files, raise_on_missing_files=True)

    def problem(self, local: Content, name: str) -> str | None:
        found = next(iter(self.api.get_bucket_paths_info(self.bucket, [self.prefix + name])), None)
        if found is None:
            return _difference(name, local, None, "", "")
        return _difference(name, local, found.size, found.xet_hash, _xet_hash(local) if found.size else found.xet_hash)


def _xet_hash(content: Content) -> str:
    """The hash by which the hub stores large files."""
    from hf_xet import hash_files

    if isinstance(content, Path):
        return str(hash_files([str(content)])[0].hash)
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return str(hash_files([file.name])[0].hash)


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
            return _difference(name, local, None, "", "")
        return _difference(name, local, int(said[0]), said[1], digest(local))
