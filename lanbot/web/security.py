"""Who may ask, from where, and how much: the middlewares around the routes."""

import asyncio
import base64
import binascii
import hmac
import ipaddress
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lanbot.core.console import say
from lanbot.web.errors import ApiError

OPEN = frozenset({"/health"})
"""Routes that ask for no key, besides the chat page's files, which are the same for everyone."""
MAX_BODY = 4 << 20
"""Bytes: far more than fits into a context."""
MAX_BODIES = 64 << 20
"""Bytes of all bodies that are held at the same time."""
BODY_SECONDS = 30.0
"""How long a body may take to arrive."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Of every answer that does not say otherwise."""


@dataclass(frozen=True)
class Access:
    """keys: any of them opens the server; none: it is open to whoever reaches it. origins: those of pages that may ask
    from a browser."""

    keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def key_of(self, headers: Headers) -> int | None:
        """The place of the key that a request has; None if it has none of them."""
        given = [headers.get("x-api-key", "").encode()]
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            given.append(value.strip().encode())
        elif kind.lower() == "basic":
            given.append(_password(value))
        found = [i for i, key in enumerate(self.keys) for one in given if hmac.compare_digest(one, key.encode())]
        return found[0] if found else None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _password(value: str) -> bytes:
    """Of HTTP's basic authentication, which a browser asks its user for."""
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except (ValueError, binascii.Error):
        return b""


class Guard:
    """Asks for the key. Without one, only this machine's own names are answered: a page elsewhere could otherwise give
    its name this machine's address, and ask."""

    def __init__(self, app: ASGIApp, access: Access, open: Container[str] = ()) -> None:
        self.app, self.access, self.open = app, access, open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        client = scope["client"][0] if scope.get("client") else ""
        if self.access.keys:
            key = self.access.key_of(headers)
            if key is None and path not in OPEN and path not in self.open:
                message = "this server asks for a key: Authorization: Bearer KEY, or x-api-key: KEY"
                challenge = {"WWW-Authenticate": "Bearer" if path.startswith("/v1/") else 'Basic realm="LanBot"'}
                await refuse(ApiError(401, message, code="invalid_api_key", headers=challenge), scope, receive, send)
                return
            client = f"key {key}" if len(self.access.keys) > 1 else client
        elif not is_loopback(_host(headers.get("host", ""))):
            error = ApiError(403, "without a key this server answers to localhost only", code="wrong_host")
            await refuse(error, scope, receive, send)
            return
        scope["lanbot.client"] = client
        await self.app(scope, receive, send)


def _host(header: str) -> str:
    """A Host header without its port."""
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.partition(":")[0]


class BodyLimit:
    """Reads a body whole, up to MAX_BODY and for BODY_SECONDS, before the routes see it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        chunks: list[bytes] = []
        try:
            declared = Headers(scope=scope).get("content-length", "0")
            if declared.isdecimal() and int(declared) > MAX_BODY:
                raise _too_large()
            if not await asyncio.wait_for(self._read(receive, chunks), BODY_SECONDS):
                return  # the client left
            await self.app(scope, _again(b"".join(chunks), receive), send)
        except TimeoutError:
            error = ApiError(408, f"the body took more than {BODY_SECONDS:.0f} s", headers={"Connection": "close"})
            await refuse(error, scope, receive, send)
        except ApiError as error:
            await refuse(error, scope, receive, send)
        finally:
            self.held -= sum(map(len, chunks))

    async def _read(self, receive: Receive, chunks: list[bytes]) -> bool:
        """Whether the body is whole. Raises ApiError if it is too large."""
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            self.held += len(chunks[-1])
            if size > MAX_BODY:
                raise _too_large()
            if self.held > MAX_BODIES:
                headers = {"Connection": "close", "Retry-After": "5"}
                raise ApiError(503, "too many bodies arrive at the same time", headers=headers)
            if not message.get("more_body"):
                return True


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read, for the routes to read; then what the connection says."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _too_large() -> ApiError:
    return ApiError(413, f"the body is larger than {MAX_BODY >> 20} MiB", headers={"Connection": "close"})


class SafeHeaders:
    """Puts HEADERS on answers, and writes a line for each: never a body, a query or a header of the client's."""

    def __init__(self, app: ASGIApp, log: bool) -> None:
        self.app, self.log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, with_headers)
        finally:
            if self.log:
                client = scope["client"][0] if scope.get("client") else "-"
                seconds = time.monotonic() - began
                path = scope["raw_path"][:200].decode("ascii", "replace")
                say(f"{client} {scope['method']} {path} {status or '-'} {seconds:.2f} s")


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    response = JSONResponse(error.body(scope["path"]), error.status, error.headers)
    await response(scope, receive, send)


def public_without_key(host: str, keys: Sequence[str]) -> bool:
    return not keys and not is_loopback(host)
