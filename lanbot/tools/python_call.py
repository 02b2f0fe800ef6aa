"""Calls as Python expressions: tools are functions in the calculator's language."""

from typing import Any

from lanbot.tools.calculator import answer
from lanbot.tools.tool import Toolset


class PythonCalls:
    """Runs a call's code: PythonCalls(toolset)('read_file("notes.txt")'). Without tools it is the calculator."""

    def __init__(self, toolset: Toolset | None = None) -> None:
        self.toolset = Toolset() if toolset is None else toolset
        self.functions = {name: self._function(name) for name in self.toolset}

    def __call__(self, code: str) -> str:
        return answer(code, self.functions)

    def _function(self, name: str) -> Any:
        def call(*values: Any, **keywords: Any) -> Any:
            return self.toolset.call(name, self.toolset[name].bind(values, keywords))

        return call
