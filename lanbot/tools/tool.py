"""Tools: functions with a name, a description and a JSON schema of their arguments; and sets of them."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar, get_args

from lanbot.core.errors import UserError
from lanbot.core.plugins import load_object
from lanbot.tools.waiting import Waiting

Kind = Literal["read", "write", "network", "execute"]
"""What a call may do to the world: look at what the agent keeps, change it, reach other machines, run a program."""
Function = TypeVar("Function", bound=Callable[..., Any])
CallHandler = Callable[[str], str | None]
"""Runs the code of a model's call and returns what the model reads; None ends the model's turn."""


class ToolError(Exception):
    """Why a call failed, in words that help the model to correct it; it reads "error: <why>"."""


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    description: what it does, for the model. returns: what its result looks like.
    schema: the JSON schema of its arguments, an object. run: takes them by name; may be async.
    kind: what it may do, for permissions; the model does not see it. patient: it bounds its time itself.
    subject: which argument a rule of the permissions may look at: "path" is a file of the workspace, "url" an address,
    any other name a text. "files" is no argument but all files of the workspace; "page" is `url` where a file of an
    offline folder may stand too.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    run: Callable[..., Any]
    returns: str = ""
    kind: Kind = "execute"
    subject: str = ""
    patient: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"{self.name}: kind {self.kind!r} is none of {', '.join(get_args(Kind))}")

    @classmethod
    def from_function(cls, function: Callable[..., Any]) -> "Tool":
        """A tool from a function's name, signature and docstring (Google, NumPy or Sphinx style), and from what the
        decorator `tool` says. A function without it counts as one that may do anything."""
        description, returns, schema = _described(getattr(function, "__func__", function), inspect.ismethod(function))
        said: dict[str, Any] = getattr(function, "_tool", {})
        name = said.get("name") or str(getattr(function, "__name__", type(function).__name__))
        described, kind = said.get("description") or description, said.get("kind", "execute")
        subject, patient = said.get("subject", ""), said.get("patient", False)
        return cls(name, described, schema, function, returns, kind, subject, patient)

    @property
    def declaration(self) -> dict[str, Any]:
        """The tool as OpenAI's API and the chat templates of open models declare it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.schema)}
        return {"type": "function", "function": function}

    def bind(self, values: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name. Raises ToolError if they do not fit, in Python's words."""
        names = list(self.schema.get("properties", {}))
        if len(values) > len(names):
            raise ToolError(f"{self.name}() takes {len(names)} arguments but {len(values)} were given")
        arguments = dict(zip(names, values, strict=False))
        for name, value in keywords.items():
            if name not in names:
                raise ToolError(f"{self.name}() got an unexpected keyword argument '{name}'")
            if name in arguments:
                raise ToolError(f"{self.name}() got multiple values for argument '{name}'")
            arguments[name] = value
        missing = [f"'{name}'" for name in self.schema.get("required", ()) if name not in arguments]
        if missing:
            count, listed = len(missing), " and ".join(missing)
            raise ToolError(f"{self.name}() missing {count} required positional argument{'s'[: count - 1]}: {listed}")
        return arguments


def tool(
    *,
    kind: Kind = "execute",
    subject: str = "",
    name: str | None = None,
    description: str | None = None,
    patient: bool = False,
) -> Callable[[Function], Function]:
    """Marks a function as a tool: its kind and subject, and where they differ from the function's own, its name and
    description.

    patient: it bounds its time itself. The function stays as it is; `Tool.from_function` and `Toolset` read the mark.
    """

    def mark(function: Function) -> Function:
        said = {"kind": kind, "subject": subject, "name": name, "description": description, "patient": patient}
        function._tool = said  # type: ignore[attr-defined]
        return function

    return mark


@lru_cache(maxsize=256)
def _described(function: Callable[..., Any], method: bool) -> tuple[str, str, dict[str, Any]]:
    """The description, what is returned, and the schema. Cached: a workspace may be made thousands of times."""
    from docstring_parser import parse
    from pydantic import TypeAdapter

    doc = parse(inspect.getdoc(function) or "")
    bound: Any = function.__get__(object()) if method else function
    schema = TypeAdapter(bound).json_schema()
    schema["properties"] = schema.get("properties", {})
    for parameter in doc.params:
        if parameter.arg_name in schema["properties"] and parameter.description:
            schema["properties"][parameter.arg_name]["description"] = parameter.description
    returns = (doc.returns.description if doc.returns else None) or ""
    return (doc.description or "").strip(), returns.strip().rstrip("."), schema


class Toolset(Mapping[str, Tool]):
    """Tools by name. Plain functions become tools."""

    def __init__(self, tools: Iterable[Tool | Callable[..., Any]] = ()) -> None:
        made = [tool if isinstance(tool, Tool) else Tool.from_function(tool) for tool in tools]
        self.tools = {tool.name: tool for tool in made}
        self._waiting: Waiting | None = None

    def __getitem__(self, name: str) -> Tool:
        return self.tools[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tools)

    def __len__(self) -> int:
        return len(self.tools)

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """A tool's result; an async tool is waited for. Raises what the tool raises, and LateError after `limit`."""
        tool = self.tools[name]
        if self._waiting is None or tool.patient:
            return _run(tool, arguments)
        return self._waiting.run(lambda: _run(tool, arguments))

    def limit(self, seconds: float | None) -> None:
        """From now on a call is waited for at most so long, until `interrupt`."""
        self._waiting = Waiting(seconds)

    def interrupt(self) -> None:
        """Ends the waits for calls, from any thread: they, and calls until the next `limit`, raise Interrupted.

        Patient tools end by themselves.
        """
        if self._waiting is not None:
            self._waiting.interrupt()


def _run(tool: Tool, arguments: Mapping[str, Any]) -> Any:
    result = tool.run(**arguments)
    return _wait(result) if inspect.isawaitable(result) else result


def _wait(awaitable: Awaitable[Any]) -> Any:
    async def result() -> Any:
        return await awaitable

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(result())
    with ThreadPoolExecutor(1) as thread:  # a loop runs in this one
        return thread.submit(copy_context().run, asyncio.run, result()).result()


class Wrapper(Toolset):
    """The tools of another set; subclasses change how they are called."""

    def __init__(self, inner: Toolset) -> None:
        super().__init__(inner.values())
        self.inner = inner

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        return self.inner.call(name, arguments)

    def limit(self, seconds: float | None) -> None:
        self.inner.limit(seconds)

    def interrupt(self) -> None:
        self.inner.interrupt()


class Limited(Wrapper):
    """At most `max_calls` calls."""

    def __init__(self, inner: Toolset, max_calls: int) -> None:
        super().__init__(inner)
        self.left = self.max_calls = max_calls

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        if self.left < 1:
            raise ToolError(f"no more than {self.max_calls} calls of tools")
        self.left -= 1
        return super().call(name, arguments)


class Logged(Wrapper):
    """log(name, arguments, result or error) after each call."""

    def __init__(self, inner: Toolset, log: Callable[[str, Mapping[str, Any], object], None]) -> None:
        super().__init__(inner)
        self.log = log

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        try:
            result = super().call(name, arguments)
        except Exception as error:
            self.log(name, arguments, error)
            raise
        self.log(name, arguments, result)
        return result


def load_tools(name: str) -> list[Tool]:
    """The tools of "module:name" from outside: a function, a Tool, a Toolset, or a class that makes one of these.

    Raises UserError.
    """
    found = load_object(name, "agent.tools")
    if isinstance(found, type):
        found = found()
    if isinstance(found, Toolset):
        return list(found.values())
    if isinstance(found, Tool):
        return [found]
    if not callable(found):
        raise UserError(f"tool {name!r}: neither a function nor a Toolset", "Name one of these as module:name.")
    return [Tool.from_function(found)]
