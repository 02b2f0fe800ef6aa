"""The OpenAPI description, from what the routes validate."""

from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from lanbot import __version__
from lanbot.web.anthropic_messages import MessagesBody
from lanbot.web.fields import Body
from lanbot.web.openai_chat import ChatBody
from lanbot.web.openai_completions import CompletionBody
from lanbot.web.openai_responses import ResponsesBody

POSTS: dict[str, tuple[type[Body], str]] = {
    "/v1/chat/completions": (ChatBody, "Answer a conversation, in OpenAI's form"),
    "/v1/completions": (CompletionBody, "Continue a text, in OpenAI's form"),
    "/v1/responses": (ResponsesBody, "Answer a conversation, in the form of OpenAI's Responses"),
    "/v1/messages": (MessagesBody, "Answer a conversation, in Anthropic's form"),
}
REFUSALS = {
    "400": "The body is wrong, or not supported",
    "401": "No key",
    "403": "Not from here",
    "404": "No such model",
    "408": "The body came too slowly",
    "413": "The body is too large",
    "415": "The body is not JSON",
    "429": "The queue is full; Retry-After says when to come again",
    "503": "The server is shutting down",
    "504": "The deadline is over",
}
TEXT = {"schema": {"type": "string"}}
OBJECT = {"schema": {"type": "object"}}


def describe(models: Sequence[str]) -> dict[str, Any]:
    """OpenAPI 3.1 of this server, with the names of its models."""
    bodies = [kind for kind, _ in POSTS.values()]
    _, schemas = models_json_schema(
        [(kind, "validation") for kind in bodies], ref_template="#/components/schemas/{model}"
    )
    definitions = schemas["$defs"]
    for kind in bodies:
        definitions[kind.__name__]["properties"]["model"] = _names(models)
    paths: dict[str, Any] = {path: {"post": _post(kind, what)} for path, (kind, what) in POSTS.items()}
    paths["/v1/models"] = {"get": _get("The models", "application/json")}
    paths["/v1/models/{name}"] = {
        "get": {
            **_get("One model", "application/json"),
            "parameters": [{"name": "name", "in": "path", "required": True, "schema": _names(models)}],
        }
    }
    paths["/health"] = {"get": {**_get("Whether the server answers", "application/json"), "security": []}}
    paths["/metrics"] = {"get": _get("Figures in Prometheus' text format", "text/plain")}
    paths["/openapi.json"] = {"get": _get("This description", "application/json")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "LanBot", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _names(models: Sequence[str]) -> dict[str, Any]:
    return {"type": "string", "enum": list(models)}


def _post(kind: type[Body], what: str) -> dict[str, Any]:
    body = {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
    done = {"description": "The answer", "content": {"application/json": OBJECT, "text/event-stream": OBJECT}}
    return {
        "summary": what,
        "requestBody": {"required": True, "content": body},
        "responses": {"200": done, **_refusals()},
    }


def _get(what: str, media: str) -> dict[str, Any]:
    content = {media: OBJECT if media == "application/json" else TEXT}
    return {"summary": what, "responses": {"200": {"description": what, "content": content}, **_refusals()}}


def _refusals() -> dict[str, Any]:
    return {status: {"description": why, "content": {"application/json": OBJECT}} for status, why in REFUSALS.items()}
