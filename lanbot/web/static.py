"""A page's files: a few hundred KB, held in memory with their compressed forms.

The page's own address changes nothing; what it loads lies under a folder named by the hash of all of them, so that
browsers keep it for good and never mix two versions.
"""

import gzip
import hashlib
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
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]
)
"""What a model wrote, should it ever get into the page as more than text, can neither run nor call anyone."""


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
        html = bodies.pop("index.html").replace(b'"assets/', b'"%s%s/' % (FOLDER[1:].encode(), version.encode()))
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
            "Content-Security-Policy": POLICY,
        }
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        plain, packed = self._files[path]
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=self._types[path])
        return Response(plain, headers=headers, media_type=self._types[path])


def _both(body: bytes) -> tuple[bytes, bytes]:
    return body, gzip.compress(body, mtime=0)
