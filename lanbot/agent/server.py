"""The agent as an MCP server on stdin and stdout, so that other programs can give it tasks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from threading import Lock
from typing import Any

from lanbot import __version__
from lanbot.agent.events import Called, Calling, Event
from lanbot.agent.session import OpenAgent
from lanbot.core.console import visible
from lanbot.core.errors import UserError

Tell = Callable[[int, str], None]
MAX_TOLD = 200
"""Characters of a call, or of what it returned, in a message of progress."""


def serve(opened: OpenAgent) -> None:
    """Answers requests until stdin ends. Nothing else reaches stdout meanwhile. Raises UserError without the SDK."""
    if not find_spec("mcp"):
        raise UserError("--mcp needs the package mcp", "Install the extra: pip install 'lanbot[agent]'.")
    make_server(opened).run(transport="stdio")


def make_server(opened: OpenAgent) -> Any:
    """The server of an agent that is open; one task is worked on at a time."""
    import anyio
    from mcp.server import MCPServer
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.exceptions import ToolError
    from pydantic import BaseModel, Field

    lock = Lock()  # the conversation is one; held in the worker's thread
    at_work: list[_Task] = []

    class Answer(BaseModel):
        answer: str
        session: int = Field(description="To go on with it; 0 if it is not kept.")
        problem: str = Field(description="Why the answer is not complete; empty if it is.")

    def work(task: _Task, session: int) -> Answer:
        if not task.text.strip():
            raise UserError("the task is empty", "Say what to do.")
        with lock:
            if task.cancelled:  # while another one was worked on
                raise UserError("the task was cancelled", "Ask again.")
            at_work[:] = [task]
            if session:
                opened.resume(session)
            else:
                opened.new()
            turn = opened.ask(task.text, task)
            problem = opened.problem_of(turn)
            return Answer(answer=turn.answer, session=opened.number, problem=problem.problem if problem else "")

    server = MCPServer(f"lanbot {opened.name}", version=__version__, log_level="ERROR")

    async def ask(task: str, ctx: Context, session: int = 0) -> Answer:
        async def report(count: int, message: str) -> None:
            await ctx.report_progress(count, message=message)

        def tell(count: int, message: str) -> None:
            anyio.from_thread.run(report, count, message)

        asked = _Task(task, tell, opened)
        try:
            return await anyio.to_thread.run_sync(partial(work, asked, session), abandon_on_cancel=True)
        except UserError as error:
            raise ToolError(str(error)) from None
        except anyio.get_cancelled_exc_class():
            asked.cancelled = True
            if asked in at_work:
                opened.agent.interrupt()
            raise

    async def sessions() -> list[dict[str, Any]]:
        kept = opened.sessions.listing() if opened.sessions else []
        return [{"session": one.id, "title": one.title, "turns": one.turns, "state": one.state} for one in kept]

    tools = ", ".join(opened.tools.toolset)
    server.add_tool(
        ask,
        description=f"Gives {opened.name} a task, which it solves with its own tools ({tools}). "
        "session: to go on with an earlier task, the number that it came with.",
    )
    server.add_tool(sessions, description=f"Lists the tasks that {opened.name} was given before.")
    return server


@dataclass(eq=False)
class _Task:
    """What a client asks; as a listener it tells the client of each call and what it returned."""

    text: str
    tell: Tell
    opened: OpenAgent
    cancelled: bool = False
    count: int = 0

    def __call__(self, event: Event) -> None:
        if self.cancelled:
            self.opened.agent.interrupt()  # the interruption may have come before the turn began
        if isinstance(event, Calling):
            said = f">>> {event.code}"
        elif isinstance(event, Called):
            said = event.output
        else:
            return
        self.count += 1
        self.tell(self.count, visible(said)[:MAX_TOLD])
