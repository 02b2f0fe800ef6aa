"""A mock of the Hugging Face hub on localhost, with its storage on another port and injected faults.

It implements what LanBot and huggingface_hub use: commits of data sets and models, paginated listings, redirects to the
storage, range requests. Each request consumes one entry of `faults`.
"""

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".parquet", ".pt", ".safetensors")
PAGE = 3
"""Files per page of a listing."""


class Asked(NamedTuple):
    server: str
    """hub or storage."""
    method: str
    path: str
    range: str
    token: str


Fault = Callable[["_Handler", bytes], None]
"""Handles a request instead of the server, which would have sent these bytes."""


def cut(after: int, pause: float = 0.0) -> Fault:
    """Closes the connection after so many bytes."""

    def fault(handler: "_Handler", body: bytes) -> None:
        handler.send_body(body, upto=after)
        handler.server.wait(pause)
        handler.close_connection = True

    return fault


def stall(after: int) -> Fault:
    """Stops sending after so many bytes, until the hub is closed or `let_go` is set; then closes the connection."""

    def fault(handler: "_Handler", body: bytes) -> None:
        handler.send_body(body, upto=after)
        handler.server.wait(30)
        handler.close_connection = True

    return fault


def slow(seconds: float) -> Fault:
    """Answers after a delay, or as soon as `let_go` is set."""

    def fault(handler: "_Handler", body: bytes) -> None:
        handler.server.wait(seconds)
        handler.send_body(body)

    return fault


def answer(status: int, body: bytes = b"no", **headers: str) -> Fault:
    """Sends this response; the keyword Retry_After is the header Retry-After."""

    def fault(handler: "_Handler", _: bytes) -> None:
        handler.send_all(status, body, {name.replace("_", "-"): value for name, value in headers.items()})

    return fault


def instead(change: Callable[[bytes], bytes]) -> Fault:
    """Sends changed content."""
    return lambda handler, body: handler.send_body(change(body))


def without_ranges(after: int | None = None) -> Fault:
    """Ignores the range and sends the whole file, or the first `after` bytes of it."""

    def fault(handler: "_Handler", body: bytes) -> None:
        del handler.headers["Range"]
        handler.send_body(body, upto=after)
        handler.close_connection = after is not None

    return fault


