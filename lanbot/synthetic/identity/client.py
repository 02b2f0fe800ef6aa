"""Client of an OpenAI-compatible endpoint: retries, a hard budget, the most structured answer it supports."""

import asyncio
import json
import random
from dataclasses import dataclass
from time import monotonic
from typing import Any

import httpx2

from lanbot.core.console import visible
from lanbot.core.errors import UserError
from lanbot.core.http import Again, Retries, retry_after
from lanbot.synthetic.identity.kinds import SCHEMA

MAX_TOKENS = 3_000
"""Limit of an answer."""
TRIES = 6
"""Of a request, before its conversation is given up."""
WAIT, MAX_WAIT = 1.0, 120.0
"""Seconds before the second try, doubled before each further one; the most, whatever the endpoint asks for."""
TIMEOUT, CONNECT = 180.0, 15.0
"""Seconds for an answer, and for a connection."""
DOWN_AFTER = 30
"""Failed requests in a row after which the endpoint counts as down; at least four per concurrent request."""

FORMS: tuple[dict[str, Any], ...] = (
    {"type": "json_schema", "json_schema": {"name": "conversation", "strict": True, "schema": SCHEMA}},
    {"type": "json_object"},
    {},
)
"""Values of response_format, in the order in which they are tried."""
TRY_AGAIN = (408, 409, 425, 429)
REFUSED = (400, 413, 422)
REMEDIES = {
    401: "Check the API key.",
    402: "Pay the endpoint, or name another with --base-url.",
    403: "Check the API key, and that it may use this --model.",
    404: "Check --base-url (most end in /v1) and --model.",
}


class GaveUp(Exception):  # noqa: N818  (of one conversation, not of all)
    """Why a request got no answer; a few words."""


class Down(Exception):  # noqa: N818
    """Why the endpoint counts as down."""


class OutOfMoney(Exception):  # noqa: N818
    """The next request could exceed the budget."""


@dataclass(frozen=True)
class Reply:
    text: str
    cut: bool
    """It was cut off at the token limit."""
    prompt_tokens: int
    completion_tokens: int


class Budget:
    """What is spent and what pending requests may still cost: together never more than `limit`.

    Prices are per million tokens. A pending request counts at its maximum: a token per byte sent, and MAX_TOKENS.
    """

    def __init__(self, limit: float, price_in: float, price_out: float) -> None:
        self.limit, self.price_in, self.price_out = limit, price_in, price_out
        self.spent, self.held, self.flying = 0.0, 0.0, 0
        self.settled = asyncio.Event()

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6

    async def hold(self, worst: float) -> None:
        """Waits while pending requests may turn out cheaper. Raises OutOfMoney if the rest does not cover this one."""
        while self.spent + self.held + worst > self.limit:
            if not self.flying:
                raise OutOfMoney
            self.settled.clear()
            await self.settled.wait()
        self.held += worst
        self.flying += 1

    def settle(self, worst: float, cost: float) -> None:
        self.flying -= 1
        self.held = self.held - worst if self.flying else 0.0  # drops rounding errors
        self.spent += cost
        self.settled.set()


