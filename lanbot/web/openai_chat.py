"""POST /v1/chat/completions, in OpenAI's form.

Beyond it: `reasoning`, what a model thought; `parts`, with the calls that the server answered itself and their outputs.
A client may send them back in place of `content`, so that the model reads exactly what it wrote.
"""

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from lanbot.chat.messages import Message, Part, text
from lanbot.chat.thoughts import written
from lanbot.web.answer import Piece, Token
from lanbot.web.asking import Question, as_events, as_json, ask, pieces, read, said, wait_for, whole
from lanbot.web.conversation import checked, made_call
from lanbot.web.errors import ApiError, unsupported
from lanbot.web.fields import (
    MOST_ALTERNATIVES,
    MOST_ANSWERS,
    MOST_TOOLS,
    Body,
    Name,
    SamplingFields,
    Stops,
    StopText,
    ToolName,
    declaration,
)
from lanbot.web.form import ResponseFormat, asked_form
from lanbot.web.job import Items, Job

MAX_TOKENS = 1 << 30
"""Where a client sets no limit: an answer ends with the context."""


class Content(Body):
    type: Literal["text"]
    text: str


class Function(Body):
    name: ToolName
    arguments: str = ""


class Call(Body):
    id: str = Field(max_length=256)
    type: Literal["function"] = "function"
    function: Function


class OwnPart(Body):
    """A part of an answer of LanBot's."""

    type: Literal["text", "python", "output"]
    text: str


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Content] | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    parts: list[OwnPart] | None = None

    def message(self) -> Message:
        """Raises ApiError."""
        content = self.content if isinstance(self.content, str) else "".join(one.text for one in self.content or [])
        if self.role == "tool":
            return {"role": "tool", "content": content, "id": self.tool_call_id or ""}
        if self.role != "assistant":
            return {"role": "user" if self.role == "user" else "system", "content": content}
        own: list[Part] = [{"type": part.type, "text": part.text} for part in self.parts or []]
        made = own or ([text(content)] if content else [])
        if self.reasoning:
            made = [text(written(self.reasoning)), *made]
        calls = [made_call(one.id, one.function.name, one.function.arguments) for one in self.tool_calls or []]
        return {"role": "assistant", "content": [*made, *calls]}


class Declared(Body):
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class DeclaredTool(Body):
    type: Literal["function"]
    function: Declared


class StreamOptions(Body):
    include_usage: bool = False


class ChatBody(SamplingFields):
    model: Name
    messages: list[ChatMessage] = Field(min_length=1, max_length=10_000)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS)
    stop: StopText | Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_ALTERNATIVES)
    tools: list[DeclaredTool] | None = Field(None, max_length=MOST_TOOLS)
    tool_choice: Literal["auto", "none", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    response_format: ResponseFormat | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    def question(self) -> Question:
        """Raises ApiError for what is not supported, UserError for what is out of range."""
        for name in ("presence_penalty", "frequency_penalty", "logit_bias"):
            if getattr(self, name):
                raise unsupported(name, "Leave it out.")
        tools = [] if self.tool_choice == "none" else self.tools or []
        names, strict = [one.function.name for one in tools], any(one.function.strict for one in tools)
        limit = self.max_completion_tokens or self.max_tokens or MAX_TOKENS
        return Question(
            self.model,
            self.sampling(limit, self.stop, (self.top_logprobs or 0) if self.logprobs else 0),
            checked([message.message() for message in self.messages]),
            tools=[declaration(one.function.name, one.function.description, one.function.parameters) for one in tools],
            form=asked_form(self.response_format, self.tool_choice, names, self.parallel_tool_calls, strict),
            n=self.n or 1,
            seed=self.seed,
            thinks=self.reasoning_effort not in (None, "none"),
            logprobs=bool(self.logprobs),
            stream=bool(self.stream),
        )


async def chat(request: Request) -> Response:
    body = await read(request, ChatBody)
    job = await ask(request, body.question())
    first = await wait_for(request, job)
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return as_events(_events(request, job, first, head, usage))
    choices = [_choice(i, items, body.logprobs) for i, items in enumerate(whole(first, job.wanted.n))]
    return as_json({**head, "object": "chat.completion", "choices": choices, "usage": usage_of(job)})


def usage_of(job: Job) -> dict[str, Any]:
    prompt, completion = len(job.wanted.prompt), job.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": job.cached_tokens},
    }


