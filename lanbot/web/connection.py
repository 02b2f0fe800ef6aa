"""HTTP connections that keep nobody waiting: uvicorn's, with a time for the head of a request and a most of them."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0
"""From a connection, or the first byte of a further request, to the end of its head."""
MOST = 4_096
"""Open connections. One more closes the one that has been silent longest, or itself if each has a request."""


class Connection(H11Protocol):
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MOST:
            next(iter(self._silent), self)._drop()
        self._expect_head()

    @property
    def _silent(self) -> dict["Connection", None]:
        """The server's connections without a request, the oldest first."""
        found: dict[Connection, None] = vars(self.server_state).setdefault("silent", {})
        return found

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._head_timer is None and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._drop)
            self._silent[self] = None

    def _forget(self) -> None:
        self._silent.pop(self, None)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _drop(self) -> None:
        self._forget()
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
