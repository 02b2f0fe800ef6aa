"""What the sections of a recipe are made of: kinds of values, keys with their documentation, and checks."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, Strict

CONFIG = ConfigDict(extra="forbid")

Bool = Annotated[bool, Strict()]
Int = Annotated[int, Strict()]
Natural = Annotated[int, Strict(), Field(ge=0)]
Count = Annotated[int, Strict(), Field(ge=1)]
Number = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Strict(), Field(gt=0)]
Fraction = Annotated[float, Strict(), Field(ge=0, le=1)]


def key(default: Any, doc: str, **bounds: Any) -> Any:
    """A key of a section, with its documentation and what else its value must be."""
    return Field(default, description=doc, **bounds)


def require(good: bool, problem: str) -> None:
    """Raises ValueError with the problem if something is not good."""
    if not good:
        raise ValueError(problem)
