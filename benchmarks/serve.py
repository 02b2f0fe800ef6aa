"""How fast the server answers 1, 8 and 64 clients, beside the server of cyllama (llama.cpp) on the exported model.

    python benchmarks/serve.py [--models demo depth-4] [--repeats 3] [--json]

Both serve the same random weights, one after the other and alternating, with one thread for the model; the clients are
in this process. Each client sends its next question when its last one is answered: 32 tokens or so of prompt, 64 new,
greedy. Ours streams: time to the first token, and between what arrives (which may be several tokens, if the client is
slow). cyllama's server (not llama.cpp's own `llama-server`) does not stream: its figure is tokens/s. With 2 cores the
clients take part of what they measure, and other programs disturb: the best repeat of each counts, and ratios more
than figures. The floor: 64 clients together get 4 times the tokens/s of one, p99 between tokens under 5 times p50.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import torch
from engine import MODELS

from lanbot import export as exporting
from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.core.console import say, table
from lanbot.distributed.runtime import Runtime
from lanbot.export.source import Source
from lanbot.models.init import init_weights
from lanbot.models.transformer import Transformer
from lanbot.models.weights import save_model
from lanbot.synthetic import world
from lanbot.tokenizers.bpe_training import train

CLIENTS = {1: 8, 8: 4, 64: 2}
"""Numbers of clients, and how many questions each asks."""
NEW = 64
OTHER = """
import sys, time
from cyllama.llama.server.python import ServerConfig, ServerSlot
from cyllama.llama.server.embedded import EmbeddedServer
reset = ServerSlot.reset
ServerSlot.reset = lambda slot: (reset(slot), slot.context.kv_cache_clear())  # else a slot answers once
config = ServerConfig(model_path=sys.argv[1], port=int(sys.argv[2]), n_ctx=1024, n_parallel=8, n_threads=1)
server = EmbeddedServer(config)
assert server.start()
server.wait_for_shutdown()
"""


@dataclass
class Measured:
    """Of all clients together. tokens: in `seconds`. first, between: seconds."""

    tokens: int = 0
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def make_models(name: str, folder: Path) -> tuple[Path, Path]:
    """A model's folder and its GGUF file, random."""
    config = MODELS[name]
    tokenizer = train(
        (world.document("train", i) for i in range(4_000)), config.vocab_size, LanBotFormat.special_tokens
    )
    model = Transformer(config, torch.float32)
    init_weights(model, torch.Generator().manual_seed(0))
    save_model(model, folder / name)
    LanBotFormat(tokenizer).save(folder / name)
    kind = "bf16" if Runtime.single().dtype is torch.bfloat16 else "f32"  # as ours computes
    written = exporting.export(Source.of_folder(folder / name), "gguf", kind, folder / f"{name}-gguf")
    return folder / name, next(written.glob("*.gguf"))


@contextmanager
def ours(folder: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "lanbot", "serve", str(folder), "--port", "0", "--quiet"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=_env())
    assert process.stderr
    line = process.stderr.readline()
    try:
        yield int(re.findall(r":(\d+)", line)[0])
    finally:
        process.kill()
        process.wait()


@contextmanager
def cyllamas(gguf: Path, port: int = 18_080) -> Iterator[int]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(gguf), str(port)], stdout=quiet, stderr=quiet, env=_env()
    )
    try:
        for _ in range(300):
            try:
                urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=1).read()
                break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def _env() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "LANBOT_API_KEY": ""}


async def ask(port: int, body: dict[str, Any], into: Measured) -> None:
    """One question, by hand: a client's library would cost more than the server does."""
    sent = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(sent)}\r\nConnection: close\r\n\r\n"
    began = last = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + sent)
    heard, begun = b"", False
    while chunk := await reader.read(1 << 16):
        heard += chunk
        if b'"content":"' not in chunk.replace(b'"content":""', b""):
            continue
        now = time.perf_counter()
        (into.between if begun else into.first).append(now - last if begun else now - began)
        last, begun = now, True
    writer.close()
    assert heard.startswith(b"HTTP/1.1 200"), heard[:500]
    into.tokens += int(heard.rpartition(b'"completion_tokens":')[2].partition(b",")[0])


async def load(port: int, clients: int, questions: int, stream: bool, seed: int) -> Measured:
    measured = Measured()
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}

    async def client(number: int) -> None:
        for i in range(questions):
            text = world.document("train", seed + 100 * number + i)[:90]
            message = {"role": "user", "content": text}
            await ask(
                port,
                {"model": NAME, "messages": [message], "max_tokens": NEW, "temperature": 0.0, **options},
                measured,
            )

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    measured.seconds = time.perf_counter() - began
    return measured


NAME = ""


def main() -> None:
    global NAME
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("demo", "depth-4"), default=("demo", "depth-4"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    results: dict[str, Any] = {}
    for name in asked.models:
        NAME = name
        with tempfile.TemporaryDirectory() as made:
            folder, gguf = make_models(name, Path(made))
            with ours(folder) as port, cyllamas(gguf) as other:
                results[name] = measure(name, port, other, asked.repeats)
    if asked.json:
        print(json.dumps(results))


def measure(name: str, port: int, other: int, repeats: int) -> dict[str, Any]:
    found: dict[int, list[tuple[Measured, float]]] = {clients: [] for clients in CLIENTS}
    for repeat in range(repeats + 1):  # the first one warms up
        for clients, questions in CLIENTS.items():
            seed = 10_000 * repeat
            mine = asyncio.run(load(port, clients, questions, True, seed))
            theirs = asyncio.run(load(other, clients, max(1, questions // 2), False, seed))
            say(f"{name}, {clients} clients: {mine.rate:,.0f} tokens/s, cyllama's {theirs.rate:,.0f}")
            if repeat:
                found[clients].append((mine, theirs.rate))
    rows, kept = [], {}
    for clients, runs in found.items():
        best = max((mine for mine, _ in runs), key=lambda one: one.rate)
        theirs_best = max(rate for _, rate in runs)
        p50, p99 = (_share(best.between, share) for share in (0.5, 0.99))
        kept[str(clients)] = {
            "tokens_s": best.rate, "first_ms": 1e3 * statistics.median(best.first), "p50_ms": 1e3 * p50,
            "p99_ms": 1e3 * p99, "p99_over_p50": p99 / p50, "cyllama_tokens_s": theirs_best,
        }  # fmt: skip
        figures: list[Callable[[dict[str, float]], str]] = [
            lambda one: f"{one['tokens_s']:,.0f}",
            lambda one: f"{one['first_ms']:.0f} ms",
            lambda one: f"{one['p50_ms']:.1f} ms",
            lambda one: f"{one['p99_ms']:.1f} ms",
            lambda one: f"{one['p99_over_p50']:.1f}",
            lambda one: f"{one['cyllama_tokens_s']:,.0f}",
        ]
        rows.append((clients, *(figure(kept[str(clients)]) for figure in figures)))
    gain = kept["64"]["tokens_s"] / kept["1"]["tokens_s"]
    print(table(rows, (f"{name}: clients", "tokens/s", "first token", "between p50", "p99", "p99/p50", "cyllama's")))
    say(f"{name}: 64 clients get {gain:.1f} times the tokens/s of one")
    return {"clients": kept, "gain": gain}


def _share(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


if __name__ == "__main__":
    main()
