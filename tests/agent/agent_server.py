"""A local endpoint like OpenAI's that answers what it is told to, in pieces, with faults on request."""

import json
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler
from typing import Any

from chat_server import ChatServer

HANG = 1.0
"""Seconds that it hangs: longer than the tests' client waits."""


def says(content: str = "", *calls: tuple[str, Any], finish: str = "") -> dict[str, Any]:
    """An answer; arguments of calls that are no text are written as JSON."""
    written = [(name, given if isinstance(given, str) else json.dumps(given)) for name, given in calls]
    return {"content": content, "calls": written, "finish": finish or ("tool_calls" if calls else "stop")}


class AgentServer(ChatServer):
    """turns: what it answers, one after the other; a request that fails uses up none.

    Faults: a status such as "429"; "hang"; "drop" in the middle; "whole": not streamed; "error" within the stream;
    "no index" of calls; "no usage".
    """

    def __init__(self, turns: Iterable[dict[str, Any]], faults: Iterable[str] = (), key: str = "") -> None:
        super().__init__(faults, key)
        self.turns = list(turns)
        self.unknown: tuple[str, ...] = ()
        """Parameters that it refuses."""

    def respond(self, handler: BaseHTTPRequestHandler, body: dict[str, Any], fault: str) -> None:
        authorization = handler.headers.get("Authorization", "")
        if self.key and authorization != f"Bearer {self.key}":
            return self.send(handler, 401, {"error": {"message": f"Incorrect API key provided: {authorization[7:]}"}})
        if body["model"] != "m":
            return self.send(handler, 404, {"error": {"message": f"The model `{body['model']}` does not exist"}})
        if refused := [name for name in self.unknown if name in body]:
            return self.send(handler, 400, {"error": {"message": f"Unsupported parameter: '{refused[0]}'"}})
        if fault.isdecimal():
            return self.send(handler, int(fault), {"error": {"message": "not now"}}, Retry_After=self.retry_after)
        if fault == "hang":
            time.sleep(HANG)
        turn = self.turns[0] if fault in ("drop", "error") else self.turns.pop(0)
        usage = {} if fault == "no usage" else {"usage": self.usage(body)}
        if fault == "whole":
            calls = [
                {"id": str(i), "type": "function", "function": {"name": name, "arguments": given}}
                for i, (name, given) in enumerate(turn["calls"])
            ]
            message = {"role": "assistant", "content": turn["content"] or None, "tool_calls": calls, "odd": 1}
            choice = {"message": message, "finish_reason": turn["finish"]}
            return self.send(handler, 200, {"choices": [choice], **usage})
        chunks = self.chunks(turn, fault)
        if fault in ("drop", "error"):
            chunks = chunks[: len(chunks) // 2]
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        handler.wfile.write(b": a comment\n\n")
        for delta, finish in chunks:
            self.event(handler, {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "odd": [1]})
        if fault == "error":
            self.event(handler, {"error": {"message": "overloaded", "code": 503}})
        elif fault != "drop":
            self.event(handler, {"choices": [], **usage})
            handler.wfile.write(b"data: [DONE]\n\n")
        return None

    def event(self, handler: BaseHTTPRequestHandler, data: Any) -> None:
        handler.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
        handler.wfile.flush()

    def chunks(self, turn: dict[str, Any], fault: str) -> list[tuple[dict[str, Any], str | None]]:
        made: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": "", "odd": None}, None)]
        made += [({"content": turn["content"][i : i + 3]}, None) for i in range(0, len(turn["content"]), 3)]
        for number, (name, given) in enumerate(turn["calls"]):
            index = {} if fault == "no index" else {"index": number}
            if fault == "no index":
                function = {"name": name, "arguments": given}
                made.append(({"tool_calls": [{"id": f"c{number}", "function": function}]}, None))
                continue
            begin = {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": ""}}
            made.append(({"tool_calls": [index | begin]}, None))
            pieces = [given[i : i + 4] for i in range(0, len(given), 4)]
            made += [({"tool_calls": [index | {"function": {"arguments": piece}}]}, None) for piece in pieces]
        return [*made, ({}, turn["finish"])]

    def usage(self, body: dict[str, Any]) -> dict[str, Any]:
        read = len(json.dumps([body["messages"], body.get("tools")])) // 4
        return {"prompt_tokens": read, "completion_tokens": 7, "odd": {}}
