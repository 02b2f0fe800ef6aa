"""From a conversation to a job, and from a job to its pieces: what all APIs share."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio import to_thread
from pydantic import ValidationError
from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lanbot.chat.declaring import declared
from lanbot.chat.messages import Message, parts
from lanbot.core.errors import UserError
from lanbot.inference.engine import Engine
from lanbot.inference.sampling import Sampling
from lanbot.web.calls import ClientTools
from lanbot.web.errors import ApiError, invalid
from lanbot.web.fields import Body
from lanbot.web.form import Form, constraint_of
from lanbot.web.job import Items, Job, Wanted
from lanbot.web.scheduler import Scheduler
from lanbot.web.served import Models, Served
from lanbot.web.server import DRAIN_SECONDS

B = TypeVar("B", bound=Body)
SEND_SECONDS = 60.0
"""A client that reads nothing for so long is let go."""


@dataclass
class State:
    """What the routes share; `request.app.state.lanbot`."""

    models: Models
    scheduler: Scheduler
    seconds: float
    """The deadline of a request."""


class ClientGoneError(Exception):
    """The client left before its answer began."""


async def read(request: Request, kind: type[B]) -> B:
    """The body of a request. Raises ApiError."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":  # a page of another origin may send anything else without asking first
        raise ApiError(415, "the body must be application/json, and the header Content-Type say so")
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        raise invalid(error) from None


@dataclass
class Question:
    """A conversation to be answered: the internal form of all APIs.

    messages: None for a plain text, `text`, to be continued. thinks: the model may think first, if its format can.
    """

    model: str
    sampling: Sampling
    messages: list[Message] | None = None
    text: str | list[int] = ""
    tools: Sequence[dict[str, Any]] = ()
    form: Form = field(default_factory=Form)
    n: int = 1
    seed: int | None = None
    thinks: bool = False
    logprobs: bool = False
    stream: bool = False


async def ask(request: Request, question: Question) -> Job:
    """Queues a question. Raises ApiError."""
    state: State = request.app.state.lanbot
    served = state.models.find(question.model)
    try:
        wanted = await to_thread.run_sync(partial(_wanted, served, question))
    except UserError as error:
        too_long = "tokens; the model's context" in error.problem
        code = "context_length_exceeded" if too_long else None
        raise ApiError(400, f"{error.problem}. {error.remedy}", "messages" if too_long else None, code) from None
    job = Job(wanted, request.scope.get("lanbot.client", ""), state.seconds)
    state.scheduler.submit(job)
    return job


def _wanted(served: Served, question: Question) -> Wanted:
    engine = served.engine
    chat_format, context = engine.chat_format, engine.model.config.context
    _check_length(engine, question)
    thinks = question.thinks and chat_format.thinking is not chat_format
    if question.messages is None:
        text = question.text
        ids = [chat_format.bos, *chat_format.tokenizer.encode(text)] if isinstance(text, str) else list(text)
        if any(not 0 <= id < chat_format.tokenizer.vocab_size for id in ids):
            raise ApiError(400, "prompt: no such token", "prompt")
    else:
        asked = declared({"messages": question.messages, "tools": list(question.tools)}, chat_format)
        ids = (chat_format.thinking if thinks else chat_format).ask(asked)
    if not ids:
        raise ApiError(400, "prompt: empty", "prompt")
    if len(ids) >= context:
        raise UserError(f"a conversation of {len(ids):,} tokens; the model's context is {context:,}", "Shorten it.")
    return Wanted(
        engine,
        ids,
        question.sampling,
        question.n,
        secrets.randbits(63) if question.seed is None else question.seed,
        ClientTools(question.tools, question.form.several),
        question.messages is not None and chat_format.thinking is not chat_format,
        question.logprobs,
        question.stream,
        constraint_of(chat_format, question.form, question.tools, thinks),
    )


def _check_length(engine: Engine, question: Question) -> None:
    """Refuses what cannot fit before it is made into tokens, which takes seconds where it is long."""
    if question.messages is None:
        size = len(question.text) if isinstance(question.text, list) else len(question.text.encode())
    else:
        size = sum(len(part["text"].encode()) for message in question.messages for part in parts(message))
    longest = 1 if isinstance(question.text, list) else int(engine.chat_format.tokenizer.byte_lengths().max())
    context = engine.model.config.context
    if size > context * longest:
        tokens = size // longest
        raise UserError(f"at least {tokens:,} tokens; the model's context is {context:,}", "Shorten it.")


async def wait_for(request: Request, job: Job) -> Items:
    """The first pieces of a job's answers; all of them, if it does not stream.

    Raises ApiError if the job failed, ClientGoneError if the client left meanwhile.
    """
    state: State = request.app.state.lanbot
    waiting = [asyncio.ensure_future(job.next()), asyncio.ensure_future(_gone(request))]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if waiting[0].done():
            return waiting[0].result() or []
        raise ClientGoneError
    except BaseException:
        state.scheduler.cancel(job)
        raise
    finally:
        for task in waiting:
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def pieces(request: Request, job: Job, first: Items) -> AsyncIterator[Items]:
    """The pieces of a job as they come, those of one text that wait together as one. Cancels it if nobody listens."""
    state: State = request.app.state.lanbot
    try:
        items, left = first, job.wanted.n
        while True:
            yield _merged(items)
            left -= sum(piece.kind == "end" for _, piece in items)
            if not left:
                return
            items = await job.next()
    finally:
        state.scheduler.cancel(job)


def _merged(items: Items) -> Items:
    made: Items = []
    for i, piece in items:
        last = made[-1] if made else None
        if last and last[0] == i and piece.kind == last[1].kind and piece.kind in ("text", "reasoning"):
            tokens = (*last[1].tokens, *piece.tokens)
            made[-1] = (i, last[1]._replace(text=last[1].text + piece.text, tokens=tokens))
        else:
            made.append((i, piece))
    return made


def whole(items: Items, n: int) -> list[Items]:
    """The pieces of each answer, text joined."""
    return [_merged([item for item in items if item[0] == i]) for i in range(n)]


def said(items: Items, kind: str = "text") -> str:
    return "".join(piece.text for _, piece in items if piece.kind == kind)


def as_json(value: dict[str, Any]) -> Response:
    return JSONResponse(value)


def as_events(content: AsyncIterator[bytes]) -> Response:
    return EventSourceResponse(
        content,
        sep="\n",
        send_timeout=SEND_SECONDS,
        shutdown_event=anyio.Event(),
        shutdown_grace_period=DRAIN_SECONDS,
    )
