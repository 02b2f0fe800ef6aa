"""Stores at the Hugging Face hub: model repositories and Storage Buckets."""

import os
import re
import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lanbot.cloud.stores import Content, Entry, Store, difference, digest, size_of
from lanbot.core.console import no_bars
from lanbot.core.errors import UserError


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
            return difference(name, local, None, "", "")
        if found.lfs:
            return difference(name, local, found.size, found.lfs.sha256, digest(local))
        return difference(name, local, found.size, found.blob_id, digest(local, b"blob %d\0" % size_of(local), "sha1"))


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
            return difference(name, local, None, "", "")
        return difference(name, local, found.size, found.xet_hash, _xet_hash(local) if found.size else found.xet_hash)


def _xet_hash(content: Content) -> str:
    """The hash by which the hub stores large files."""
    from hf_xet import hash_files

    if isinstance(content, Path):
        return str(hash_files([str(content)])[0].hash)
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return str(hash_files([file.name])[0].hash)
