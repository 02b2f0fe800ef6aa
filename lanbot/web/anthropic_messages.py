"""POST /v1/messages, in Anthropic's form: text, thinking, tools."""

import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from lanbot.chat.messages import Message, Part, text
from lanbot.chat.thoughts import written
from lanbot.web.answer import Piece
from lanbot.web.asking import Question, as_events, as_json, ask, pieces, read, wait_for, whole
from lanbot.web.conversation import checked, made_call
from lanbot.web.errors import ANTHROPIC_PATH, ApiError, unsupported
from lanbot.web.fields import MOST_TOOLS, Body, Name, SamplingFields, Stops, ToolName, declaration
from lanbot.web.form import FlatSchema, asked_form
from lanbot.web.job import Items, Job

REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class TextBlock(Body):
    type: Literal["text"]
    text: str


class ThinkingBlock(Body):
    type: Literal["thinking"]
    thinking: str


class ToolUse(Body):
    type: Literal["tool_use"]
    id: str = Field(max_length=256)
    name: ToolName
    input: dict[str, Any]


class ToolResult(Body):
    type: Literal["tool_result"]
    tool_use_id: str = Field(max_length=256)
    content: str | list[TextBlock] | None = None


Block = Annotated[TextBlock | ThinkingBlock | ToolUse | ToolResult, Field(discriminator="type")]


class InputMessage(Body):
    role: Literal["user", "assistant"]
    content: str | list[Block]

    def messages(self) -> list[Message]:
        """The message, with the results in it as messages of their own before it. Raises ApiError."""
        if isinstance(self.content, str):
            return [{"role": self.role, "content": self.content}]
        results: list[Message] = []
        own: list[Part] = []
        for block in self.content:
            if isinstance(block, ToolResult):
                results.append({"role": "tool", "content": _text(block.content or ""), "id": block.tool_use_id})
            elif isinstance(block, TextBlock):
                own.append(text(block.text))
            elif self.role == "assistant":
                own.append(_part(block))
        if results and self.role == "assistant":
            raise ApiError(400, "messages: a tool_result is the user's", "messages")
        if not own and results:
            return results
        content: str | list[Part] = own if self.role == "assistant" else "".join(part["text"] for part in own)
        return [*results, {"role": self.role, "content": content}]


def _part(block: ThinkingBlock | ToolUse) -> Part:
    if isinstance(block, ToolUse):
        return made_call(block.id, block.name, block.input)
    return text(written(block.thinking))


def _text(content: str | list[TextBlock]) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content)


class DeclaredTool(Body):
    type: str | None = None
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Body):
    type: str


class OutputOptions(Body):
    format: FlatSchema | None = None


class MessagesBody(SamplingFields):
    model: Name
    max_tokens: int = Field(ge=1)
    messages: list[InputMessage] = Field(min_length=1, max_length=10_000)
    system: str | list[TextBlock] | None = None
    stop_sequences: Stops | None = None
    stream: bool | None = None
    tools: list[DeclaredTool] | None = Field(None, max_length=MOST_TOOLS)
    tool_choice: ToolChoice | None = None
    output_config: OutputOptions | None = None
    thinking: Thinking | None = None

    def question(self) -> Question:
        """Raises ApiError for what is not supported."""
        choice = self.tool_choice or ToolChoice(type="auto")
        tools = [] if choice.type == "none" else self.tools or []
        if any(tool.type not in (None, "custom") for tool in tools):
            raise unsupported("tools", "Only functions of the client's own are.")
        asked: Any = {"any": "required", "tool": {"name": choice.name}}.get(choice.type)
        form = self.output_config.format if self.output_config else None
        several, strict = not choice.disable_parallel_tool_use, any(tool.strict for tool in tools)
        messages = [made for message in self.messages for made in message.messages()]
        if self.system:
            messages.insert(0, {"role": "system", "content": _text(self.system)})
        return Question(
            self.model,
            self.sampling(self.max_tokens, self.stop_sequences),
            checked(messages),
            tools=[declaration(tool.name, tool.description, tool.input_schema) for tool in tools],
            form=asked_form(form, asked, [tool.name for tool in tools], several, strict, "output_config.format"),
            seed=self.seed,
            thinks=self.thinking is not None and self.thinking.type != "disabled",
            stream=bool(self.stream),
        )


async def messages(request: Request) -> Response:
    body = await read(request, MessagesBody)
    job = await ask(request, body.question())
    first = await wait_for(request, job)
    made = Made()
    head = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": body.model}
    if body.stream:
        return as_events(_events(request, job, first, made, head))
    for _, piece in whole(first, 1)[0]:
        list(made.take(piece))
    return as_json({**head, "content": made.content, **made.ending, "usage": _usage(job)})


def _usage(job: Job) -> dict[str, Any]:
    cached = job.cached_tokens
    return {
        "input_tokens": len(job.wanted.prompt) - cached,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": job.completion_tokens,
    }


class Made:
    """A message while it is made: its blocks, and an event for each step."""

    def __init__(self) -> None:
        self.content: list[dict[str, Any]] = []
        self.open = ""  # the kind of the block that is being written
        self.ending: dict[str, Any] = {"stop_reason": None, "stop_sequence": None}

    def take(self, piece: Piece) -> Iterator[dict[str, Any]]:
        if piece.kind in ("text", "reasoning"):
            if piece.text:
                key = "text" if piece.kind == "text" else "thinking"
                if self.open != key:
                    yield from self.close()
                    self.open = key
                    yield self._begin({"type": key, key: "", **({} if key == "text" else {"signature": ""})})
                self.content[-1][key] += piece.text
                yield self._delta({"type": f"{key}_delta", key: piece.text})
        elif piece.call is not None:
            yield from self.close()
            call, self.open = piece.call, "tool_use"
            yield self._begin({"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
            yield self._delta({"type": "input_json_delta", "partial_json": call.arguments})
            self.content[-1]["input"] = json.loads(call.arguments)
            yield from self.close()
        elif piece.kind == "end":
            yield from self.close()
            reason = "stop_sequence" if piece.stop else REASONS[piece.text]
            self.ending = {"stop_reason": reason, "stop_sequence": piece.stop or None}

    def close(self) -> Iterator[dict[str, Any]]:
        if self.open:
            self.open = ""
            yield {"type": "content_block_stop", "index": len(self.content) - 1}

    def _begin(self, block: dict[str, Any]) -> dict[str, Any]:
        self.content.append(block)
        return {"type": "content_block_start", "index": len(self.content) - 1, "content_block": {**block}}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": len(self.content) - 1, "delta": delta}


async def _events(request: Request, job: Job, first: Items, made: Made, head: dict[str, Any]) -> AsyncIterator[bytes]:
    begun = {**head, "content": [], **made.ending, "usage": {**_usage(job), "output_tokens": 0}}
    yield _event({"type": "message_start", "message": begun})
    try:
        async for items in pieces(request, job, first):
            for _, piece in items:
                for one in made.take(piece):
                    yield _event(one)
    except ApiError as error:
        yield _event(error.body(ANTHROPIC_PATH))
        return
    yield _event({"type": "message_delta", "delta": made.ending, "usage": _usage(job)})
    yield _event({"type": "message_stop"})


def _event(value: dict[str, Any]) -> bytes:
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"event: {value['type']}\ndata: {data}\n\n".encode()
