"""MCP servers: their tools become tools of the agent, by the official SDK.

The SDK is asynchronous: its clients live in one background thread. A server's process ends with `close`, at the end of
this program, and on Linux even when this program is killed.
"""

import asyncio
import atexit
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING, Any

from lanbot.config.agent import McpServer
from lanbot.core.console import visible
from lanbot.core.errors import UserError
from lanbot.tools.fetch import shortened
from lanbot.tools.keys import without_keys
from lanbot.tools.tool import Tool, ToolError

if TYPE_CHECKING:
    from mcp import Client

START_SECONDS = 60.0  # a server may have to be downloaded first
CALL_SECONDS = 60.0
CLOSE_SECONDS = 20.0  # the SDK gives a process 2 seconds to end by itself, and 4 more
MAX_DESCRIPTION = 1_000
MAX_PAGES = 100  # of a list of tools
TAIL = 4_096  # bytes kept of what a server writes to stderr

# PR_SET_PDEATHSIG: the kernel kills the server when the thread that started it ends, however it ends.
_TIED = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 9)\n"
    "os.getppid() == int(sys.argv[1]) or os._exit(1)\n"
    "os.execvp(sys.argv[2], sys.argv[2:])\n"
)


class McpServers:
    """Starts servers and offers their tools; also a context manager. Raises UserError if one does not start."""

    def __init__(self, servers: Iterable[McpServer]) -> None:
        self.tools: list[Tool] = []
        self.loop = asyncio.new_event_loop()
        self.stop = asyncio.Event()
        self.thread = Thread(target=self._work, name="mcp", daemon=True)
        if not find_spec("mcp"):
            raise UserError("agent.mcp needs the package mcp", "Install the extra: pip install 'lanbot[agent]'.")
        for name in ("mcp", "httpx2"):  # what a server sends must not reach the terminal by way of a log
            logging.getLogger(name).addHandler(logging.NullHandler())
        self.thread.start()
        atexit.register(self.close)
        try:
            started = [(server, Future()) for server in servers]  # type: ignore[var-annotated]
            self.tasks = [asyncio.run_coroutine_threadsafe(self._serve(*one), self.loop) for one in started]
            for server, ready in started:
                self._add(server, *ready.result())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends all servers and the thread; again does nothing."""
        atexit.unregister(self.close)
        if self.loop.is_closed():
            return
        self.loop.call_soon_threadsafe(self.stop.set)
        for task in getattr(self, "tasks", ()):
            with suppress(Exception):
                task.result(CLOSE_SECONDS)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(CLOSE_SECONDS)

    def __enter__(self) -> "McpServers":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _work(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    async def _serve(self, server: McpServer, ready: "Future[tuple[Client, list[Any], list[bytes]]]") -> None:
        """One server from its start to its end, in one task, as the SDK wants it."""
        said = [b""]
        try:
            async with asyncio.timeout(START_SECONDS) as limit, _connection(server, said) as client:
                listed = await _all_tools(client)
                limit.reschedule(None)
                ready.set_result((client, listed, said))
                await self.stop.wait()
        except BaseException as error:
            if ready.done():
                return
            ready.set_exception(_not_started(server, error, said[0]))

    def _add(self, server: McpServer, client: "Client", listed: list[Any], said: list[bytes]) -> None:
        for one in listed:
            name = tool_name(server.name, one.name)
            if any(other.name == name for other in self.tools):
                raise UserError(f"agent.mcp: two tools are called {name}", "Give one of the servers another name.")
            description = visible(one.description or one.title or "")[:MAX_DESCRIPTION]
            schema = {"type": "object", "properties": {}, **one.input_schema}
            run = self._call(server, client, one.name, said)
            kind = "network" if server.url else "execute"
            self.tools.append(Tool(name, description, schema, run, kind=kind))  # type: ignore[arg-type]

    def _call(self, server: McpServer, client: "Client", name: str, said: list[bytes]) -> Callable[..., str]:
        from mcp.shared.exceptions import MCPError

        def clean(text: str) -> str:
            return shortened(without_keys(text, [os.environ.get(server.key, "")] if server.key else []))

        def run(**arguments: Any) -> str:
            if self.loop.is_closed():
                raise ToolError(f"the MCP server {server.name} is closed")
            call = asyncio.run_coroutine_threadsafe(client.call_tool(name, arguments), self.loop)
            try:
                result = call.result(CALL_SECONDS)
            except TooLate:
                call.cancel()
                raise ToolError(f"the MCP server {server.name} did not answer for {CALL_SECONDS:g} seconds") from None
            except MCPError as error:
                ended = "connection closed" in error.message.lower()
                why = f"the MCP server {server.name} has ended{_last_line(said[0])}" if ended else error.message
                raise ToolError(clean(why)) from None
            except Exception as error:  # of the SDK, about an answer that is none
                raise ToolError(f"the MCP server {server.name}: {_reason(error)}") from None
            except BaseException:  # Ctrl-C
                call.cancel()
                raise
            text = clean("\n".join(map(_block_text, result.content)))
            if result.is_error:
                raise ToolError(text or "the tool failed and did not say why")
            return text or ("" if result.structured_content is None else clean(json.dumps(result.structured_content)))

        return run


def tool_name(server: str, name: str) -> str:
    """A function's name: that of the server, unless it begins with it anyway, and of its tool."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return plain if plain.startswith(f"{server}_") else f"{server}_{plain}"


