"""`http_request`: external APIs, of which a model may call only what an OpenAPI description lists.

A key is read from the environment and sent as the description says; no model, log or error sees it.
"""

import base64
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from lanbot.core.errors import UserError
from lanbot.tools.fetch import page_text, shortened
from lanbot.tools.keys import without_keys
from lanbot.tools.openapi import Operation, read_description
from lanbot.tools.tool import Tool, ToolError, tool
from lanbot.tools.web import Response, Web, checked_url

MAX_LISTED = 40  # calls that the tool's description names
MAX_ERROR = 500  # characters of an answer that is an error


@dataclass(frozen=True)
class Api:
    """The calls of a description, and the key that goes with them ("" for none)."""

    operations: tuple[Operation, ...]
    key: str = field(default="", repr=False)


def open_api(file: str, key: str = "") -> Api:
    """The API of an OpenAPI description. key: the environment variable that holds its key. Raises UserError."""
    operations = tuple(read_description(file))
    if not key:
        return Api(operations)
    if not os.environ.get(key, "").strip():
        raise UserError(f"{file}: its key, the environment variable {key}, is not set", f"Set it: export {key}=...")
    if not any(operation.auth for operation in operations):
        problem = f"{file}: describes no key that is sent in a header"
        raise UserError(problem, "Add a securityScheme (http bearer or apiKey in header), or leave out the key.")
    if re.search(r"[^\x21-\x7e]", os.environ[key].strip()):
        raise UserError(f"{file}: {key} holds a character that no header may", "Copy the key again, without spaces.")
    return Api(operations, os.environ[key].strip())


class Apis:
    """The tool `http_request` over some APIs."""

    def __init__(self, web: Web, apis: Iterable[Api]) -> None:
        self.web, self.apis = web, list(apis)

    @property
    def tools(self) -> list[Tool]:
        lines = [operation.line for api in self.apis for operation in api.operations]
        more = [f"and {len(lines) - MAX_LISTED} more"] if len(lines) > MAX_LISTED else []
        made = Tool.from_function(self.http_request)
        return [replace(made, description="\n".join([made.description, *lines[:MAX_LISTED], *more]))]

    @tool(kind="network", subject="url")
    def http_request(self, method: str, url: str, body: str | dict[str, Any] | list[Any] | None = None) -> str:
        """Calls an external API. These calls can be made:

        Args:
            method: GET, POST and so on.
            url: The whole address, with its parameters.
            body: What is sent, as JSON.

        Returns:
            the answer's text
        """
        method = str(method).upper()
        if method == "GET":
            response = self.web.follow(url, partial(self._send, method, body))
        else:
            response = self._send(method, body, url)
        text = shortened(without_keys(page_text(response), {api.key for api in self.apis})) if response.body else ""
        if response.status >= 300:
            said = f": {' '.join(text.split())[:MAX_ERROR]}" if text else ""
            raise ToolError(f"{response.status} {response.reason}{said}")
        return text or f"{response.status} {response.reason}".rstrip()

    def _send(self, method: str, body: Any, url: str, until: float | None = None) -> Response:
        api, operation, data = self._checked(method, url, body)
        headers = {"Accept": "application/json, text/*;q=0.9, */*;q=0.1"}
        if data:
            headers["Content-Type"] = operation.body_kind
        if api.key and operation.auth:
            name, value = operation.auth
            key = base64.b64encode(api.key.encode()).decode() if value.startswith("Basic") else api.key
            headers[name] = value.format(key)
        return self.web.send(method, url, headers, data, until)

    def _checked(self, method: str, url: str, body: Any) -> tuple[Api, Operation, bytes]:
        """The call that a request is, and the body to send. Raises ToolError if it is none that is listed."""
        parsed, alike = checked_url(url), []
        listed = [(api, operation) for api in self.apis for operation in api.operations]
        for api, operation in sorted(listed, key=lambda pair: len(pair[1].in_path)):  # /me is not /{user}
            values = operation.values(parsed)
            if values is None:
                continue
            if operation.method == method:
                return api, operation, operation.check(parsed, values, body)
            alike.append(operation.method)
        if alike:
            raise ToolError(f"{method} is not among the calls of this address; there are: {', '.join(alike)}")
        hosts = sorted({operation.base for _, operation in listed})
        raise ToolError(f"{str(parsed)[:200]} is not among the listed calls, which begin with {', '.join(hosts)}")
