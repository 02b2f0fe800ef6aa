"""What a request is refused with, in the shape of the API that it came by."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lanbot.core.errors import UserError

ANTHROPIC_PATH = "/v1/messages"
KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""OpenAI's type of an error by its status; below 500 any other is an invalid request, from there on the server's."""
ANTHROPIC_KINDS = {
    **KINDS,
    404: "not_found_error",
    413: "request_too_large",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """An answer other than 2xx. param: the field that is wrong. code: OpenAI's word for the reason."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self, path: str) -> dict[str, Any]:
        """As JSON, in Anthropic's shape on its route and in OpenAI's elsewhere."""
        if path.startswith(ANTHROPIC_PATH):
            kind = ANTHROPIC_KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
            return {"type": "error", "error": {"type": kind, "message": self.message}}
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def busy(message: str, seconds: int) -> ApiError:
    return ApiError(429, message, code="rate_limit_exceeded", headers={"Retry-After": str(seconds)})


def unsupported(param: str, instead: str) -> ApiError:
    return ApiError(400, f"{param}: not supported here. {instead}", param, "unsupported_parameter")


def invalid(error: ValidationError) -> ApiError:
    """The first thing that is wrong with a body. Its values are not repeated."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(step) for step in first["loc"])
    return ApiError(400, f"{where}: {first['msg']}" if where else first["msg"], where or None)


async def _refused(request: Request, error: ApiError) -> Response:
    return JSONResponse(error.body(request.url.path), error.status, error.headers)


async def _misused(request: Request, error: UserError) -> Response:
    return await _refused(request, ApiError(400, f"{error.problem}. {error.remedy}"))


async def _http(request: Request, error: HTTPException) -> Response:
    message = {404: "no such route", 405: "this route has no such method"}.get(error.status_code, str(error.detail))
    return await _refused(request, ApiError(error.status_code, message, headers=error.headers))


async def _broken(request: Request, error: Exception) -> Response:
    return await _refused(request, ApiError(500, f"a fault of the server's: {type(error).__name__}"))


HANDLERS: dict[Any, Any] = {ApiError: _refused, UserError: _misused, HTTPException: _http, Exception: _broken}
"""What a server answers to errors of its routes."""