@asynccontextmanager
async def _connection(server: McpServer, said: list[bytes]) -> "AsyncIterator[Client]":
    """A client of a server; `said` holds the end of what it writes to stderr."""
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamable_http_client

    if server.url:
        import httpx2

        headers = {"Authorization": f"Bearer {_variable(server, server.key)}"} if server.key else {}
        timeout = httpx2.Timeout(30.0, read=300.0)  # a stream of events may be quiet for long
        async with (
            httpx2.AsyncClient(headers=headers, timeout=timeout) as http,
            Client(streamable_http_client(server.url, http_client=http)) as client,
        ):
            yield client
        return
    if not shutil.which(server.command[0]):
        raise UserError(f"MCP server {server.name}: no command {server.command[0]}", "Install it, or correct its name.")
    command = list(server.command)
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]
    env = {name: _variable(server, name) for name in server.env}
    parameters = StdioServerParameters(command=command[0], args=command[1:], env=env, encoding_error_handler="replace")
    async with _tail(said) as errors, Client(stdio_client(parameters, errlog=errors)) as client:
        yield client


@asynccontextmanager
async def _tail(said: list[bytes]) -> AsyncIterator[Any]:
    """A file to write to; `said[0]` is the end of what was written."""

    class Keep(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            said[0] = (said[0] + data)[-TAIL:]

    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb", 0) as source, os.fdopen(write_end, "w") as sink:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(Keep, source)
        try:
            yield sink
        finally:
            transport.close()
            await asyncio.sleep(0)


async def _all_tools(client: "Client") -> list[Any]:
    listed: list[Any] = []
    cursor = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        listed += page.tools
        cursor = page.next_cursor
        if not cursor:
            break
    return listed


def _variable(server: McpServer, name: str) -> str:
    if not os.environ.get(name):
        raise UserError(f"MCP server {server.name}: {name} is not set", f"Set it: export {name}=...")
    return os.environ[name]


def _not_started(server: McpServer, error: BaseException, said: bytes) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, UserError):
        return error
    why = f"nothing for {START_SECONDS:g} seconds" if isinstance(error, TimeoutError) else _reason(error)
    problem = f"MCP server {server.name} did not start: {why}{_last_line(said)}"
    what = f"is {server.url} an MCP server?" if server.url else f"run it yourself: {' '.join(server.command)}"
    return UserError(problem, f"Check agent.mcp; {what}")


def _reason(error: BaseException) -> str:
    return visible(" ".join(str(error).split()))[:300] or type(error).__name__


def _last_line(said: bytes) -> str:
    """The last line of what a server wrote to stderr, in brackets."""
    lines = said.decode(errors="replace").strip().splitlines()
    return f" ({visible(lines[-1])[:200]})" if lines else ""


def _block_text(block: Any) -> str:
    """A piece of a result as text; what is none is named."""
    if block.type == "text":
        return str(block.text)
    if block.type == "resource" and hasattr(block.resource, "text"):
        return str(block.resource.text)
    if block.type == "resource_link":
        return f"{block.name}: {block.uri}"
    return f"[{block.type} {getattr(block, 'mime_type', None) or ''}]".replace(" ]", "]")
