"""How soon the chat page is seen, over loopback in a Chromium without a window, and how large it is.

    python benchmarks/page.py [--repeats 10] [--json]

Cold: a browser that has nothing of it; again: a reload. First paint and first contentful paint are those that the
browser reports, ready is when the models are listed and the conversations drawn. The floor: first paint under 100 ms
(the median), under 400 KB in all.
"""

import argparse
import json
import shutil
import statistics
import threading
import time
from typing import Any

from playwright.sync_api import sync_playwright

from lanbot.core.console import say, table
from lanbot.web.app import make_app
from lanbot.web.served import Models, Served
from lanbot.web.server import listen, make_server
from lanbot.web.static import Files

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
READ = """() => ({
  ...Object.fromEntries(performance.getEntriesByType("paint").map((one) => [one.name, one.startTime])),
  ready: performance.now(),
})"""


def _serve() -> str:
    def never() -> Any:
        raise NotImplementedError

    server = make_server(make_app(Models([Served("tiny", never, 2_048)])))
    listener = listen("127.0.0.1", 0)
    threading.Thread(target=server.run, args=([listener],), daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def _measure(page: Any, load: Any) -> dict[str, float]:
    load()
    page.wait_for_selector("[data-ready]", state="attached")
    return page.evaluate(READ)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    url, cold, again = _serve(), [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for _ in range(given.repeats):
            context = browser.new_context()
            page = context.new_page()
            cold.append(_measure(page, lambda page=page: page.goto(url)))
            again.append(_measure(page, page.reload))
            context.close()
        browser.close()
    made: dict[str, Any] = {"bytes": Files().bytes, "repeats": given.repeats}
    for name, runs in {"cold": cold, "again": again}.items():
        made[name] = {key: round(statistics.median(run[key] for run in runs), 1) for key in runs[0]}
    if given.json:
        print(json.dumps(made))
        return
    say(f"{made['bytes']:,} bytes in all; medians of {given.repeats}, in ms")
    names = list(made["cold"])
    rows = [[name, *(f"{made[name][key]:.0f}" for key in names)] for name in ("cold", "again")]
    print(table(rows, ["", *names]))


if __name__ == "__main__":
    main()
