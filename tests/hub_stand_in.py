"""A model repository of the hub over HTTP, as far as huggingface_hub's client writes to it: preupload, LFS, commits."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

Files = dict[str, bytes]


def serve(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, read_only: bool = False) -> Files:
    """Starts it until the test's end, with no repository in it yet; returns the files that will be in me/bot. Names
    that end in .safetensors or .gguf are kept in LFS, as on the hub. read_only: for a token without write access."""
    from huggingface_hub import constants

    server = _Server(read_only)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    request.addfinalizer(server.shutdown)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    return server.files


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, read_only: bool) -> None:
        self.read_only = read_only
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: Files = {}
        self.objects: Files = {}
        self.created = False
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None: ...

    def answer(self, value: Any, status: int = 200, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, files = unquote(urlsplit(self.path).path), self.server.files
        if self.server.read_only and ("/preupload/" in path or "/commit/" in path or path.endswith("/create")):
            self.answer({"error": "Forbidden: you must use a write token to upload to a repository."}, 403)
        elif path == "/api/repos/create":
            self.server.created = True
            self.answer({"url": f"{self.server.url}/me/bot", "name": "me/bot"})
        elif path.startswith("/lfs/"):
            digest = path.removeprefix("/lfs/")
            assert hashlib.sha256(body).hexdigest() == digest, "as the hub does"
            self.server.objects[digest] = body
            self.answer({})
        elif not self.server.created and not files:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif path.startswith("/api/models/me/bot/tree/"):
            self.answer([self.entry(name) for name in sorted(files)])
        elif path.startswith("/api/models/me/bot/paths-info/"):
            asked = parse_qs(body.decode())["paths"]
            self.answer([self.entry(name) for name in asked if name in files])
        elif path.startswith("/api/models/me/bot/preupload/"):
            asked = json.loads(body)["files"]
            self.answer(
                {"files": [{"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False} for f in asked]}
            )
        elif path == "/me/bot.git/info/lfs/objects/batch":
            self.answer({"transfer": "basic", "objects": [self.upload(o) for o in json.loads(body)["objects"]]})
        elif path.startswith("/api/models/me/bot/commit/"):
            self.commit([json.loads(line) for line in body.splitlines()])
        elif path == "/api/validate-yaml":  # of a model card
            self.answer({"errors": [], "warnings": []})
        elif path == "/api/models/me/bot":
            self.answer({"sha": "1" * 40})
        elif found := re.match(r"/me/bot/resolve/(?:main|1{40})/", path):
            self.resolve(path.removeprefix(found[0]))
        else:
            self.answer({"error": path}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_one  # noqa: N815

    def upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self.server.objects:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}}

    def commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            name = line["value"].get("path")
            if line["key"] == "file":
                self.server.files[name] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                self.server.files[name] = self.server.objects[line["value"]["oid"]]
            elif line["key"] == "deletedFile":
                del self.server.files[name]
        commit = f"{self.server.url}/me/bot/commit/{'1' * 40}"
        self.answer({"success": True, "commitOid": "1" * 40, "commitUrl": commit, "hookOutput": ""})

    def resolve(self, name: str) -> None:
        if name in self.server.files:
            data = self.server.files[name]
            self.answer(data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit="1" * 40)
        else:
            self.answer({}, 404, X_Error_Code="EntryNotFound")

    def entry(self, name: str) -> dict[str, Any]:
        data = self.server.files[name]
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        found: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": oid}
        if mode(name) == "lfs":
            found |= {"oid": "2" * 40}
            found |= {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}}
        return found


def mode(name: str) -> str:
    return "lfs" if name.endswith((".safetensors", ".gguf")) else "regular"
