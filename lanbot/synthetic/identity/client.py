"""Client of an OpenAI-compatible endpoint: retries, a hard budget, the most structured answer that it supports."""

import asyncio
import json
import re
from collections import Counter
from itertools import product
from typing import Any

import httpx2

from lanbot.core.console import visible
from lanbot.core.errors import UserError
from lanbot.core.http import PASSING, Again, Retries, retry_after
from lanbot.synthetic.identity.prompts import texts

MAX_TOKENS = 3_000
"""Limit of an answer."""
TRIES, WAIT, MAX_WAIT = 6, 1.0, 120.0
"""Tries of a request; seconds before the second one, doubled before each further one; the most."""
TIMEOUT = httpx2.Timeout(180.0, connect=15.0, pool=None)


class GaveUp(Exception):  # noqa: N818  (of one conversation, not of all)
    """Why there is no conversation; a few words."""


class OutOfBudget(Exception):  # noqa: N818
    """The next request could exceed the budget."""


class Client:
    """`await ask(messages)`, from many tasks in `async with client.http`. Raises UserError for a bad base_url or key.

    Prices are per million tokens read and written, in the currency of max_cost, which is never exceeded: a request is
    sent only if it and all pending ones fit at their maximum, one token per byte sent and MAX_TOKENS.
    """

    def __init__(
        self, base_url: str, model: str, key: str, max_cost: float, prices: tuple[float, float], concurrency: int
    ) -> None:
        self.url, self.model, self.key = base_url.rstrip("/") + "/chat/completions", model, key.strip()
        self.max_cost, self.prices, self.concurrency = max_cost, prices, concurrency
        address = re.fullmatch(r"https?://([\w.-]+(?::\d+)?)(?:/\S*)?", base_url)
        if not address:
            raise UserError(f"--base-url {self._clean(base_url)}: not an address", "It looks like https://host/v1.")
        if not self.key.isascii() or not self.key.isprintable():
            raise UserError("the API key has invalid characters", "Copy it again.")
        self.place = address[1]
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        self.http = httpx2.AsyncClient(headers=headers, timeout=TIMEOUT)
        self.used = Counter(requests=0, prompt_tokens=0, completion_tokens=0)
        self.cost, self.pending, self.settled = 0.0, list[float](), asyncio.Event()
        self.proven, self.trouble = False, ""
        schema = {"name": "conversation", "strict": True, "schema": json.loads(texts()["schema"])}
        formats: list[Any] = [{"type": "json_schema", "json_schema": schema}, {"type": "json_object"}]
        forms = [*({"response_format": form} for form in formats), {}]
        limits = [{"max_tokens": MAX_TOKENS}, {"max_completion_tokens": MAX_TOKENS}]
        self.variants = [limit | form for limit, form in product(limits, forms)]
        """Parameters that the endpoint may accept; those that it refused are removed."""

    async def ask(self, messages: list[dict[str, str]]) -> str:
        """The answer, "" if it is cut off. Raises GaveUp, OutOfBudget, and UserError for what ends the run."""
        retries = Retries(TRIES, WAIT, MAX_WAIT, MAX_WAIT)
        while True:
            try:
                answer = await self._send(messages, self.variants[0])
                self.proven, self.trouble = True, ""
                return answer
            except Again as again:
                self.trouble = again.why
                pause = retries.pause(again)
                if pause is None:
                    down = UserError(f"{self.place}: {again.why} ({TRIES} tries)", "Check --base-url, or try later.")
                    raise (GaveUp(f"no answer after {TRIES} tries") if self.proven else down) from None
                await asyncio.sleep(pause)

    async def _send(self, messages: list[dict[str, str]], variant: dict[str, Any]) -> str:
        """One try. Without a complete answer, or usage, it counts at its maximum if it may have been processed."""
        body = json.dumps({"model": self.model, "messages": messages, **variant}).encode()
        cost = most = self._price(len(body), MAX_TOKENS)
        while self.cost + sum(self.pending) + most > self.max_cost:
            if not self.pending:
                raise OutOfBudget
            self.settled.clear()  # a pending request may turn out cheaper
            await self.settled.wait()
        self.pending.append(most)
        self.used["requests"] += 1
        try:
            response = await self.http.post(self.url, content=body)
            if response.status_code != 200:
                cost = 0.0
                raise self._error(response, variant)
            answer = response.json()
            usage = answer.get("usage") or {}
            tokens = usage.get("prompt_tokens") or len(body), usage.get("completion_tokens") or MAX_TOKENS
            cost = self._price(*tokens)
            self.used.update(prompt_tokens=tokens[0], completion_tokens=tokens[1])
            choice = answer["choices"][0]
            return "" if choice.get("finish_reason") == "length" else str(choice["message"]["content"])
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            cost = 0.0
            raise Again("no connection") from None
        except (httpx2.HTTPError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
            raise Again(f"no complete answer ({type(error).__name__})") from None
        finally:
            self.pending.remove(most)
            self.cost += cost
            self.settled.set()

    def _price(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prices[0] + completion_tokens * self.prices[1]) / 1e6

    def _error(self, response: httpx2.Response, variant: dict[str, Any]) -> Exception:
        status = response.status_code
        why = f"it answers {status} ({' '.join(self._clean(response.text).split())[:200]})"
        if status in PASSING or status >= 500:
            return Again(why, retry_after(response.headers.get("Retry-After")) or 0.0)
        if status in (400, 413, 422) and self.proven:
            return GaveUp(f"the endpoint refuses the request ({status})")
        if status in (400, 413, 422) and len(self.variants) > 1:
            if variant is self.variants[0]:  # no other task was faster
                self.variants.pop(0)
            return Again(why)
        return UserError(f"{self.place}: {why}", "Check --base-url (most end in /v1), --model and the API key.")

    def _clean(self, text: str) -> str:
        """Without the key, which some endpoints repeat, and without control characters."""
        return visible(text.replace(self.key, "***") if self.key else text)
