"""A local endpoint like OpenAI's: the HTTP of it."""

import json
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class ChatServer(ABC):
    """`with Server(faults) as server`: each request takes the next fault, later ones none. Subclasses respond."""

    def __init__(self, faults: Iterable[str] = (), key: str = "", delay: float = 0.0) -> None:
        self.faults, self.key, self.delay = deque(faults), key, delay
        self.always = ""
        self.retry_after = "0.01"
        self.models: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.arrived: list[float] = []
        self.now = self.most_at_once = 0

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.bodies.append(body)
                    outer.arrived.append(time.monotonic())
                    outer.now += 1
                    outer.most_at_once = max(outer.most_at_once, outer.now)
                    fault = outer.always or (outer.faults.popleft() if outer.faults else "")
                try:
                    time.sleep(outer.delay)
                    outer.respond(self, body, fault)
                except OSError:  # the client hung up
                    self.close_connection = True
                finally:
                    with outer.lock:
                        outer.now -= 1

            def do_GET(self) -> None:
                outer.send(self, 200, {"object": "list", "data": outer.models})

            def log_message(self, *args: object) -> None: ...

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 64

            def handle_error(self, *_: object) -> None: ...

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def send(self, handler: BaseHTTPRequestHandler, status: int, data: Any, **headers: str) -> None:
        sent = json.dumps(data).encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(sent)))
        handler.end_headers()
        handler.wfile.write(sent)

    @abstractmethod
    def respond(self, handler: BaseHTTPRequestHandler, body: dict[str, Any], fault: str) -> None: ...
