"""All the tools of an agent, as its recipe names them, and what has to be closed after them."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from lanbot.config.agent import Agent
from lanbot.core.errors import UserError
from lanbot.tools.memory import Memory
from lanbot.tools.tool import Tool, Toolset, load_tools
from lanbot.tools.workspace import Workspace

CHOSEN = ("python", "web_search", "fetch")
"""What `agent.tools` may name, besides tools from outside."""


class Toolbox:
    """Files and memory always; the others as the recipe says. Also a context manager. Raises UserError.

    toolset: what the agent calls. unsafe: `python` runs even where no sandbox holds.
    further: functions that are tools too.
    """

    def __init__(
        self,
        settings: Agent,
        files: Workspace,
        memory: Memory,
        unsafe: bool = False,
        further: Sequence[Callable[..., Any]] = (),
    ) -> None:
        self.settings, self.unsafe = settings, unsafe
        self.sandboxed = False  # whether `python` is kept from the machine
        self._closing = ExitStack()
        self._point: Callable[[Toolset], None] = lambda toolset: None  # tells `python` what its code may call
        try:
            always = (*files.tools, *memory.tools, *further)
            made = [Tool.from_function(function) for function in always] + self._further()
            _check_names(made)
            self.toolset = Toolset(made)
        except BaseException:
            self.close()
            raise
        self._point(self.toolset)

    def wrap(self, wrapper: Callable[[Toolset], Toolset]) -> None:
        """Puts a wrapper around the tools, for the model's calls and for those of its programs."""
        self.toolset = wrapper(self.toolset)
        self._point(self.toolset)

    def close(self) -> None:
        """Ends the sandbox's session and the MCP servers; again does nothing."""
        self._closing.close()

    def __enter__(self) -> "Toolbox":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _further(self) -> list[Tool]:
        made: list[Tool] = []
        for name in self.settings.tools:
            if name in CHOSEN:
                made.append({"python": self._python, "web_search": self._search, "fetch": self._fetch}[name]())
            elif ":" in name:
                made += load_tools(name)
            else:
                remedy = f"There are: {', '.join(CHOSEN)}, and module:name for others."
                raise UserError(f"agent.tools: {name} is no tool", remedy)
        if self.settings.apis:
            made += self._apis()
        if self.settings.mcp:
            from lanbot.tools.mcp_servers import McpServers

            made += self._closing.enter_context(McpServers(self.settings.mcp)).tools
        return made

    def _python(self) -> Tool:
        from lanbot.sandbox import launch
        from lanbot.sandbox.sandbox import Sandbox
        from lanbot.tools.python_tool import Python

        box = self._closing.enter_context(Sandbox(unsafe=self.unsafe))
        python, self.sandboxed = Python(box), box.level != launch.OPEN
        self._point = lambda toolset: setattr(python, "toolset", toolset)
        return Tool.from_function(python.run)

    def _search(self) -> Tool:
        from lanbot.tools.search import open_search

        made = Tool.from_function(open_search(self.settings.search).web_search)
        return replace(made, kind="read") if self.settings.search else made

    def _fetch(self) -> Tool:
        from lanbot.tools.fetch import Pages
        from lanbot.tools.web import Web

        folder = Workspace(Path(self.settings.search)) if self.settings.search else None
        made = Tool.from_function(Pages(Web(), folder).fetch)
        return replace(made, subject="page") if folder else made

    def _apis(self) -> list[Tool]:
        from lanbot.tools.api import Apis, open_api
        from lanbot.tools.web import Web

        return Apis(Web(), [open_api(api.file, api.key) for api in self.settings.apis]).tools


def _check_names(tools: list[Tool]) -> None:
    """No tool takes the place of another, and with it the other's permissions. Raises UserError."""
    names = [tool.name for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        remedy = "Give the tool or its MCP server another name in the recipe's [agent]."
        raise UserError(f"agent: two tools are called {twice}", remedy)
