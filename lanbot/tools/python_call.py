"""Calls as Python expressions: tools are functions in the calculator's language."""

from typing import Any

from lanbot.tools.calculator import answer
from lanbot.tools.tool import Toolset

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


class PythonCalls:
    """Runs a call's code: PythonCalls(toolset)('read_file("notes.txt")'). Without tools it is the calculator."""

    def __init__(self, toolset: Toolset | None = None) -> None:
        self.toolset = Toolset() if toolset is None else toolset
        self.functions = {name: self._function(name) for name in self.toolset}
        own = [] if "python" in self.toolset else [PYTHON]
        self.declarations = [*own, *(tool.declaration for tool in self.toolset.values())]
        """For models that call tools by name."""

    def __call__(self, code: str) -> str:
        return answer(code, self.functions)

    def _function(self, name: str) -> Any:
        def call(*values: Any, **keywords: Any) -> Any:
            return self.toolset.call(name, self.toolset[name].bind(values, keywords))

        return call