class Client:
    """`await ask(messages)`, from up to `concurrency` tasks. Used as `async with`.

    Raises UserError for a malformed base_url or key.
    """

    def __init__(self, base_url: str, model: str, api_key: str, budget: Budget, concurrency: int) -> None:
        self.model, self.key, self.budget = model, api_key.strip(), budget
        try:
            url = httpx2.URL(base_url)
        except (httpx2.InvalidURL, TypeError):
            url = httpx2.URL("")
        if url.scheme not in ("http", "https") or not url.host:
            raise UserError(f"--base-url {self._clean(base_url)}: not an address", "It looks like https://host/v1.")
        if not self.key.isascii() or not self.key.isprintable():
            raise UserError("the API key has invalid characters", "Copy it again.")
        self.url = url.copy_with(path=url.path.rstrip("/") + "/chat/completions")
        self.place = f"{url.host}:{url.port}" if url.port else url.host
        self.most_failures = max(DOWN_AFTER, 4 * concurrency)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx2.Limits(max_connections=concurrency)
        self.http = httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(None, connect=CONNECT), limits=limits)
        self.requests, self.failures, self.trouble = 0, 0, ""
        self.form, self.proven, self.limit_key = 0, False, "max_tokens"
        self.resume_at = 0.0

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.http.aclose()

    async def ask(self, messages: list[dict[str, str]]) -> Reply:
        """The endpoint's answer. Raises GaveUp, Down, OutOfMoney, and UserError for what only the user can fix."""
        retries = Retries(TRIES, WAIT, MAX_WAIT, MAX_WAIT)
        while True:
            while (left := self.resume_at - monotonic()) > 0:  # all wait, with jitter
                await asyncio.sleep(left + random.uniform(0, WAIT))
            form, limit_key = self.form, self.limit_key
            body: dict[str, Any] = {"model": self.model, "messages": messages, limit_key: MAX_TOKENS}
            if FORMS[form]:
                body["response_format"] = FORMS[form]
            answer = await self._send(json.dumps(body).encode())
            if isinstance(answer, Reply):
                self.proven, self.failures, self.trouble = True, 0, ""
                return answer
            status, why, asked_wait = answer
            if status in REFUSED:
                if self._another_way(form, limit_key, why):
                    continue
                if not self.proven:
                    raise UserError(f"{self.place} refuses the request: {why}", "Check --model and --base-url.")
                raise GaveUp(f"the endpoint refuses ({status})")
            if status and status < 500 and status not in TRY_AGAIN:
                remedy = REMEDIES.get(status, "Check --base-url and --model.")
                raise UserError(f"{self.place}: {why}", remedy)
            self.failures += 1
            self.trouble = why
            if self.failures >= self.most_failures:
                raise Down(why)
            pause = retries.pause(Again(why, asked_wait or 0.0))
            if pause is None:
                raise GaveUp(f"no answer after {TRIES} tries")
            if status == 429 or asked_wait is not None:
                self.resume_at = max(self.resume_at, monotonic() + pause)
            else:
                await asyncio.sleep(pause)

    def _another_way(self, form: int, limit_key: str, why: str) -> bool:
        """Whether the request may be made differently. A form that the endpoint accepted once is kept."""
        if (form, limit_key) != (self.form, self.limit_key):
            return True  # another task has found one
        if self.proven:
            return False
        if limit_key == "max_tokens" and "max_completion_tokens" in why:
            self.limit_key = "max_completion_tokens"
            return True
        self.form = min(form + 1, len(FORMS) - 1)
        return self.form != form

    async def _send(self, body: bytes) -> Reply | tuple[int, str, float | None]:
        """An answer; or (status or 0, what went wrong, seconds that the endpoint asks to wait).

        A request that may have been processed without a complete answer counts as spent, at its maximum.
        """
        worst = self.budget.cost(len(body), MAX_TOKENS)
        await self.budget.hold(worst)
        self.requests += 1
        cost = worst
        try:
            async with asyncio.timeout(TIMEOUT):
                response = await self.http.post(self.url, content=body, headers={"Content-Type": "application/json"})
            if response.status_code != 200:
                cost = 0.0
                why = f"it answers {response.status_code}{self._excerpt(response)}"
                return response.status_code, why, retry_after(response.headers.get("Retry-After"))
            reply = _read(response, len(body))
            if reply is None:
                return 0, "its answer is incomplete", None
            cost = self.budget.cost(reply.prompt_tokens, reply.completion_tokens)
            return reply
        except TimeoutError:
            return 0, f"no answer in {TIMEOUT:.0f} s", None
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            cost = 0.0
            return 0, "no connection", None
        except httpx2.HTTPError as error:
            return 0, f"the connection broke ({type(error).__name__})", None
        finally:
            self.budget.settle(worst, cost)

    def _excerpt(self, response: httpx2.Response) -> str:
        """The endpoint's error message, in brackets, without the key, which some repeat."""
        try:
            error = response.json()
            error = error.get("error", error) if isinstance(error, dict) else error
            said = error.get("message", error) if isinstance(error, dict) else error
        except (ValueError, RecursionError):
            said = response.text
        words = " ".join(self._clean(str(said)).split())
        return f" ({words[:200]})" if words else ""

    def _clean(self, words: str) -> str:
        return visible(words.replace(self.key, "***") if self.key else words)


def _read(response: httpx2.Response, sent: int) -> Reply | None:
    """The answer in a response; None if incomplete. Usage that is not reported is estimated at a token per byte."""
    try:
        body = response.json()
        choice = body["choices"][0]
        content = choice["message"].get("content") or ""
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content)
        usage = body.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        cut = choice.get("finish_reason") == "length"
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    if not isinstance(content, str):
        return None
    most = {"prompt_tokens": sent, "completion_tokens": min(MAX_TOKENS, len(content.encode(errors="replace")))}
    used = {key: usage[key] if isinstance(usage.get(key), int) else most[key] for key in most}
    return Reply(content, cut, **used)
