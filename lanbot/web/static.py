"""A page's files: a few hundred KB, held in memory with their compressed forms.

What is needed before the first paint, the style sheet and the plain script of its head, is put into the page, which
is then seen in half the time. What it loads later lies under a folder named by the hash of all files, so that browsers
keep it for good and never mix two versions.
"""

import gzip
import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

PAGE = Path(__file__).parent / "page"
FOLDER = "/assets/"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' {script}",
        "style-src 'self' {style}",
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]
)
"""What a model wrote, should it ever get into the page as more than text, can neither run nor call anyone. Of what is
in the page, the browser takes what has these hashes."""
ADDRESS = re.compile(rb'<(?:link rel="stylesheet" href|script src)="assets/([^"]+)">(</script>)?|"assets/')
"""Of a file that is put into the page, or of one that it loads later."""


class Files:
    """Answers for the page and what it loads; other files of its folder, as the licences, are not served."""

    def __init__(self, folder: Path = PAGE, shared: Sequence[Path] = ()) -> None:
        """shared: files of other folders, which stand beside those of this one."""
        found = {
            path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.suffix in TYPES
        }
        found |= {path.name: path for path in shared}
        bodies = {name: path.read_bytes() for name, path in found.items()}
        version = hashlib.sha256(b"".join(hashlib.sha256(body).digest() for body in bodies.values())).hexdigest()[:16]
        inside: dict[str, list[str]] = {"script": [], "style": []}

        def put_in(found: re.Match[bytes]) -> bytes:
            if found[1] is None:
                return b'"%s%s/' % (FOLDER[1:].encode(), version.encode())
            tag, body = "script" if found[2] else "style", bodies.pop(found[1].decode())
            inside[tag].append(f"'sha256-{b64encode(hashlib.sha256(body).digest()).decode()}'")
            return b"<%s>%s</%s>" % (tag.encode(), body, tag.encode())

        html = ADDRESS.sub(put_in, bodies.pop("index.html"))
        self.policy = POLICY.format(**{tag: " ".join(hashes) for tag, hashes in inside.items()})
        self.etag = f'"{version}"'
        self._files = {"/": _both(html)} | {f"{FOLDER}{version}/{name}": _both(body) for name, body in bodies.items()}
        self._types = {path: TYPES[Path(path).suffix or ".html"] for path in self._files}

    @property
    def bytes(self) -> int:
        """Of all files, not compressed."""
        return sum(len(body) for body, _ in self._files.values())

    def __contains__(self, path: object) -> bool:
        return path in self._files

    async def answer(self, request: Request) -> Response:
        path = request.url.path
        if path not in self:
            return Response("no such file", 404)
        kept = "no-cache" if path == "/" else "public, max-age=31536000, immutable"
        headers = {
            "ETag": self.etag,
            "Cache-Control": kept,
            "Vary": "Accept-Encoding",
            "Content-Security-Policy": self.policy,
        }
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        plain, packed = self._files[path]
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=self._types[path])
        return Response(plain, headers=headers, media_type=self._types[path])


def _both(body: bytes) -> tuple[bytes, bytes]:
    return body, gzip.compress(body, mtime=0)
