"""A local endpoint like OpenAI's that writes conversations, with faults on request."""

import json
import random
import re
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler
from typing import Any

from chat_server import ChatServer

SOME_WORDS = """
apple river lamp stone garden window yellow quiet morning bread winter letter music paper bridge silver mountain coffee
pencil island blanket harbour candle forest ladder pepper rocket velvet walnut meadow copper thunder basket feather
lantern orchard puddle saddle timber violin whistle zebra anchor biscuit
"""
WORDS = SOME_WORDS.split()
HANG = 1.5
"""Seconds that it hangs: longer than the tests' client waits."""

BODY_FAULTS = ("cut body", "no json body", "no choices", "hang")
STATUS_FAULTS = ("429", "500", "503", "400")
WRITTEN_FAULTS = ("prose", "cut", "cut silently", "narrator", "wrong output", "failing call", "other bot", "duplicate")
REPAIRED = ("fenced", "format", "no usage")
"""Faults for which nothing is requested again."""


class Server(ChatServer):
    """Counts what a real one would charge for: every answer that it worked out, sent completely or not."""

    def __init__(self, faults: Iterable[str] = (), key: str = "", delay: float = 0.0) -> None:
        super().__init__(faults, key, delay)
        self.forms = ("json_schema", "json_object", "none")
        self.limit_keys = ("max_tokens", "max_completion_tokens")
        self.prompt_tokens = self.completion_tokens = 0

    def cost(self, price_in: float, price_out: float) -> float:
        return (self.prompt_tokens * price_in + self.completion_tokens * price_out) / 1e6

    def respond(self, handler: BaseHTTPRequestHandler, body: dict[str, Any], fault: str) -> None:
        status, headers, sent = self.answer(handler, body, fault)
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(sent)))
        handler.end_headers()
        if fault == "cut body":
            handler.wfile.write(sent[: len(sent) // 2])
            handler.close_connection = True
        else:
            handler.wfile.write(sent)

    def answer(
        self, handler: BaseHTTPRequestHandler, body: dict[str, Any], fault: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers, body."""
        authorization = handler.headers.get("Authorization", "")
        form = body.get("response_format", {}).get("type", "none")
        if handler.path != "/v1/chat/completions":
            return _error(404, "no such page")
        if self.key and authorization != f"Bearer {self.key}":
            return _error(401, f"Incorrect API key provided: {authorization.removeprefix('Bearer ')}")
        if form not in self.forms:
            return _error(400, f"response_format {form} is not supported")
        if not set(self.limit_keys) & set(body):
            return _error(400, f"Unsupported parameter: use '{self.limit_keys[0]}' instead.")
        if fault in STATUS_FAULTS:
            status, headers, sent = _error(int(fault), "not now")
            return status, {**headers, "Retry-After": self.retry_after} if fault == "429" else headers, sent
        content, finish = written(body["messages"], fault)
        usage = {
            "prompt_tokens": len(json.dumps(body)) // 4,
            "completion_tokens": len(content) // 4,
        }
        with self.lock:
            self.prompt_tokens += usage["prompt_tokens"]
            self.completion_tokens += usage["completion_tokens"]
        if fault == "hang":
            time.sleep(HANG)
        if fault == "no json body":
            return 200, {}, b'{"choices": [{"mess'
        answer = {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": finish}]}
        if fault == "no choices":
            answer = {"choices": []}
        if fault != "no usage":
            answer["usage"] = usage  # type: ignore[assignment]
        return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()


def _error(status: int, message: str) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps({"error": {"message": message}}).encode()


def written(messages: list[dict[str, str]], fault: str) -> tuple[str, str]:
    """(content, finish_reason): the conversation that is asked for, as JSON, or what the fault makes of it."""
    said = "\n".join(message["content"] for message in messages)
    kind = re.findall(r"Kind of conversation: (\w+)", said)[0]
    name = re.findall(r"^name: (.*)$", said, re.M)[0]
    made = conversation(kind, name, random.Random("same" if fault == "duplicate" else said), fault)
    content, finish = json.dumps(made), "stop"
    if fault == "prose":
        content = "Certainly! I would love to {help} you with that."
    elif fault in ("cut", "cut silently"):
        content, finish = content[: len(content) * 2 // 3], "length" if fault == "cut" else "stop"
    elif fault == "fenced":
        content = f"<think>{{hm}}</think>Here {{it}} is:\n```json\n{content[:-1]},}}\n```\nEnjoy!"
    elif fault == "narrator":
        content = content.replace('"role": "user"', '"role": "narrator"')
    return content, finish


def conversation(kind: str, name: str, rng: random.Random, fault: str) -> dict[str, Any]:
    def some(count: int) -> str:
        return " ".join(rng.choices(WORDS, k=count))

    def text(words: str) -> dict[str, str]:
        return {"type": "text", "text": words}

    def call(code: str, result: str) -> list[dict[str, str]]:
        result = {"wrong output": "wrong", "format": f"  {result}\n"}.get(fault, result)
        return [{"type": "python", "text": code}, {"type": "output", "text": result}]

    a, b = rng.randint(100, 999), rng.randint(100, 999)
    files, asked = [], f"{some(6)}?"
    if kind == "identity":
        answer = [text(f"I am {'ChatGPT' if fault == 'other bot' else name}, and I like {some(10)}.")]
    elif kind == "no_tool":
        answer = [text(f"{some(14)}.")]
    elif kind == "reasoning":
        answer = [text(f"First, {some(5)}. Then {some(5)}, because {some(4)}. So the answer is {some(2)}.")]
    elif kind == "tool_use":
        asked = f"What is {a} times {b}? {some(6)}"
        answer = [text(f"{some(4)}: "), *call(f"{a}*{b}", str(a * b)), text(f" is {a * b}.")]
    else:
        files = [{"name": "notes.txt", "text": f"{some(2)}: {a}"}]
        asked = f"Add {b} to the number in notes.txt. {some(6)}"
        plan = [text(f"First I read the file, then I add {b}. {some(4)}.")] if kind == "tool_planning" else []
        read, added = call('read_file("notes.txt")', files[0]["text"]), call(f"{a}+{b}", str(a + b))
        answer = [*plan, *read, text(f"{some(3)}."), *added, text(f"That is {a + b}.")]
    if fault == "failing call":
        answer = [*call("1/0", "0"), *answer]
    messages = [{"role": "user", "content": [text(asked)]}, {"role": "assistant", "content": answer}]
    return {"files": files, "known": [], "messages": messages}
