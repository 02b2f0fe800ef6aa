"""`python`: code that a model wrote, in the sandbox. Its variables are kept, and the other tools are its functions."""

import ast
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, Protocol
from uuid import uuid4

from lanbot.core.console import visible
from lanbot.sandbox.protocol import FLOOD, MOST_CALLS, Functions
from lanbot.sandbox.worker import Result
from lanbot.tools.calculator import MAX_ANSWER
from lanbot.tools.tool import ToolError, Toolset, tool

SECONDS = 30.0  # of one call, without the time that other tools take
MAX_CODE = 20_000  # characters
NAME = "python"
_CUT = "... [cut] ..."
_LOST = "; its variables are lost"
_ENDS = {
    "timeout": f"stopped after {SECONDS:g} seconds{_LOST}",
    "output": f"stopped: it printed more than {FLOOD >> 20} MB{_LOST}",
    "calls": f"stopped: more than {MOST_CALLS:,} calls of tools{_LOST}",
    "protocol": f"stopped: it wrote where it may not{_LOST}",
    "lost": f"the sandbox ended{_LOST}",
}
_PLACE = re.compile(r'File "run\d+\.py", line (\d+)')
_UNKNOWN = re.compile(r"NameError: name '(\w+)' is not defined")


class Box(Protocol):
    """Where programs run: a Sandbox."""

    def run(self, code: str, *, functions: Functions, session: str, timeout: float) -> Result: ...

    def close_session(self, name: str) -> None: ...


class Python:
    """The tool `python`, with one session of the sandbox.

    toolset: what the code may call, `python` itself left out. Set it to the outermost set of the agent, so that the
    limits and permissions of its wrappers hold for code too.
    """

    def __init__(self, box: Box, toolset: Toolset | None = None) -> None:
        self.box, self.toolset = box, toolset or Toolset()
        self.session = f"python-{uuid4().hex}"

    @tool(kind="execute", subject="code", name=NAME, patient=True)
    def run(self, code: str) -> str:
        """Runs Python code. Variables are kept for the next call; the other tools are functions.

        Args:
            code: Any number of lines.

        Returns:
            what it prints, and the value of its last line
        """
        if not isinstance(code, str) or len(code) > MAX_CODE:
            raise ToolError(f"the code is text of at most {MAX_CODE:,} characters")
        functions = {name: self._function(name) for name in self.toolset if name != NAME and name.isidentifier()}
        result = self.box.run(showing_value(code), functions=functions, session=self.session, timeout=SECONDS)
        return _shown(result, list(functions))

    def close(self) -> None:
        """Ends the session; its variables are lost."""
        self.box.close_session(self.session)

    def _function(self, name: str) -> Callable[..., Any]:
        def call(*values: Any, **keywords: Any) -> Any:
            return self.toolset.call(name, self.toolset[name].bind(values, keywords))

        return call


def showing_value(code: str) -> str:
    """The code, printing the value of its last line if that is an expression. Raises ToolError if it is not Python."""
    try:
        last = ast.parse(code).body[-1:]
    except SyntaxError as error:
        raise ToolError(f"line {error.lineno or 1}: {type(error).__name__}: {error.msg}") from None
    except ValueError as error:  # NUL bytes, surrogates
        raise ToolError(f"not Python: {error}") from None
    except (RecursionError, MemoryError):
        raise ToolError("too deeply nested") from None
    if not last or not isinstance(last[0], ast.Expr) or isinstance(last[0].value, (ast.Yield, ast.Await)):
        return code
    lines = code.encode().splitlines(keepends=True)
    start = sum(map(len, lines[: last[0].lineno - 1])) + last[0].col_offset
    before, value = b"".join(lines)[:start].decode(), ast.get_source_segment(code, last[0].value) or ""
    return f"{before}_ = ({value}\n)\nif _ is not None: print(_)"


def _shown(result: Result, functions: list[str]) -> str:
    """What the model reads: the output and why it failed, at most MAX_ANSWER characters, none that a terminal obeys."""
    error = _error(result, functions)
    text = result.stdout if error else result.stdout + result.stderr
    text = visible(text.replace("\r\n", "\n")).strip("\n")
    end = f"error: {visible(error)[: MAX_ANSWER // 2]}" if error else ""
    room = MAX_ANSWER - len(end) - 1
    if len(text) > room:
        half = (room - len(_CUT) - 2) // 2
        text = f"{text[:half]}\n{_CUT}\n{text[len(text) - half :]}"
    return "\n".join(part for part in (text, end) if part)


def _error(result: Result, functions: list[str]) -> str:
    if result.ended:
        return _ENDS[result.ended]
    if result.exit < 0:
        with suppress(ValueError):
            return f"it crashed ({signal.Signals(-result.exit).name}){_LOST}"
    if not result.exit:
        return ""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    if not lines:
        return f"it ended with exit code {result.exit}"
    places = _PLACE.findall(result.stderr)
    unknown = _UNKNOWN.search(lines[-1])
    near = get_close_matches(unknown[1], functions, 1, cutoff=0.7) if unknown else []
    where = f"line {places[-1]}: " if places else ""
    return where + lines[-1].strip() + (f"; did you mean {near[0]}?" if near else "")
