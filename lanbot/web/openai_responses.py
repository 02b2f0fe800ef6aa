"""POST /v1/responses, in OpenAI's form, in the part that a server without a store has: text, reasoning, functions."""

import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag
from starlette.requests import Request
from starlette.responses import Response

from lanbot.chat.messages import Message, Part, text
from lanbot.chat.thoughts import written
from lanbot.web.answer import Piece
from lanbot.web.asking import Question, as_events, as_json, ask, pieces, read, wait_for, whole
from lanbot.web.conversation import checked, made_call
from lanbot.web.errors import ApiError, unsupported
from lanbot.web.fields import MOST_TOOLS, Body, Name, SamplingFields, ToolName, declaration
from lanbot.web.form import TextFormat, asked_form
from lanbot.web.job import Items, Job
from lanbot.web.openai_chat import MAX_TOKENS


class Words(Body):
    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text"]
    text: str


class InputMessage(Body):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Words]


class FunctionCall(Body):
    type: Literal["function_call"]
    call_id: str = Field(max_length=256)
    name: ToolName
    arguments: str


class FunctionOutput(Body):
    type: Literal["function_call_output"]
    call_id: str = Field(max_length=256)
    output: str | list[Words]


class Reasoning(Body):
    type: Literal["reasoning"]
    content: list[Words] | None = None


def _kind(item: Any) -> str:
    found = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", "")
    return found if isinstance(found, str) else ""


Item = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionOutput, Tag("function_call_output")]
    | Annotated[Reasoning, Tag("reasoning")],
    Discriminator(_kind),
]


class FunctionTool(Body):
    type: str
    name: ToolName | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ReasoningOptions(Body):
    effort: str | None = None


class TextOptions(Body):
    format: TextFormat | None = None


