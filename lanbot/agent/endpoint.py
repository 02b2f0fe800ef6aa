"""A model client of an OpenAI-compatible endpoint: streamed answers, calls in JSON, retries, costs."""

import json
import os
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from threading import Event as Flag
from typing import Any

import httpx2

from lanbot.agent.background import Hear, streamed
from lanbot.agent.endpoint_answer import Answer, Shown, words_of
from lanbot.agent.model import Declarations, Reply
from lanbot.chat.formats.base import Event
from lanbot.chat.messages import Message
from lanbot.chat.openai import to_openai
from lanbot.config.agent import Endpoint
from lanbot.core.console import duration, say, visible
from lanbot.core.errors import UserError
from lanbot.core.http import PASSING, Again, Retries, retry_after
from lanbot.inference.sampling import Sampling

TRIES, WAIT, MAX_WAIT = 5, 0.5, 60.0
"""Tries of a request; seconds before the second one, doubled before each further one; the most."""
TIMEOUT = httpx2.Timeout(180.0, connect=15.0)
"""Seconds without a byte; a model may think or wait in a queue before the first one."""
CONTEXT = 8_192
"""Tokens, where neither the settings nor the endpoint say how many."""
CONTEXT_NAMES = ("loaded_context_length", "max_model_len", "context_length", "context_window", "max_context_length")
"""What servers call the context's length in the list of their models."""
CHARS = 3.0
"""Characters a token, before the endpoint has counted any."""
MAX_SAID = 300  # characters of an endpoint's own words in an error


