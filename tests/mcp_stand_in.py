"""A small MCP server in plain Python, which starts in no time and misbehaves when it is told to.

As a program it speaks stdio; arguments: "stubborn" (only SIGKILL ends it), "mute" (never answers), "noisy" (writes what
is no message), "gone" (exits at once).
"""

import json
import os
import signal
import sys
import time
from typing import Any

TOOLS = ["add", "fail", "slow", "crash", "parts", "data", "odd", "secret", "environment-of", "broken"]
STRING = {"type": "object", "properties": {"text": {"type": "string"}}, "required": []}
ADD = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}


def text(said: str, error: bool = False) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": said}], "isError": error}


def called(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if name == "add":
        return text(str(arguments["a"] + arguments["b"]))
    if name == "fail":
        return text("there is\nno such city", True)
    if name == "slow":
        time.sleep(float(arguments.get("text", 600)))
    if name == "crash":
        print("out of \x1b[31mluck", file=sys.stderr, flush=True)
        os._exit(3)
    if name == "parts":
        image = {"type": "image", "data": "AAAA", "mimeType": "image/png"}
        link = {"type": "resource_link", "uri": "file:///a.txt", "name": "a"}
        inside = {"type": "resource", "resource": {"uri": "file:///b.txt", "text": "of b"}}
        return {"content": [*text("one")["content"], image, link, inside]}
    if name == "data":
        return {"content": [], "structuredContent": {"tea": 3}}
    if name == "odd":
        return text("\x1b[2J" + "word " * 100_000)
    if name == "environment-of":
        return text(os.environ.get(arguments["text"], "nothing"))
    if name == "broken":
        return {"content": 5}
    return text("done")


def answer(message: dict[str, Any]) -> dict[str, Any] | None:
    """The answer to a message; None to a notification."""
    if "id" not in message:
        return None
    method, parameters = message["method"], message.get("params") or {}
    result: dict[str, Any] | None = None
    if method == "initialize":
        result = {
            "protocolVersion": parameters["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "stand-in", "version": "1"},
        }
    elif method == "tools/list":  # in two pages
        names = TOOLS[5:] if parameters.get("cursor") else TOOLS[:5]
        made = [
            {"name": name, "description": f"Does {name}.", "inputSchema": ADD if name == "add" else STRING}
            for name in names
        ]
        result = {"tools": made} | ({} if parameters.get("cursor") else {"nextCursor": "more"})
    elif method == "tools/call":
        result = called(parameters["name"], parameters.get("arguments") or {})
    if result is None:
        return {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "no such method"}}
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


def main() -> None:
    if "gone" in sys.argv:
        sys.exit("no \x1b[31mtoken")
    if "stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "noisy" in sys.argv:
        print("Welcome! \x1b[2J", flush=True)
        sys.stdout.buffer.write(b"\xff\xfe\n")
    for line in sys.stdin:
        said = answer(json.loads(line))
        if said and "mute" not in sys.argv:
            print(json.dumps(said), flush=True)
    while "stubborn" in sys.argv:
        time.sleep(60)


if __name__ == "__main__":
    main()
