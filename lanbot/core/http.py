"""Requests with patience: silence has a limit, what may pass is tried again, the rest is explained."""

import email.utils
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
"""Is told of trouble while it lasts, and "" when it is over."""

TRIES = 10
"""In a row that bring nothing; then it is given up."""
BACKOFF, BACKOFF_MAX = 1.0, 60.0
"""Seconds before the second try, doubled before each further one."""
RETRY_AFTER_MAX = 600.0
STALL_SECONDS = 30.0
"""Without a byte, after which a connection counts as dead."""
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which the same request may succeed later."""
LOG_IN = "log in (hf auth login, or HF_TOKEN)"

_jitter = random.Random()  # not the module's: its state belongs to whoever seeded it


def endpoint() -> str:
    """The hub: $HF_ENDPOINT, or https://huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


class Again(Exception):  # noqa: N818  (no error yet: it is tried again)
    """A failure that may pass. after: the seconds the server asks for; moved: something came in before it."""

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.why, self.after, self.moved = why, after, False


def patiently(name: str, attempt: Callable[[], T], note: Note, tries: int) -> T:
    """What `attempt` returns, once it does not raise Again. Raises UserError after `tries` in a row that bring nothing.

    Waits longer each time, by chance a bit less than that, so that many who failed together do not come together.
    """
    failures = 0
    while True:
        try:
            return attempt()
        except Again as again:
            failures = 1 if again.moved else failures + 1
            if failures >= tries:
                remedy = "Check the network and run the same command again: it goes on where it stopped."
                raise UserError(f"{name}: {again.why} ({failures} tries)", remedy) from None
            pause = min(BACKOFF_MAX, BACKOFF * 2 ** (failures - 1)) * _jitter.uniform(0.5, 1)
            pause = max(pause, min(again.after, RETRY_AFTER_MAX))
            note(f"{again.why}; try {failures + 1} of {tries} in {duration(pause)}")
            sleep(pause)


def read_json(url: str, name: str, note: Note, tries: int = 4) -> tuple[Any, str | None]:
    """What the hub's API answers, and the address of the next page if there is one."""

    def attempt() -> tuple[Any, str | None]:
        with answer(url, name, {}) as response:
            return json.loads(response.read()), response.links.get("next", {}).get("url")

    try:
        return patiently(name, attempt, note, tries)
    except ValueError:
        raise unlike_the_hub(name) from None


def unlike_the_hub(name: str) -> UserError:
    problem = f"{name}: {endpoint()} does not answer as the hub does"
    return UserError(problem, "Check the network (a login page in between?) and HF_ENDPOINT.")


@contextmanager
def answer(url: str, name: str, headers: dict[str, str]) -> "Iterator[httpx2.Response]":
    """An answer whose body is still to come: 200, or for a range 206 or 416. Raises Again or UserError for others, and
    for trouble while the body is read."""
    import httpx2

    try:
        with _client().stream("GET", url, headers=_headers(url) | headers, timeout=STALL_SECONDS) as response:
            status = f"{response.status_code} {response.reason_phrase}".strip()
            if response.status_code in PASSING:
                raise Again(f"the server answers {status}", _retry_after(response))
            if response.is_error and not (response.status_code == 416 and "Range" in headers):
                raise _refusal(name, status, response)
            yield response
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.TooManyRedirects) as error:
        raise UserError(f"{name}: {url} leads nowhere ({error})", "Check the address, or HF_ENDPOINT.") from None
    except httpx2.TimeoutException:
        raise Again(f"nothing came for {STALL_SECONDS:g}s") from None
    except httpx2.ConnectError as error:
        raise Again(f"no connection to {httpx2.URL(url).host} ({error})") from None
    except httpx2.RequestError as error:
        raise Again(f"the connection broke ({error or type(error).__name__})") from None


@cache
def _client() -> "httpx2.Client":
    import httpx2

    return httpx2.Client(follow_redirects=True)


def _headers(url: str) -> dict[str, str]:
    """The token, if there is one, goes to the hub alone; the client drops it when it is sent on to another host."""
    from huggingface_hub.utils import build_hf_headers

    token = None if _is_hub(url) else False  # None: the user's
    headers = build_hf_headers(token=token, library_name="lanbot", library_version=__version__)
    return headers | {"Accept-Encoding": "identity"}  # a range of compressed bytes could not be gone on with


def _is_hub(url: str) -> bool:
    return url.startswith(endpoint() + "/")


def _retry_after(response: "httpx2.Response") -> float:
    """Seconds that the server asks to wait: Retry-After, as a number or a date, or what is left of the hub's window."""
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(response.headers)
    seconds = float(limit.reset_in_seconds) if limit and not limit.remaining else 0.0
    asked = response.headers.get("Retry-After", "").strip()
    if asked.isdigit():
        return max(seconds, float(asked))
    with suppress(ValueError):
        return max(seconds, email.utils.parsedate_to_datetime(asked).timestamp() - time())
    return seconds


def _refusal(name: str, status: str, response: "httpx2.Response") -> UserError:
    if not _is_hub(str(response.url)):
        return UserError(f"{name}: {response.url.host} answers {status}", "Check the address; try again later.")
    code, said = response.headers.get("X-Error-Code", ""), response.headers.get("X-Error-Message", "")
    if code == "GatedRepo":
        page = re.match(r".*/datasets/[^/]+/[^/]+", str(response.url).replace("/api/", "/"))
        return UserError(
            f"{name}: gated: whoever wants it agrees to its terms first ({status})",
            f"Agree on its page, {page[0] if page else endpoint()}, then {LOG_IN}.",
        )
    if said.startswith("Invalid credentials"):
        return UserError(f"{name}: the hub does not accept your token ({status})", f"To get a new one, {LOG_IN}.")
    if code == "RevisionNotFound":
        return UserError(f"{name}: the hub has no such revision", "Check what is behind the @.")
    if code == "EntryNotFound":
        return UserError(f"{name}: the hub has no such file", "If it has changed, delete its folder in the cache.")
    if code == "RepoNotFound" or response.status_code in (401, 403, 404):
        return UserError(
            f"{name}: no such data set on the hub, or a private one ({status})",
            f"Check the name; for a private one {LOG_IN}.",
        )
    return UserError(f"{name}: the hub answers {status}", "Try again later.")