class EndpointModel:
    """Generates at an endpoint. Raises UserError for a key that is not set.

    `count_tokens` is an estimate: the characters of what would be sent, divided by the characters a token that the
    endpoint reported with its last answer. note: gets what is wrong while it is tried again.
    """

    def __init__(self, settings: Endpoint, note: Callable[[str], None] = lambda text: say(f"({text})")) -> None:
        self.settings, self.note = settings, note
        self.key = os.environ.get(settings.key, "").strip() if settings.key else ""
        if settings.key and not self.key:
            raise UserError(f"agent.endpoint: its key {settings.key} is not set", f"Set it: export {settings.key}=...")
        if re.search(r"[^\x21-\x7e]", self.key):
            raise UserError(f"{settings.key}: holds a character that no key has", "Copy the key again, without spaces.")
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        self.http = httpx2.Client(headers=headers, timeout=TIMEOUT)
        self.url = settings.url.rstrip("/")
        self.place = httpx2.URL(self.url).netloc.decode()
        self.chars_per_token = CHARS
        self.refused: set[str] = set()
        """Parameters that the endpoint does not take."""

    def close(self) -> None:
        self.http.close()

    @cached_property
    def context_length(self) -> int:
        """From the settings, or what the endpoint says of its model, or CONTEXT."""
        if self.settings.context:
            return self.settings.context
        with suppress(httpx2.HTTPError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
            listed = self.http.get(f"{self.url}/models", timeout=15.0).json()["data"]
            found: dict[str, Any] = next((one for one in listed if one.get("id") == self.settings.model), {})
            told = [found.get(name) for name in CONTEXT_NAMES] + [(found.get("meta") or {}).get("n_ctx_train")]
            for length in told:
                if isinstance(length, int) and length > 0:
                    return length
        self.note(f"{self.place} does not say how long its context is: {CONTEXT:,} tokens; endpoint.context sets it")
        return CONTEXT

    def count_tokens(self, messages: Sequence[Message], tools: Declarations = ()) -> int:
        return round(_characters(to_openai(messages), tools) / self.chars_per_token)

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, seed: int = 0, tools: Declarations = ()
    ) -> Generator[Event, None, Reply]:
        """Raises UserError when no try is left, and for what another try would not mend."""
        sent = to_openai(messages)
        body = partial(self._body, sent, sampling, seed, tools)
        return streamed(partial(self._generate, body, _characters(sent, tools)), wait=False)

    def _generate(self, body: Callable[[], dict[str, Any]], characters: int, hear: Hear, stopped: Flag) -> Reply:
        """body: of a request, without what the endpoint has refused. characters: that the model reads."""
        shown, retries, spent = Shown(), Retries(TRIES, WAIT, MAX_WAIT, MAX_WAIT), 0.0
        while True:
            answer = Answer()
            try:
                for _ in self._chunks(body(), answer):
                    if (piece := shown.new(answer.text)) or stopped.is_set():
                        hear(Event("piece", "text", piece))
                break
            except Again as again:
                if stopped.is_set():
                    raise GeneratorExit from None
                spent += self._cost(characters, answer) if answer.text or answer.calls else 0.0
                pause = retries.pause(again)
                if pause is None:
                    problem = f"{self.place}: {again.why} ({TRIES} tries)"
                    raise UserError(problem, f"Is {self.url} right, and does it run? Or try later.") from None
                self.note(f"{self.place}: {again.why}; try {retries.failures + 1} of {TRIES} in {duration(pause)}")
                if stopped.wait(pause):
                    raise GeneratorExit from None
        for kind, written in answer.calling:
            for event in Event("open", kind), Event("piece", kind, written), Event("close", kind):
                hear(event)
        return self._counted(answer, characters, spent)

    def _body(self, sent: list[dict[str, Any]], sampling: Sampling, seed: int, tools: Declarations) -> dict[str, Any]:
        optional: dict[str, Any] = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": seed,
            "stream_options": {"include_usage": True},
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "stop": list(sampling.stop) or None,
        }
        if "max_tokens" in self.refused:
            optional["max_completion_tokens"] = optional.pop("max_tokens")
        body = {name: value for name, value in optional.items() if value is not None and name not in self.refused}
        declared = {"tools": list(tools)} if tools else {}
        return {"model": self.settings.model, "messages": sent, **declared, "stream": True, **body}

    def _chunks(self, body: dict[str, Any], answer: Answer) -> Generator[None, None, None]:
        """One try: fills the answer, and yields after each chunk. Raises Again or UserError."""
        try:
            with self.http.stream("POST", f"{self.url}/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise self._error(response, body)
                if "text/event-stream" not in response.headers.get("Content-Type", ""):
                    answer.feed(json.loads(response.read()))  # it does not stream
                    yield
                else:
                    for event in httpx2.EventSource(response):
                        if event.data.strip() == "[DONE]":
                            break
                        answer.feed(json.loads(event.data))
                        yield
        except httpx2.TimeoutException:
            raise Again(f"nothing received for {TIMEOUT.read or 0:g}s") from None
        except httpx2.ConnectError:
            raise Again("no connection") from None
        except httpx2.HTTPError as error:
            raise Again(f"the connection broke ({type(error).__name__})") from None
        except (ValueError, RecursionError):
            raise Again("it sends what is no JSON") from None
        if not answer.finished:
            raise Again("the answer broke off")

    def _error(self, response: httpx2.Response, body: dict[str, Any]) -> Exception:
        """What to do about an answer that is none."""
        status, said = response.status_code, self._clean(words_of(response.text))
        why = f"it answers {status}" + (f" ({said})" if said else "")
        if status in PASSING or status >= 500:
            return Again(why, retry_after(response.headers.get("Retry-After")) or 0.0)
        problem = f"{self.place}: {why}"
        if status in (400, 413, 422) and re.search("context.?(length|window|size)", said, re.I):
            return UserError(problem, "Set endpoint.context to the length of its context, or begin a new conversation.")
        if status in (400, 422) and (named := self._refuses(response.text, body)):
            self.refused |= named
            again = Again(f"it does not take {', '.join(sorted(named))}")
            again.moved = True  # another request, not the same one again
            return again
        if status in (401, 403):
            name = self.settings.key
            return UserError(
                problem, f"Check the key in {name}." if name else "Name the variable of its key: --key-env."
            )
        if status == 404:
            remedy = f"Is there a model {self.settings.model}, and is the address {self.url} (most end in /v1)?"
            return UserError(problem, remedy)
        return UserError(problem, f"Check agent.endpoint: the address {self.url} and the model {self.settings.model}.")

    def _refuses(self, said: str, body: dict[str, Any]) -> set[str]:
        """The optional parameters of a request that a refusal names."""
        found = {name for name in body if name not in ("model", "messages", "tools", "stream")}
        return {name for name in found if re.search(rf"\b{name}\b", said)} - self.refused

    def _counted(self, answer: Answer, characters: int, spent: float) -> Reply:
        """The reply with its tokens and cost; the count of the prompt makes `count_tokens` more exact."""
        read, written = self._tokens(characters, answer)
        if _number(answer.usage, "prompt_tokens"):
            self.chars_per_token = min(max(characters / read, 0.5), 10.0)
        cached = _number(answer.usage.get("prompt_tokens_details"), "cached_tokens")
        cost = spent + self._cost(characters, answer)
        return replace(answer.reply(), prompt_tokens=read, cached_tokens=cached, tokens=written, cost=cost)

    def _tokens(self, characters: int, answer: Answer) -> tuple[int, int]:
        """Read and written: as the endpoint counts them, or estimated."""
        made = len(answer.text) + sum(len(one.name) + len(one.arguments) for one in answer.calls)
        read = _number(answer.usage, "prompt_tokens") or round(characters / self.chars_per_token)
        return read, _number(answer.usage, "completion_tokens") or round(made / self.chars_per_token)

    def _cost(self, characters: int, answer: Answer) -> float:
        read, written = self._tokens(characters, answer)
        return (read * self.settings.price_in + written * self.settings.price_out) / 1e6

    def _clean(self, text: str) -> str:
        """Without the key, which some endpoints repeat, and without control characters."""
        return visible(" ".join((text.replace(self.key, "***") if self.key else text).split()))[:MAX_SAID]


def _characters(sent: list[dict[str, Any]], tools: Declarations) -> int:
    """Of what the model reads, in JSON: the keys stand for what its template adds."""
    return sum(len(json.dumps(one, ensure_ascii=False)) for one in (*sent, *tools))


def _number(of: Any, name: str) -> int:
    value = of.get(name) if isinstance(of, dict) else None
    return value if isinstance(value, int) and value > 0 else 0
