"""The tools of a model: the calculator, and functions that a call may use."""

from collections.abc import Callable

from lanbot.tools.calculator import answer
from lanbot.tools.memory import Memory
from lanbot.tools.workspace import Workspace


class Toolbox:
    """Answers a call: toolbox('read_file("notes.txt")'). Without functions it is the calculator.

    functions: what a call may use, by name; more may be added at any time. What one raises is told to the model.
    """

    def __init__(self, workspace: Workspace | None = None, memory: Memory | None = None) -> None:
        self.workspace, self.memory = workspace, memory
        self.functions: dict[str, Callable[..., object]] = {}
        for source in (workspace, memory):
            if source is not None:
                self.functions |= source.functions

    def __call__(self, code: str) -> str:
        return answer(code, self.functions)