class ResponsesBody(SamplingFields):
    model: Name
    input: str | Annotated[list[Item], Field(min_length=1, max_length=10_000)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    stream: bool | None = None
    tools: list[FunctionTool] | None = Field(None, max_length=MOST_TOOLS)
    tool_choice: Literal["auto", "none", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None

    def question(self) -> Question:
        """Raises ApiError for what is not supported."""
        for name in ("previous_response_id", "conversation", "background"):
            if getattr(self, name):
                raise unsupported(name, "This server keeps nothing: send the whole conversation as input.")
        tools = [] if self.tool_choice == "none" else self.tools or []
        for tool in tools:
            if tool.type != "function" or tool.name is None:
                raise unsupported("tools", "Only functions are.")
        names, form = [tool.name or "" for tool in tools], self.text.format if self.text else None
        several, strict = self.parallel_tool_calls, any(tool.strict for tool in tools)
        effort = self.reasoning.effort if self.reasoning else None
        return Question(
            self.model,
            self.sampling(self.max_output_tokens or MAX_TOKENS, None),
            checked(self.messages(), "input"),
            tools=[declaration(tool.name or "", tool.description, tool.parameters) for tool in tools],
            form=asked_form(form, self.tool_choice, names, several, strict, "text.format"),
            seed=self.seed,
            thinks=effort not in (None, "none"),
            stream=bool(self.stream),
        )

    def messages(self) -> list[Message]:
        """Raises ApiError for calls whose arguments are no object."""
        made: list[Message] = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            return [*made, {"role": "user", "content": self.input}]
        for item in self.input:
            if isinstance(item, FunctionOutput):
                made.append({"role": "tool", "content": _words(item.output), "id": item.call_id})
            elif isinstance(item, InputMessage) and item.role != "assistant":
                role = "user" if item.role == "user" else "system"
                made.append({"role": role, "content": _words(item.content)})
            else:
                _assistants(made).append(_part(item))
        return made


def _assistants(made: list[Message]) -> list[Part]:
    """The parts of the assistant's message that an item belongs to: the last one, or a new one."""
    if not made or made[-1]["role"] != "assistant":
        made.append({"role": "assistant", "content": []})
    content = made[-1]["content"]
    assert isinstance(content, list)
    return content


def _part(item: InputMessage | FunctionCall | FunctionOutput | Reasoning) -> Part:
    if isinstance(item, FunctionCall):
        return made_call(item.call_id, item.name, item.arguments, "input")
    if isinstance(item, Reasoning):
        thought = _words(item.content or "")
        return text(written(thought) if thought else "")
    assert isinstance(item, InputMessage)
    return text(_words(item.content))


def _words(content: str | list[Words]) -> str:
    return content if isinstance(content, str) else "".join(one.text for one in content)


async def respond(request: Request) -> Response:
    body = await read(request, ResponsesBody)
    job = await ask(request, body.question())
    first = await wait_for(request, job)
    made = Made(body)
    if body.stream:
        return as_events(_events(request, job, first, made))
    for _, piece in whole(first, 1)[0]:
        list(made.take(piece))
    return as_json(made.response(job))


class Made:
    """A response while it is made: its items, and an event for each step."""

    def __init__(self, body: ResponsesBody) -> None:
        self.body, self.id, self.created = body, _id("resp"), int(time.time())
        self.output: list[dict[str, Any]] = []
        self.open = ""  # the kind of the item that is being written
        self.reason = ""

    def response(self, job: Job | None = None) -> dict[str, Any]:
        """As it is. job: once it is over."""
        body, cut = self.body, self.reason == "length"
        usage = None
        if job is not None:
            prompt, completion = len(job.wanted.prompt), job.completion_tokens
            usage = {
                "input_tokens": prompt,
                "input_tokens_details": {"cached_tokens": job.cached_tokens, "cache_write_tokens": 0},
                "output_tokens": completion,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": prompt + completion,
            }
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": "in_progress" if job is None else "incomplete" if cut else "completed",
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": {},
            "model": body.model,
            "output": self.output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "temperature": body.temperature or 0.0,
            "text": body.text.model_dump(by_alias=True) if body.text else {"format": {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": [tool.model_dump() for tool in body.tools or []],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "usage": usage,
        }

    def take(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """The events of one more piece."""
        if piece.kind in ("text", "reasoning"):
            if piece.text:
                if self.open != piece.kind:
                    yield from self.close()
                    yield from self._begin(piece.kind)
                item = self.output[-1]
                item["content"][0]["text"] += piece.text
                yield {
                    "type": f"response.{_name(piece.kind)}.delta",
                    **self._place(),
                    "delta": piece.text,
                    **_chances(piece.kind),
                }
        elif piece.call is not None:
            yield from self.close()
            call, id = piece.call, _id("fc")
            item = {"type": "function_call", "id": id, "call_id": call.id, "name": call.name, "arguments": ""}
            self.output.append({**item, "status": "in_progress"})
            at = {"output_index": len(self.output) - 1}
            yield {"type": "response.output_item.added", **at, "item": self.output[-1]}
            where = {**at, "item_id": id}
            yield {"type": "response.function_call_arguments.delta", **where, "delta": call.arguments}
            yield {"type": "response.function_call_arguments.done", **where, "arguments": call.arguments}
            self.output[-1] = {**item, "arguments": call.arguments, "status": "completed"}
            yield {"type": "response.output_item.done", **at, "item": self.output[-1]}
        elif piece.kind == "end":
            self.reason = piece.text
            if not self.output:
                yield from self._begin("text")
            yield from self.close()

    def _begin(self, kind: str) -> Iterator[dict[str, Any]]:
        self.open = kind
        head: dict[str, Any] = {"type": "message", "role": "assistant"}
        if kind == "reasoning":
            head = {"type": "reasoning", "summary": []}
        item = {**head, "id": _id("msg" if kind == "text" else "rs"), "status": "in_progress", "content": []}
        self.output.append(item)
        yield {"type": "response.output_item.added", "output_index": len(self.output) - 1, "item": {**item}}
        part = {"type": _name(kind), "text": "", **({"annotations": []} if kind == "text" else {}), **_chances(kind)}
        item["content"] = [part]
        yield {"type": "response.content_part.added", **self._place(), "part": {**part}}

    def close(self) -> Iterator[dict[str, Any]]:
        """Ends the item that is open."""
        kind, self.open = self.open, ""
        if not kind:
            return
        item = self.output[-1]
        item["status"] = "incomplete" if self.reason == "length" else "completed"
        part = item["content"][0]
        yield {"type": f"response.{_name(kind)}.done", **self._place(), "text": part["text"], **_chances(kind)}
        yield {"type": "response.content_part.done", **self._place(), "part": part}
        yield {"type": "response.output_item.done", "output_index": len(self.output) - 1, "item": item}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.output[-1]["id"], "output_index": len(self.output) - 1, "content_index": 0}


async def _events(request: Request, job: Job, first: Items, made: Made) -> AsyncIterator[bytes]:
    number = 0

    def event(value: dict[str, Any]) -> bytes:
        nonlocal number
        number += 1
        data = json.dumps({**value, "sequence_number": number - 1}, ensure_ascii=False, separators=(",", ":"))
        return f"event: {value['type']}\ndata: {data}\n\n".encode()

    yield event({"type": "response.created", "response": made.response()})
    yield event({"type": "response.in_progress", "response": made.response()})
    try:
        async for items in pieces(request, job, first):
            for _, piece in items:
                for one in made.take(piece):
                    yield event(one)
    except ApiError as error:
        yield event({"type": "error", "code": error.code, "message": error.message, "param": error.param})
        return
    ended = "response.incomplete" if made.reason == "length" else "response.completed"
    yield event({"type": ended, "response": made.response(job)})


def _name(kind: str) -> str:
    return "output_text" if kind == "text" else "reasoning_text"


def _chances(kind: str) -> dict[str, Any]:
    """The field that a text must have."""
    return {"logprobs": []} if kind == "text" else {}


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
