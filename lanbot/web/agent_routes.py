"""/agent: turns of the run's agent as its events, the user's answers to its questions, and its memory."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Literal

from anyio import to_thread
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lanbot.tools.tool import ToolError
from lanbot.web.agent_host import AgentHost
from lanbot.web.asking import as_events, as_json, read
from lanbot.web.errors import ApiError
from lanbot.web.fields import Body

MAX_NUMBER = 2**63 - 1


class TurnBody(Body):
    """session: 0 for a new conversation, or the one that an earlier turn named."""

    request: str = Field(min_length=1)
    session: int = Field(0, ge=0, le=MAX_NUMBER)


class AnswerBody(Body):
    question: str = Field(max_length=64)
    answer: Literal["once", "always", "no"]


class MemoryBody(Body):
    """Without a number a text is remembered; without a text what has the number is forgotten."""

    number: int | None = Field(None, ge=1, le=MAX_NUMBER)
    text: str | None = None


def agent_routes(host: AgentHost | None) -> list[Route]:
    """Those of a server with an agent; of another one only that it has none."""

    async def about(request: Request) -> Response:
        return as_json({"agent": host is not None, "busy": host is not None and host.busy})

    if host is None:
        return [Route("/agent", about)]

    async def turn(request: Request) -> Response:
        body = await read(request, TurnBody)
        rows: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        host.begin(body.request, body.session, lambda row: _put(loop, rows, row))
        return as_events(_events(host, rows))

    async def answer(request: Request) -> Response:
        body = await read(request, AnswerBody)
        host.answer(body.question, body.answer)
        return as_json({})

    async def memory(request: Request) -> Response:
        if request.method == "POST":
            body = await read(request, MemoryBody)
            try:
                await to_thread.run_sync(host.remembered.change, body.number, body.text)
            except ToolError as error:
                raise ApiError(400, str(error)) from None
        return as_json({"entries": await to_thread.run_sync(host.remembered.entries)})

    return [
        Route("/agent", about),
        Route("/agent/turns", turn, methods=["POST"]),
        Route("/agent/answers", answer, methods=["POST"]),
        Route("/agent/memory", memory, methods=["GET", "POST"]),
    ]


def _put(
    loop: asyncio.AbstractEventLoop, rows: asyncio.Queue[dict[str, Any] | None], row: dict[str, Any] | None
) -> None:
    with suppress(RuntimeError):  # the server is gone
        loop.call_soon_threadsafe(rows.put_nowait, row)


async def _events(host: AgentHost, rows: asyncio.Queue[dict[str, Any] | None]) -> AsyncIterator[bytes]:
    """A client that leaves ends the turn."""
    over = False
    try:
        while (row := await rows.get()) is not None:
            yield f"data: {json.dumps(row, ensure_ascii=False, default=repr)}\n\n".encode()
        over = True
    finally:
        if not over:
            host.leave()
