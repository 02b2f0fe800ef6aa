"""Data sets and models of the hub, or of a mirror folder in its place."""

import hashlib
import json
import re
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

from lanbot.core import http
from lanbot.core.console import Progress
from lanbot.core.errors import UserError
from lanbot.core.files import write_atomic
from lanbot.core.options import Options
from lanbot.data import download
from lanbot.data.download import Remote


class Source(NamedTuple):
    """Files of a hub data set."""

    id: str
    """OWNER/NAME, or OWNER/NAME@REVISION."""
    path: str
    """A file or glob inside it: main/train-*.parquet."""
    mirror: str
    """The file or folder of a mirror with the same data: gsm8k/train.jsonl.gz."""
    licence: str = ""
    """As its card names it: mit."""


def files(source: Source, options: Options) -> list[Path]:
    """The files of a source, sorted: the mirror's if there is one, otherwise the hub's, downloaded into the cache.

    Raises UserError if they do not exist or cannot be downloaded.
    """
    if options.mirror:
        path = find(source.id, source.mirror, options.mirror)
        return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    listed = listing(source.id, options)
    found = [remote for path, remote in listed.items() if fnmatchcase(path, source.path)]
    if not found:
        raise UserError(f"{source.id}: the hub has no {source.path} in it", holds(listed))
    return download.get(found, options)


def url_file(url: str, mirror_path: str, options: Options) -> Path:
    """A file at a plain URL: the mirror's if there is one, otherwise downloaded into the cache, once."""
    if options.mirror:
        return find(url, mirror_path, options.mirror)
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{PurePosixPath(url.partition('?')[0]).name}"
    return download.get([Remote(url, url, options.cache / "urls" / name)], options)[0]


def find(hub_id: str, mirror_path: str, mirror: Path) -> Path:
    """The file or folder of the mirror for a repository of the hub. Raises UserError if it does not exist."""
    path = mirror / mirror_path
    if not path.exists():
        raise UserError(f"{hub_id}: the mirror has no {path}", "Check --mirror; docs/architecture.md shows its layout.")
    return path


def listing(hub_id: str, options: Options, kind: str = "datasets") -> dict[str, Remote]:
    """The files of a repository (OWNER/NAME, or OWNER/NAME@REVISION) by their paths in it, sorted; none is downloaded.
    kind: "datasets" or "models".

    The hub is asked once; then the cache pins the commit, so that a resumed run, another rank, or one without a network
    sees the same files in the same order. Raises UserError.
    """
    listed = _listed(hub_id, options, kind)
    folder, owner_name = folder_of(hub_id, options, kind), hub_id.partition("@")[0]
    base = f"{http.endpoint()}/{_prefix(kind)}{owner_name}/resolve/{listed['sha']}"
    return {
        path: Remote(f"{hub_id}: {path}", f"{base}/{quote(path)}", folder / path, size, digest)
        for path, size, digest in listed["files"]
    }


def folder_of(hub_id: str, options: Options, kind: str = "datasets") -> Path:
    """Where the cache keeps the files of a repository."""
    owner_name, _, revision = hub_id.partition("@")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", owner_name):
        what = "data set" if kind == "datasets" else "model"
        raise UserError(f"{hub_id}: not the name of a hub {what}", "It is OWNER/NAME, as in its URL on the hub.")
    top = "hub" if kind == "datasets" else f"hub-{kind}"
    return options.cache / top / owner_name / quote(revision or "main", safe="") / "files"


def commit(hub_id: str, options: Options, kind: str = "datasets") -> str:
    """The commit that the cache pins a repository to."""
    return str(_listed(hub_id, options, kind)["sha"])


def _prefix(kind: str) -> str:
    return "" if kind == "models" else f"{kind}/"  # as in the hub's addresses


def _listed(hub_id: str, options: Options, kind: str) -> dict[str, Any]:
    saved = folder_of(hub_id, options, kind).with_name("listing.json")
    if not saved.is_file():
        if options.offline:
            download.refuse_offline(hub_id, options)
        try:
            with download.locked(saved.with_name("listing.part"), lambda note: None):
                if not saved.is_file():
                    write_atomic(saved, json.dumps(_ask(hub_id, kind)))
        except OSError as error:
            raise download.cache_error(hub_id, error, options.cache) from None
    return dict(json.loads(saved.read_text(encoding="utf-8")))


def _ask(hub_id: str, kind: str) -> dict[str, Any]:
    """{"sha": the commit, "files": [path, size, digest] of each file} of a repository."""
    owner_name, _, revision = hub_id.partition("@")
    progress = Progress(f"{hub_id}: listing", unit="files")
    api = f"{http.endpoint()}/api/{kind}/{owner_name}"

    def ask(url: str) -> tuple[Any, str | None]:
        return http.read_json(url, hub_id, lambda note: progress.show(len(found), note))

    found: list[tuple[str, int, str]] = []
    try:
        sha = ask(f"{api}/revision/{quote(revision, safe='')}" if revision else api)[0]["sha"]
        url: str | None = f"{api}/tree/{sha}?recursive=true"
        while url:
            entries, url = ask(url)
            for entry in entries:
                path, lfs = PurePosixPath(entry["path"]), entry.get("lfs")
                if entry["type"] == "file" and not path.is_absolute() and ".." not in path.parts:
                    digest = f"sha256:{lfs['oid']}" if lfs else f"git:{entry['oid']}"
                    found.append((str(path), (lfs or entry)["size"], digest))
    except (KeyError, TypeError):
        raise http.not_the_hub(hub_id) from None
    finally:
        progress.close()
    return {"sha": sha, "files": sorted(found, key=lambda file: PurePosixPath(file[0]))}


def holds(listed: dict[str, Remote]) -> str:
    """The top-level names of a repository, for an error's remedy."""
    tops = sorted({path.partition("/")[0] + "/" * ("/" in path) for path in listed})
    return f"It holds {', '.join(tops[:8])}{' ...' if len(tops) > 8 else ''}." if tops else "It is empty."
