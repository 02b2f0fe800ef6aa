"""Running the application under uvicorn until a signal stops it."""

import socket

import uvicorn
from starlette.applications import Starlette

from lanbot.core.errors import UserError
from lanbot.web.connection import Connection

BACKLOG = 2_048
KEEP_ALIVE_SECONDS = 10
DRAIN_SECONDS = 30.0
"""How long answers may go on after the server was asked to stop."""


def make_server(app: Starlette) -> uvicorn.Server:
    """A server of ours: no access log of uvicorn's, which has whole URLs. SIGTERM lets answers end."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(DRAIN_SECONDS) + 5,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """Raises UserError if the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError as error:
        raise UserError(f"{host}:{port}: {error.strerror or error}", "Choose another --port or --host.") from None
    return made
