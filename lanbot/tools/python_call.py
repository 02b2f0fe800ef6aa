"""Calls as Python: tools are functions in the calculator's language, and anything more is a program for the sandbox."""

from typing import Any

from lanbot.core.console import CONTROLS
from lanbot.core.errors import Stopped
from lanbot.tools.calculator import MAX_ANSWER, answer, is_calculation
from lanbot.tools.tool import ToolError, Toolset

PYTHON: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "python",
        "description": "Evaluates one Python expression: arithmetic, comparisons, strings, and the other functions.",
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string", "description": "The expression."}},
            "required": ["code"],
        },
    },
}
"""Calls as Python, declared to models that call tools by name."""
_SIGNS = {code: sign for code, sign in CONTROLS.items() if code != ord("\r")}
_TOO_LONG = 100_000  # characters of a result: only its beginning is looked at


class PythonCalls:
    """Runs a call's code: PythonCalls(toolset)('read_file("notes.txt")'). Without tools it is the calculator.

    If the set has the tool `python`, it gets what is not one expression of tools, literals and the calculator's
    operations. A result is text without what a terminal would obey; a tool that fails returns "error: <why>".
    """

    def __init__(self, toolset: Toolset | None = None) -> None:
        self.toolset = Toolset() if toolset is None else toolset
        self.functions = {name: self._function(name) for name in self.toolset}
        own = [] if "python" in self.toolset else [PYTHON]
        self.declarations = [*own, *(tool.declaration for tool in self.toolset.values())]
        """For models that call tools by name."""

    def __call__(self, code: str) -> str:
        return self._run(code).translate(_SIGNS)

    def interrupt(self) -> None:
        """Ends the wait for the call that runs, from any thread."""
        self.toolset.interrupt()

    def _run(self, code: str) -> str:
        if "python" not in self.toolset or is_calculation(code, self.functions):
            return answer(code, self.functions)
        try:
            return str(self.toolset.call("python", {"code": code}))
        except Stopped:
            raise
        except Exception as error:
            return f"error: {str(error)[:MAX_ANSWER] or type(error).__name__}"

    def _function(self, name: str) -> Any:
        def call(*values: Any, **keywords: Any) -> Any:
            return _readable(self.toolset.call(name, self.toolset[name].bind(values, keywords)))

        return call


def _readable(result: Any) -> Any:
    """A tool's result as a value: bytes are text, and of a huge text there is only the beginning.

    Raises ToolError for bytes that are not text.
    """
    if isinstance(result, bytes | bytearray):
        size, result = len(result), bytes(result[:_TOO_LONG])
        try:
            text = result.decode(errors="strict" if size <= _TOO_LONG else "ignore")
        except UnicodeDecodeError as error:
            raise ToolError(f"the result is {size:,} bytes that are not UTF-8 text (at byte {error.start:,})") from None
        result = text if size <= _TOO_LONG else _beginning(text, f"{size:,} bytes")
    elif isinstance(result, str) and len(result) > _TOO_LONG:
        result = _beginning(result, f"{len(result):,} characters")
    return result


def _beginning(text: str, size: str) -> str:
    return f"(the result is {size}; only its beginning is shown)\n{text[:MAX_ANSWER]}"
