"""POST /v1/completions, in OpenAI's form: a text is continued, without a chat format."""

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from lanbot.web.answer import Piece, Token
from lanbot.web.asking import Question, as_events, as_json, ask, read, said, wait_for, whole
from lanbot.web.errors import unsupported
from lanbot.web.fields import MOST_ANSWERS, Name, SamplingFields, Stops, StopText
from lanbot.web.job import Items, Job
from lanbot.web.openai_chat import StreamOptions, events, usage_of

Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class CompletionBody(SamplingFields):
    model: Name
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)] | Ids
    max_tokens: int | None = Field(16, ge=1)
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS)
    stop: StopText | Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    def question(self) -> Question:
        """Raises ApiError for what is not supported."""
        for name in ("echo", "suffix"):
            if getattr(self, name):
                raise unsupported(name, "Leave it out.")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise unsupported("best_of", "Leave it out, or ask for n answers.")
        prompt = self.prompt
        return Question(
            self.model,
            self.sampling(self.max_tokens or 16, self.stop, self.logprobs or 0),
            text=prompt[0] if isinstance(prompt, list) and isinstance(prompt[0], str) else prompt,
            n=self.n or 1,
            seed=self.seed,
            logprobs=self.logprobs is not None,
            stream=bool(self.stream),
        )


async def complete(request: Request) -> Response:
    body = await read(request, CompletionBody)
    job = await ask(request, body.question())
    first = await wait_for(request, job)
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model,
    }
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return as_events(_events(request, job, first, head, usage))
    choices = []
    for i, items in enumerate(whole(first, job.wanted.n)):
        tokens = [token for _, piece in items for token in piece.tokens]
        choices.append(
            _choice(i, said(items), _reason(items[-1][1].text), tokens if body.logprobs is not None else None)
        )
    return as_json({**head, "choices": choices, "usage": usage_of(job)})


def _reason(why: str) -> str:
    """A completion has no calls."""
    return "stop" if why == "tool_calls" else why


def _choice(
    i: int, text: str, reason: str | None = None, tokens: Sequence[Token] | None = None, offset: int = 0
) -> dict[str, Any]:
    chances = None
    if tokens is not None:
        words = [token.data.decode(errors="replace") for token in tokens]
        chances = {
            "tokens": words,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{data.decode(errors="replace"): p for data, p in token.others} for token in tokens],
            "text_offset": [offset + sum(map(len, words[:n])) for n in range(len(words))],
        }
    return {"index": i, "text": text, "logprobs": chances, "finish_reason": reason}


def _events(request: Request, job: Job, first: Items, head: dict[str, Any], usage: bool) -> AsyncIterator[bytes]:
    offsets = [0] * job.wanted.n

    def choice(i: int, piece: Piece) -> dict[str, Any] | None:
        if piece.kind not in ("text", "end"):
            return None
        text, reason = (piece.text, None) if piece.kind == "text" else ("", _reason(piece.text))
        offset, offsets[i] = offsets[i], offsets[i] + len(text)
        return _choice(i, text, reason, piece.tokens or None, offset)

    return events(request, job, first, head, usage, choice)
