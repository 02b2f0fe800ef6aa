"""HTTP requests with a stall limit, retries for failures that may pass, and clear errors for the rest."""

import email.utils
import json
import math
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from time import sleep, time
from typing import TYPE_CHECKING, Any, TypeVar

from lanbot import __version__
from lanbot.core.console import duration
from lanbot.core.errors import UserError

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
Note = Callable[[str], None]
"""Called with what is wrong, and with "" when it is over."""

TRIES = 10
"""Failures in a row, without a byte received, before a request is given up."""
BACKOFF, BACKOFF_MAX = 1.0, 60.0
"""Seconds before the second try, doubled before each further one; the most."""
RETRY_AFTER_MAX = 600.0
STALL_SECONDS = 30.0
"""Without a byte received, after which a connection counts as dead."""
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Status codes after which the same request may succeed later."""
LOG_IN = "log in (hf auth login, or HF_TOKEN)"

_jitter = random.Random()  # not the global generator: others seed it


def endpoint() -> str:
    """The hub: $HF_ENDPOINT, or https://huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


class Again(Exception):  # noqa: N818  (not an error yet: it is retried)
    """A failure that may pass. after: seconds the server asks to wait; moved: bytes were received before it."""

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.why, self.after, self.moved = why, after, False


class Retries:
    """Counts failures in a row and says how long to wait after each: twice as long as before, with jitter, so that
    clients that failed together do not retry together; at least as long as the server asks for."""

    def __init__(self, tries: int, first: float, most: float, most_asked: float) -> None:
        self.tries, self.first, self.most, self.most_asked, self.failures = tries, first, most, most_asked, 0

    def pause(self, again: Again) -> float | None:
        """Seconds to wait before the next try; None if there is none left."""
        self.failures = 1 if again.moved else self.failures + 1
        if self.failures >= self.tries:
            return None
        backoff = min(self.most, self.first * 2 ** (self.failures - 1)) * _jitter.uniform(0.5, 1)
        return max(backoff, min(again.after, self.most_asked))


def retried(attempt: Callable[[], T], retries: Retries, note: Note, wait: Callable[[float], None]) -> T:
    """What `attempt` returns, once it does not raise Again. Raises the last Again when no try is left."""
    while True:
        try:
            return attempt()
        except Again as again:
            pause = retries.pause(again)
            if pause is None:
                raise
            note(f"{again.why}; try {retries.failures + 1} of {retries.tries} in {duration(pause)}")
            wait(pause)


def with_retries(name: str, attempt: Callable[[], T], note: Note, tries: int) -> T:
    """What `attempt` returns, once it does not raise Again. Raises UserError after `tries` failures in a row."""
    try:
        return retried(attempt, Retries(tries, BACKOFF, BACKOFF_MAX, RETRY_AFTER_MAX), note, sleep)
    except Again as again:
        remedy = "Check the network and run the same command again: it resumes where it stopped."
        raise UserError(f"{name}: {again.why} ({tries} tries)", remedy) from None


def read_json(url: str, name: str, note: Note, tries: int = 4) -> tuple[Any, str | None]:
    """The answer of the hub's API, and the address of the next page if there is one."""

    def attempt() -> tuple[Any, str | None]:
        with answer(url, name, {}) as response:
            return json.loads(response.read()), response.links.get("next", {}).get("url")

    try:
        return with_retries(name, attempt, note, tries)
    except ValueError:
        raise not_the_hub(name) from None


def not_the_hub(name: str) -> UserError:
    problem = f"{name}: {endpoint()} does not answer as the hub does"
    return UserError(problem, "Check the network (a login page in between?) and HF_ENDPOINT.")


@contextmanager
def answer(url: str, name: str, headers: dict[str, str]) -> "Iterator[httpx2.Response]":
    """A response whose body is not read yet: 200, or for a range 206 or 416. Otherwise, and if reading the body fails,
    raises Again or UserError."""
    import httpx2

    try:
        with _client().stream("GET", url, headers=_headers(url) | headers, timeout=STALL_SECONDS) as response:
            status = f"{response.status_code} {response.reason_phrase}".strip()
            if response.status_code in PASSING:
                raise Again(f"the server answers {status}", _asked_wait(response))
            if response.is_error and not (response.status_code == 416 and "Range" in headers):
                raise _refusal(name, status, response)
            yield response
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.TooManyRedirects) as error:
        raise UserError(f"{name}: {url} cannot be reached ({error})", "Check the address, or HF_ENDPOINT.") from None
    except httpx2.TimeoutException:
        raise Again(f"nothing received for {STALL_SECONDS:g}s") from None
    except httpx2.ConnectError as error:
        raise Again(f"no connection to {httpx2.URL(url).host} ({error})") from None
    except httpx2.RequestError as error:
        raise Again(f"the connection broke ({error or type(error).__name__})") from None


@cache
def _client() -> "httpx2.Client":
    import httpx2

    return httpx2.Client(follow_redirects=True)


def _headers(url: str) -> dict[str, str]:
    """The token, if there is one, is sent to the hub alone; the client drops it when redirected to another host."""
    from huggingface_hub.utils import build_hf_headers

    token = None if _is_hub(url) else False  # None: the user's
    headers = build_hf_headers(token=token, library_name="lanbot", library_version=__version__)
    return headers | {"Accept-Encoding": "identity"}  # a range of compressed bytes cannot be resumed


def _is_hub(url: str) -> bool:
    return url.startswith(endpoint() + "/")


def _asked_wait(response: "httpx2.Response") -> float:
    """Seconds that the server asks to wait: Retry-After, or what is left of the hub's rate-limit window."""
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(response.headers)
    seconds = float(limit.reset_in_seconds) if limit and not limit.remaining else 0.0
    return max(seconds, retry_after(response.headers.get("Retry-After")) or 0.0)


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks to wait, given as a number or a date; None if it gives neither."""
    try:
        seconds = float(header or "")
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header or "").timestamp() - time()
        except ValueError:
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _refusal(name: str, status: str, response: "httpx2.Response") -> UserError:
    if not _is_hub(str(response.url)):
        return UserError(f"{name}: {response.url.host} answers {status}", "Check the address; try again later.")
    code, message = response.headers.get("X-Error-Code", ""), response.headers.get("X-Error-Message", "")
    kind, page = _repository(str(response.url))
    if code == "GatedRepo":
        return UserError(
            f"{name}: gated, its licence must be accepted first ({status})",
            f"Accept it on its page, {page}, then set HF_TOKEN, or hf auth login.",
        )
    if message.startswith("Invalid credentials"):
        return UserError(f"{name}: the hub does not accept your token ({status})", f"To get a new one, {LOG_IN}.")
    if code == "RevisionNotFound":
        return UserError(f"{name}: the hub has no such revision", "Check the revision after the @.")
    if code == "EntryNotFound":
        return UserError(f"{name}: the hub has no such file", "If it has changed, delete its folder in the cache.")
    if code == "RepoNotFound" or response.status_code in (401, 403, 404):
        return UserError(
            f"{name}: no such {kind} on the hub, or a private one ({status})",
            f"Check the name; for a private one {LOG_IN}.",
        )
    return UserError(f"{name}: the hub answers {status}", "Try again later.")


def _repository(url: str) -> tuple[str, str]:
    """("data set" or "model", its page) of an address at the hub."""
    path = url.removeprefix(endpoint()).removeprefix("/api").strip("/").removeprefix("models/")
    kind, parts = ("data set", 3) if path.startswith("datasets/") else ("model", 2)
    return kind, "/".join([endpoint(), *path.split("/")[:parts]])
