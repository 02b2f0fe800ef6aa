"""The application: routes, and the middlewares around them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from lanbot.web.agent_host import AgentHost
from lanbot.web.agent_routes import agent_routes
from lanbot.web.anthropic_messages import messages
from lanbot.web.asking import ClientGoneError, State, as_json
from lanbot.web.description import describe
from lanbot.web.errors import HANDLERS
from lanbot.web.metrics import Metrics
from lanbot.web.openai_chat import chat
from lanbot.web.openai_completions import complete
from lanbot.web.openai_responses import respond
from lanbot.web.scheduler import QUEUE, Scheduler
from lanbot.web.security import Access, BodyLimit, Guard, SafeHeaders
from lanbot.web.served import Models, Served
from lanbot.web.static import FOLDER, Files

REQUEST_SECONDS = 600.0


def make_app(
    models: Models,
    access: Access = Access(),  # noqa: B008  (frozen)
    *,
    log: bool = False,
    seconds: float = REQUEST_SECONDS,
    queue: int = QUEUE,
    together: int | None = None,
    agent: AgentHost | None = None,
) -> Starlette:
    """The server of these models.

    log: write a line for each request. seconds: the deadline of a request. queue: how many may wait.
    together: how many answers are generated at the same time; by default what suits the device. agent: the run's agent,
    for whoever may ask.
    """
    metrics, page = Metrics(), Files()
    scheduler = Scheduler(metrics, queue, together)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        scheduler.start()
        try:
            yield
        finally:
            scheduler.stop()
            if agent is not None:
                await to_thread.run_sync(agent.close)

    middleware = [
        Middleware(SafeHeaders, log=log),
        Middleware(
            CORSMiddleware,
            allow_origins=list(access.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            max_age=600,
        ),
        Middleware(Guard, access=access, open=page),
        Middleware(BodyLimit),
    ]
    handlers: Any = {**HANDLERS, ClientGoneError: _gone}
    app = Starlette(
        routes=[*_routes(page), *agent_routes(agent)],
        middleware=middleware,
        exception_handlers=handlers,
        lifespan=lifespan,
    )
    app.state.lanbot = State(models, scheduler, seconds)
    app.state.metrics = metrics
    return app


def _routes(page: Files) -> list[Route]:
    return [
        Route("/", page.answer),
        Route(FOLDER + "{name:path}", page.answer),
        Route("/health", _health),
        Route("/metrics", _metrics),
        Route("/openapi.json", _openapi),
        Route("/v1/models", _list),
        Route("/v1/models/{name:path}", _show),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", complete, methods=["POST"]),
        Route("/v1/responses", respond, methods=["POST"]),
        Route("/v1/messages", messages, methods=["POST"]),
    ]


async def _health(request: Request) -> Response:
    alive = request.app.state.lanbot.scheduler.alive
    return JSONResponse({"status": "ok" if alive else "stopping"}, 200 if alive else 503)


async def _metrics(request: Request) -> Response:
    return PlainTextResponse(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4")


async def _openapi(request: Request) -> Response:
    return as_json(describe(list(request.app.state.lanbot.models)))


async def _list(request: Request) -> Response:
    models: Models = request.app.state.lanbot.models
    return as_json({"object": "list", "data": [_model(name, models[name]) for name in models]})


async def _show(request: Request) -> Response:
    name = request.path_params["name"]
    return as_json(_model(name, request.app.state.lanbot.models.find(name)))


def _model(name: str, served: Served) -> dict[str, Any]:
    """max_model_len is vLLM's name for the context, which clients look for."""
    return {
        "id": name,
        "object": "model",
        "created": served.created,
        "owned_by": "lanbot",
        "root": served.name,
        "max_model_len": served.context,
    }


async def _gone(request: Request, error: ClientGoneError) -> Response:
    return Response(status_code=499)
