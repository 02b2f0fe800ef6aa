"""How soon the dashboard shows the curve of a metrics.jsonl of a million lines.

    python benchmarks/dashboard.py [--lines 1000000] [--repeats 5] [--json]

Each repeat starts `lanbot dashboard` anew, which then knows nothing of the file; the file itself is in the page cache,
as that of a run that is being written. start: from the command to its address. HTTP: the two requests that the first
curve takes, and until the curve is of all lines, asked every 0.1 s. Browser: from the navigation until the first
curve is drawn, and until it is of all lines, in a Chromium without a window; left out where there is none. The floor:
the first curve under 1 s, in the browser. Medians, in seconds.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from lanbot.config import recipe_file
from lanbot.core.console import say, size, table

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
LINE = (
    '{{"step": {step}, "progress": {progress:.7g}, "loss": {loss:.7g}, "bpb": {bpb:.7g}, "grad_norm": {norm:.7g}, '
    '"lr_scale": 1.0, "tokens": {tokens}, "seconds": {seconds:.7g}, "tokens_per_second": 1048213.4, '
    '"utilisation": {utilisation:.7g}, "wait_seconds": 0.000434982, "skipped": 0, "epochs": 0, "bad": 0}}\n'
)


def write_run(root: Path, lines: int) -> Path:
    """A run `big` whose loss falls with noise and leaps once."""
    folder = root / "big"
    (folder / "base").mkdir(parents=True)
    (folder / "recipe.toml").write_text(recipe_file.dump(recipe_file.load("d20", {"name": "big"})), encoding="utf-8")
    noise = np.random.default_rng(0).normal(0, 0.1, lines)
    path = folder / "base" / "metrics.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(1, lines + 1):
            loss = 20.0 if i == lines // 3 else 2 + 8 / i**0.3 + noise[i - 1]
            file.write(
                LINE.format(
                    step=i, progress=i / lines, loss=loss, bpb=loss / 3, norm=abs(noise[i - 1]) + 0.3,
                    tokens=524_288 * i, seconds=0.5 * i, utilisation=0.5 + noise[i - 1] / 10,
                )
            )  # fmt: skip
    return path


@contextmanager
def dashboard(root: Path) -> Iterator[tuple[str, float]]:
    """Its address, and how long it took to have one."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "lanbot", "dashboard", "--port", "0"]
    process = subprocess.Popen(command, env={**os.environ, "LANBOT_RUNS": str(root)}, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        url = next(word for word in line.split() if word.startswith("http"))
        httpx2.get(f"{url}/health")
        yield url, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def over_http(root: Path) -> dict[str, float]:
    with dashboard(root) as (url, started), httpx2.Client(base_url=url, timeout=60) as client:
        began = time.perf_counter()
        client.get("/api/runs")
        query = {"run": "big", "phase": "base", "clock": "seconds"}
        found = client.get("/api/curves", params=query).json()
        first = time.perf_counter() - began
        while found["sampled"]:
            time.sleep(0.1)
            found = client.get("/api/curves", params=query).json()
        assert max(found["curves"]["loss"]["high"]) == 20, "the leap is seen"
        return {"start": started, "HTTP, first": first, "HTTP, all lines": time.perf_counter() - began}


def in_browser(root: Path, browser: Any) -> dict[str, float]:
    with dashboard(root) as (url, _):
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector("[data-ready]", state="attached")
        first = page.evaluate("performance.getEntriesByName('first curve')[0].startTime") / 1e3
        page.wait_for_selector("[data-complete]", state="attached", timeout=60_000)
        whole = page.evaluate("performance.getEntriesByName('whole curve')[0].startTime") / 1e3
        context.close()
        return {"browser, first": first, "browser, all lines": whole}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    chromium, runs = shutil.which("chromium"), []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bytes_ = write_run(root, given.lines).stat().st_size
        say(f"{given.lines:,} lines, {size(bytes_)}")
        runs += [over_http(root) for _ in range(given.repeats)]
        if chromium:
            from playwright.sync_api import sync_playwright

            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
                runs += [in_browser(root, browser) for _ in range(given.repeats)]
                browser.close()
    names = list(dict.fromkeys(name for run in runs for name in run))
    made = {name: [round(run[name], 3) for run in runs if name in run] for name in names}
    if given.json:
        print(json.dumps({"lines": given.lines, "bytes": bytes_, **made}))
        return
    rows = [(name, f"{statistics.median(of):.2f}", f"{min(of):.2f}", f"{max(of):.2f}") for name, of in made.items()]
    print(table(rows, ("seconds", "median", "least", "most")))


if __name__ == "__main__":
    main()
