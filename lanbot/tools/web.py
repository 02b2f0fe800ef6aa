"""Requests to addresses that a model chose: public hosts only, http and https only, bounded in bytes and time.

A host's name is resolved once, each of its addresses is checked, and the connection goes to a checked address: the name
cannot mean one address for the check and another for the connection. Each redirect is checked as a request of its own.
Proxies, cookies and .netrc of this machine are not used.
"""

import codecs
import re
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any
from urllib.parse import urljoin

import httpcore2
import httpx2

from lanbot import __version__
from lanbot.tools.tool import ToolError

SECONDS = 20.0  # for a request with its redirects
MAX_BYTES = 2_000_000  # of a body, decompressed
MAX_URL = 2_000
REDIRECTS = 5
MOVED = (301, 302, 303, 307, 308)
NAT64 = IPv6Network("64:ff9b::/96")  # IPv4 addresses as a network without IPv4 reaches them
CLOSED = tuple(map(ip_network, ("168.63.129.16/32", "192.0.0.0/24", "64:ff9b:1::/48", "3fff::/20", "5f00::/16")))
"""The metadata of Azure, whose address looks public, and special networks that older versions of Python do not know."""
NOT_CHARSETS = ("idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "mbcs", "oem")
PERMIT: ContextVar[Callable[[str, str], None] | None] = ContextVar("PERMIT", default=None)
"""Looks at the method and the address of each request before it is sent, also after a redirect; raises ToolError to
refuse it. Permissions set it around a call."""
_META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w-]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Response:
    """An answer of a server. kind: its media type without parameters. cut: the body was longer."""

    url: str
    status: int
    reason: str
    kind: str
    charset: str
    location: str
    body: bytes
    cut: bool

    @property
    def text(self) -> str:
        """The body as text; bytes that do not fit its charset are replaced."""
        named = _META.search(self.body[:2_048]) if not self.charset and "html" in self.kind else None
        charset = named[1].decode() if named else self.charset or "utf-8"
        try:
            charset = codecs.lookup(charset).name
            return self.body.decode("utf-8" if charset in NOT_CHARSETS else charset, "replace")
        except (LookupError, ValueError):
            return self.body.decode(errors="replace")


class Web:
    """Sends requests.

    allowed: (host, port) of servers whose addresses are not checked, because the user named them; a model's calls and a
    recipe have no say in it.
    """

    def __init__(self, allowed: Iterable[tuple[str, int]] = (), seconds: float = SECONDS) -> None:
        self.allowed, self.seconds = frozenset(allowed), seconds

    def get(self, url: str) -> Response:
        """The answer to a GET, redirects followed. Raises ToolError."""
        return self.follow(url, lambda address, until: self.send("GET", address, until=until))

    def follow(self, url: str, send: Callable[[str, float], Response]) -> Response:
        """The last answer of `send(url, until)` along the redirects. Raises ToolError if there are too many."""
        until = time.monotonic() + self.seconds
        for _ in range(REDIRECTS + 1):
            response = send(url, until)
            if response.status not in MOVED or not response.location:
                return response
            url = urljoin(response.url, response.location)
        raise ToolError(f"more than {REDIRECTS} redirects")

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        until: float | None = None,
    ) -> Response:
        """The answer to one request, whatever its status. until: on the monotonic clock. Raises ToolError."""
        parsed = checked_url(url)
        if (permit := PERMIT.get()) is not None:
            permit(method, str(parsed))
        until = time.monotonic() + self.seconds if until is None else until
        own = {"User-Agent": f"lanbot/{__version__}", "Accept-Encoding": "gzip", "Connection": "close"}
        request = httpx2.Request(method, parsed, headers=own | dict(headers or {}), content=body)
        target = httpcore2.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path)
        backend = _Checked(self.allowed, until)
        try:
            with (
                httpcore2.ConnectionPool(_tls(), network_backend=backend) as pool,
                pool.stream(request.method, target, headers=request.headers.raw, content=body) as answer,
            ):
                return _read(str(parsed), answer)
        except (httpcore2.TimeoutException, TimeoutError):
            raise ToolError(f"{parsed.host} took longer than {self.seconds:g} seconds") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError, zlib.error) as error:
            raise ToolError(f"{parsed.host} cannot be read: {error or type(error).__name__}") from None


