"""What a tool is: the text of a call in, the text that the model reads out."""

from collections.abc import Callable

Tool = Callable[[str], str | None]
"""None instead of an output ends the model's turn."""


class ToolError(Exception):
    """Why a call cannot be done, in words that help the model to mend it; it reads "error: <why>"."""