class Hub:
    def __init__(self) -> None:
        self.sets: dict[str, dict[str, bytes]] = {}
        """Data set -> path -> content. Files whose names end as in LARGE are in the storage, as on the hub."""
        self.models: dict[str, dict[str, bytes]] = {}
        """The same for models, whose names are none of a data set's."""
        self.plain: dict[str, bytes] = {}
        """Files of the storage at /plain/NAME."""
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        """By "api", "resolve", or a file's name without folders."""
        self.asked: list[Asked] = []
        self.weak_etags = False
        self.let_go = threading.Event()
        self.servers = {name: _Server(name, self) for name in ("hub", "storage")}
        for server in self.servers.values():
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self.url, self.storage = (f"http://127.0.0.1:{s.server_port}" for s in self.servers.values())

    def close(self) -> None:
        self.let_go.set()
        for server in self.servers.values():
            server.shutdown()
            server.server_close()

    def contents(self, name: str) -> list[Asked]:
        """The requests for a file's content."""
        large = {sha256(data) for files in self.all.values() for path, data in files.items() if path.endswith(name)}
        ends = tuple(f"/{end}" for end in (name, *large))
        servers = ("storage",) if name.endswith(LARGE) else ("storage", "hub")
        return [a for a in self.asked if urlsplit(a.path).path.endswith(ends) and a.server in servers]

    @property
    def all(self) -> dict[str, dict[str, bytes]]:
        return self.sets | self.models

    def commit(self, hub_id: str) -> str:
        names = sorted((path, sha256(data)) for path, data in self.all[hub_id].items())
        return hashlib.sha1(repr(names).encode()).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, name: str, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.hub = name, hub

    def wait(self, seconds: float) -> None:
        self.hub.let_go.wait(seconds)

    def handle_error(self, *_: Any) -> None:
        """Ignores clients that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, url = self.server.hub, urlsplit(self.path)
        headers = (self.headers.get("Range", ""), self.headers.get("Authorization", ""))
        hub.asked.append(Asked(self.server.name, self.command, self.path, *headers))
        parts = unquote(url.path).strip("/").split("/")
        if self.server.name == "storage":
            self._storage(parts)
        elif parts[0] == "api":
            if not self._fails("api", b""):
                self._api(parts[1], parts[2:], parse_qs(url.query))
        elif not self._fails("resolve", b""):
            kind, parts = ("datasets", parts[1:]) if parts[0] == "datasets" else ("models", parts)
            self._resolve(kind, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    def _fails(self, what: str, body: bytes) -> bool:
        faults = self.server.hub.faults[what]
        if faults:
            with suppress(ConnectionError):
                faults.pop(0)(self, body)
            return True
        return False

    def _known(self, kind: str, hub_id: str, revision: str) -> bool:
        hub = self.server.hub
        if hub_id not in (hub.sets if kind == "datasets" else hub.models):
            self.send_all(401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif revision not in ("main", hub.commit(hub_id)):
            self.send_all(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        else:
            return True
        return False

    def _api(self, kind: str, parts: list[str], query: dict[str, list[str]]) -> None:
        hub, hub_id, what = self.server.hub, "/".join(parts[:2]), parts[2:3]
        if not self._known(kind, hub_id, parts[3] if what else "main"):
            return
        if what != ["tree"]:
            info = {"id": hub_id, "sha": hub.commit(hub_id), "private": False, "downloads": 0, "tags": []}
            self.send_all(200, json.dumps(info).encode(), {})
            return
        folders = {path.rpartition("/")[0] for path in hub.all[hub_id]} - {""}
        entries = [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in sorted(folders)]
        entries += [entry(path, data) for path, data in sorted(hub.all[hub_id].items())]
        start = int(query.get("cursor", ["0"])[0])
        headers = {}
        if start + PAGE < len(entries):
            address = f"{hub.url}/api/{kind}/{hub_id}/tree/{parts[3]}?recursive=true&cursor={start + PAGE}"
            headers["Link"] = f'<{address}>; rel="next"'
        self.send_all(200, json.dumps(entries[start : start + PAGE]).encode(), headers)

    def _resolve(self, kind: str, hub_id: str, revision: str, path: str) -> None:
        hub = self.server.hub
        if not self._known(kind, hub_id, revision):
            return
        if path not in hub.all[hub_id]:
            self.send_all(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        data, headers = hub.all[hub_id][path], {"X-Repo-Commit": hub.commit(hub_id)}
        if path.endswith(LARGE):
            linked = {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{sha256(data)}"'}
            address = f"{hub.storage}/large/{sha256(data)}?signature=secret-of-the-address"
            self.send_all(302, b"Found", headers | linked | {"Location": address})
        elif not self._fails(path.rpartition("/")[2], data):
            self.send_body(data, etag=git_oid(data), headers=headers)

    def _storage(self, parts: list[str]) -> None:
        hub = self.server.hub
        if parts[0] == "plain":
            name, data = parts[1], hub.plain.get(parts[1])
        else:
            large = {sha256(d): (p, d) for files in hub.all.values() for p, d in files.items()}
            name, data = large.get(parts[1], ("", None))
        if not self._fails(name.rpartition("/")[2], data or b""):
            self.send_all(404, b"", {}) if data is None else self.send_body(data)

    def send_body(self, data: bytes, upto: int | None = None, etag: str = "", headers: Any = None) -> None:
        """Sends the requested range of `data`, or its first `upto` bytes."""
        etag = f'"{etag or sha256(data)}"'
        etag = f"W/{etag}" if self.server.hub.weak_etags else etag
        headers = {"ETag": etag, "Accept-Ranges": "bytes", **(headers or {})}
        asked = self.headers.get("Range", "").removeprefix("bytes=").rstrip("-")
        start = int(asked) if asked and self.headers.get("If-Range", etag) == etag else 0
        if start >= len(data) > 0:
            self.send_all(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send_all(206 if start else 200, data[start:], headers, upto)

    def send_all(self, status: int, body: bytes, headers: dict[str, str], upto: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):
            if self.command == "GET":
                self.wfile.write(body[:upto])
                self.wfile.flush()


def entry(path: str, data: bytes) -> dict[str, Any]:
    """A file's entry in a listing."""
    listed: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
    if path.endswith(LARGE):
        listed |= {"oid": "1" * 40, "lfs": {"oid": sha256(data), "size": len(data), "pointerSize": 134}}
    return listed


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