def checked_url(url: str) -> httpx2.URL:
    """An address of http or https without a user's name. Raises ToolError."""
    if not isinstance(url, str) or len(url) > MAX_URL:
        raise ToolError(f"an address is text of at most {MAX_URL:,} characters")
    try:
        parsed = httpx2.URL(url.strip())
    except (httpx2.InvalidURL, ValueError) as error:
        raise ToolError(f"not an address: {error}") from None
    if parsed.scheme not in ("http", "https"):
        raise ToolError("only addresses that start with http:// or https:// can be reached")
    if parsed.userinfo:
        raise ToolError("an address must not contain a user's name or password")
    if not parsed.host:
        raise ToolError("the address names no host")
    return parsed.copy_with(fragment=None)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet: of no private, local or special network, in no form."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address):
        if ip in NAT64:
            return is_public(str(IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip.ipv4_mapped or ip.teredo or ip.scope_id or ip.is_site_local:
            return False
        if ip.sixtofour and not is_public(str(ip.sixtofour)):
            return False
    special = ip.is_multicast or ip.is_reserved or ip.is_unspecified or any(ip in network for network in CLOSED)
    return ip.is_global and not special


def _is_own(address: str) -> bool:
    """Whether an address is this machine's: it would then be its own source. Nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return False
        return bool(probe.getsockname()[0] == address)


class _Checked(httpcore2.NetworkBackend):
    """Connects to checked addresses only, until a point in time."""

    def __init__(self, allowed: frozenset[tuple[str, int]], until: float) -> None:
        self.allowed, self.until, self.inner = allowed, until, httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        addresses = resolve(host, port, _left(self.until))
        if (host, port) not in self.allowed:
            for address in addresses:
                if not is_public(address) or _is_own(address):
                    raise ToolError(f"{host} is not on the public internet ({address}); it may not be reached")
        failed: Exception = httpcore2.ConnectError(f"no address of {host}")
        for address in addresses:
            try:
                return _Timed(self.inner.connect_tcp(address, port, _left(self.until)), self.until)
            except httpcore2.ConnectError as error:
                failed = error
        raise failed


class _Timed(httpcore2.NetworkStream):
    """A connection that ends at a point in time, however slowly the other side writes."""

    def __init__(self, inner: httpcore2.NetworkStream, until: float) -> None:
        self.inner, self.until = inner, until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.inner.read(max_bytes, _left(self.until))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.inner.write(buffer, _left(self.until))

    def close(self) -> None:
        self.inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Timed(self.inner.start_tls(ssl_context, server_hostname, _left(self.until)), self.until)

    def get_extra_info(self, info: str) -> Any:
        return self.inner.get_extra_info(info)


def resolve(host: str, port: int, seconds: float) -> list[str]:
    """The addresses of a host. In a thread, because the system's resolver knows no time limit. Raises ToolError."""
    found: SimpleQueue[list[str] | None] = SimpleQueue()

    def look_up() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.put(list(dict.fromkeys(str(answer[4][0]) for answer in answers)))
        except (OSError, UnicodeError):
            found.put(None)

    Thread(target=look_up, daemon=True).start()
    try:
        addresses = found.get(timeout=seconds)
    except Empty:
        raise TimeoutError from None
    if not addresses:
        raise ToolError(f"there is no host {host}")
    return addresses


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout
    return left


@cache
def _tls() -> ssl.SSLContext:
    return httpx2.create_ssl_context(trust_env=False)


def _read(url: str, answer: httpcore2.Response) -> Response:
    headers = httpx2.Headers(answer.headers)
    content_type = headers.get("Content-Type", "")
    named = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", content_type, re.IGNORECASE)
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise ToolError(f"the answer is compressed as {encoding[:20]!r}, which cannot be read")
    pieces = answer.iter_stream() if encoding in ("", "identity") else _decompressed(answer.iter_stream())
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) > MAX_BYTES:
            break
    reason = answer.extensions.get("reason_phrase", b"").decode("ascii", "replace")
    kind = content_type.partition(";")[0].strip().lower()
    location, charset = headers.get("Location", ""), named[1] if named else ""
    cut = len(body) > MAX_BYTES
    return Response(url, answer.status, reason, kind, charset, location, bytes(body[:MAX_BYTES]), cut)


def _decompressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """In steps of bounded size: a small body may be a very large one compressed."""
    inflate = zlib.decompressobj(47)  # gzip or zlib, by the header
    for piece in pieces:
        while piece:
            yield inflate.decompress(piece, 1 << 16)
            piece = inflate.unconsumed_tail
