"""The dashboard's server: its page, and what the page asks for, as JSON."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lanbot import report
from lanbot.dashboard.columns import CLOCKS
from lanbot.dashboard.watched import Runs, Unknown
from lanbot.web.errors import HANDLERS, ApiError
from lanbot.web.security import Access, Guard, SafeHeaders
from lanbot.web.static import FOLDER, PAGE, Files

POINTS = 600
"""Of a curve, unless the page asks for another number."""
MOST_POINTS = 4_000
FILES = (Path(report.__file__).parent / "static" / "style.css", PAGE / "dom.js", PAGE / "icon.svg")
"""What the page shares with the report and with the chat page."""


def make_app(runs: Runs, access: Access = Access()) -> Starlette:  # noqa: B008  (frozen)
    """The server of these runs. It only reads, and writes no log: the page asks every two seconds."""
    page = Files(Path(__file__).parent / "page", FILES)

    def answer(make: Callable[[Request], Any]) -> Callable[[Request], Response]:
        return lambda request: _json(request, make(request))

    def rows(request: Request) -> Any:
        folder = "" if runs.named else str(runs.options.runs)
        return {"runs": runs.rows(), "folder": folder}

    def curves(request: Request) -> Any:
        asked = request.query_params
        clock = asked.get("clock", "step")
        if clock not in (*CLOCKS, "flops"):
            raise ApiError(400, f"clock: one of {', '.join(CLOCKS)}, flops", "clock")
        points = _number(request, "points") or POINTS
        between = _number(request, "from"), _number(request, "to")
        return runs.curves(asked.get("run", ""), asked.get("phase", ""), clock, _within(points), *between)

    def run(request: Request) -> Any:
        return runs.details(request.query_params.get("run", ""))

    def rollouts(request: Request) -> Any:
        asked = request.query_params
        found = runs.rollouts(asked.get("run", ""), asked.get("phase", ""))
        step = _number(request, "step")
        chosen = max((one for one in found if step is None or one <= step), default=min(found, default=None))
        return {"steps": list(found), "step": chosen, "rows": [] if chosen is None else found[chosen]}

    handlers: Any = {**HANDLERS, Unknown: _unknown}
    return Starlette(
        routes=[
            Route("/", page.answer),
            Route(FOLDER + "{name:path}", page.answer),
            Route("/health", lambda request: JSONResponse({"status": "ok"})),
            Route("/api/runs", answer(rows)),
            Route("/api/curves", answer(curves)),
            Route("/api/run", answer(run)),
            Route("/api/rollouts", answer(rollouts)),
        ],
        middleware=[
            Middleware(SafeHeaders, log=False),
            Middleware(Guard, access=access),
            Middleware(GZipMiddleware, minimum_size=2_000, compresslevel=3),
        ],
        exception_handlers=handlers,
    )


def _json(request: Request, value: Any) -> Response:
    """Not sent again to whoever has it already."""
    body = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    etag = f'W/"{hashlib.sha256(body).hexdigest()[:24]}"'
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={"ETag": etag})
    return Response(body, headers={"ETag": etag}, media_type="application/json")


def _number(request: Request, name: str) -> float | None:
    """Of a query. Raises ApiError if it is none."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ApiError(400, f"{name}: not a number", name)
    return value


def _within(points: float) -> int:
    return int(min(MOST_POINTS, max(10, points)))


async def _unknown(request: Request, error: Unknown) -> Response:
    refused = ApiError(404, str(error))
    return JSONResponse(refused.body(request.url.path), 404)
