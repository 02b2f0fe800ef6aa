"""What the bodies of all APIs have in common."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from lanbot.inference.sampling import Sampling
from lanbot.web.errors import ApiError

MOST_ANSWERS, MOST_TOOLS, MOST_STOPS, MOST_ALTERNATIVES = 8, 128, 16, 20
MAX_SEED = 2**63 - 1
Name = Annotated[str, Field(max_length=128)]
ToolName = Annotated[str, Field(min_length=1, max_length=128)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Annotated[list[StopText], Field(max_length=MOST_STOPS)]
TOOL_NAME = re.compile(r"[A-Za-z_][\w.-]*")


class Body(BaseModel):
    """Fields that are not named are ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class SamplingFields(Body):
    """Beyond OpenAI's: top_k and min_p. Temperature is 0, greedy, if it is left out."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, description="Keeps the likeliest tokens; 0 and -1: all.")
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-MAX_SEED - 1, le=MAX_SEED)

    def sampling(self, max_tokens: int, stop: str | list[str] | None, top_logprobs: int = 0) -> Sampling:
        """Raises UserError for a combination that is out of range."""
        return Sampling(
            max_tokens,
            self.temperature or 0.0,
            self.top_k if self.top_k and self.top_k > 0 else None,
            self.top_p,
            self.min_p or None,
            tuple([stop] if isinstance(stop, str) else stop or ()),
            top_logprobs,
        )


def declaration(name: str, description: str | None, schema: dict[str, Any] | None) -> dict[str, Any]:
    """A function as chat formats declare it. Raises ApiError for a name or schema that no model can use."""
    if not TOOL_NAME.fullmatch(name):
        raise ApiError(400, f"tools: {name!r} is no name of a function", "tools")
    schema = schema or {"type": "object", "properties": {}}
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        raise ApiError(400, f"tools: the parameters of {name} are no JSON schema of an object", "tools")
    function = {"name": name, "description": description or "", "parameters": schema}
    return {"type": "function", "function": function}