def _choice(i: int, items: Items, logprobs: bool | None) -> dict[str, Any]:
    calls = [_call(piece) for _, piece in items if piece.kind == "call"]
    content = said(items)
    message: dict[str, Any] = {"role": "assistant", "content": content if content or not calls else None}
    if thought := said(items, "reasoning"):
        message["reasoning"] = thought
    if calls:
        message["tool_calls"] = calls
    if any(piece.kind == "part" for _, piece in items):
        shown = (text(piece.text) if piece.kind == "text" else piece.part for _, piece in items)
        message["parts"] = [part for part in shown if part is not None and part["text"]]
    tokens = [token for _, piece in items for token in piece.tokens]
    chances = {"content": [_logprob(token) for token in tokens], "refusal": None} if logprobs else None
    return {"index": i, "message": message, "logprobs": chances, "finish_reason": items[-1][1].text}


def _call(piece: Piece) -> dict[str, Any]:
    assert piece.call is not None
    function = {"name": piece.call.name, "arguments": piece.call.arguments}
    return {"id": piece.call.id, "type": "function", "function": function}


def _logprob(token: Token) -> dict[str, Any]:
    others = [{**_token(data), "logprob": logprob} for data, logprob in token.others]
    return {**_token(token.data), "logprob": token.logprob, "top_logprobs": others}


def _token(data: bytes) -> dict[str, Any]:
    return {"token": data.decode(errors="replace"), "bytes": list(data)}


def _events(request: Request, job: Job, first: Items, head: dict[str, Any], usage: bool) -> AsyncIterator[bytes]:
    begun = [0] * job.wanted.n  # the calls of each answer

    def choice(i: int, piece: Piece) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if piece.kind in ("text", "reasoning"):
            delta = {"content" if piece.kind == "text" else "reasoning": piece.text}
        elif piece.kind == "part":
            delta = {"parts": [piece.part]}
        elif piece.kind == "call":
            delta = {"tool_calls": [{"index": begun[i], **_call(piece)}]}
            begun[i] += 1
        return _delta(i, delta, piece.text if piece.kind == "end" else None, piece.tokens)

    opening = [_delta(i, {"role": "assistant", "content": ""}) for i in range(job.wanted.n)]
    return events(request, job, first, {**head, "object": "chat.completion.chunk"}, usage, choice, opening)


async def events(
    request: Request,
    job: Job,
    first: Items,
    head: dict[str, Any],
    usage: bool,
    choice: Callable[[int, Piece], dict[str, Any] | None],
    opening: Sequence[dict[str, Any]] = (),
) -> AsyncIterator[bytes]:
    """A job's answers as OpenAI streams them, to usage (if asked for) and [DONE], or an error.

    choice(i, piece): what is sent of a piece of answer i; None: nothing. opening: choices that are sent first.
    """
    extra = {"usage": None} if usage else {}
    for one in opening:
        yield event({**head, "choices": [one], **extra})
    try:
        async for items in pieces(request, job, first):
            for i, piece in items:
                if made := choice(i, piece):
                    yield event({**head, "choices": [made], **extra})
    except ApiError as error:
        yield event(error.body(""))
        return
    if usage:
        yield event({**head, "choices": [], "usage": usage_of(job)})
    yield b"data: [DONE]\n\n"


def _delta(i: int, delta: dict[str, Any], reason: str | None = None, tokens: tuple[Token, ...] = ()) -> dict[str, Any]:
    chances = {"content": [_logprob(token) for token in tokens], "refusal": None} if tokens else None
    return {"index": i, "delta": delta, "logprobs": chances, "finish_reason": reason}


def event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
