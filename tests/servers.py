"""Servers in threads of the test's process."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lanbot.web.server import listen, make_server


@contextmanager
def servers() -> Iterator[Callable[[Any], str]]:
    """start(app) -> its address on loopback. All are stopped at the end."""
    started: list[tuple[Any, threading.Thread]] = []

    def start(app: Any) -> str:
        server, listener = make_server(app), listen("127.0.0.1", 0)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        started.append((server, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread in started:
        server.should_exit = True
        thread.join(timeout=20)
