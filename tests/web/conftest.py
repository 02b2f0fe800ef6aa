"""Servers in threads, over engines whose model says what a test's script says."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import browser  # noqa: F401  (a fixture)
from pages import SCRIPT
from servers import servers

from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.formats.chatml import Qwen3Format, Qwen25Format
from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.chat.formats.llama3 import Llama3Format
from lanbot.inference.engine import Engine
from lanbot.inference.request import Request
from lanbot.models.transformer import Transformer
from lanbot.tokenizers.bpe import BPETokenizer
from lanbot.web.app import make_app
from lanbot.web.security import Access
from lanbot.web.served import Models, Served

KINDS: tuple[type[ChatFormat], ...] = (LanBotFormat, Qwen25Format, Qwen3Format, Llama3Format)
FORMATS = {kind.name: kind for kind in KINDS}


class Scripted(Engine):
    """script: what is said after a prompt that ends with a question, special tokens by their names; what the model
    chooses after any other prompt is its own.

    seconds: how long a step takes at least.
    """

    script: Mapping[str, Sequence[str]] = {}
    seconds = 0.0
    steps = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._scripts: dict[Request, list[int] | None] = {}

    def step(self) -> list[Request]:
        self.steps += 1
        time.sleep(self.seconds)
        return super().step()

    def _logits(self, ids_and_positions: torch.Tensor, longest: int, ready: list[int]) -> torch.Tensor:
        logits = super()._logits(ids_and_positions, longest, ready)
        for row, i in enumerate(ready):
            request = self.live[i]
            words = self._script_of(request)
            said = sum(request.completion.sampled)
            if words is not None and said < len(words):
                logits[row, words[said]] = 1e4
        return logits

    def _script_of(self, request: Request) -> list[int] | None:
        tokenizer = self.chat_format.tokenizer
        if request in self._scripts:
            return self._scripts[request]
        asked = re.split(r"<\|user_start\|>|<\|im_start\|>user|>user<", tokenizer.decode(request.completion.prompt))[-1]
        self._scripts[request] = None
        for question, pieces in self.script.items():
            if question in asked:
                made: list[int] = []
                for piece in pieces:
                    special = tokenizer.special.get(piece)
                    made += tokenizer.encode(piece) if special is None else [special]
                self._scripts[request] = [*made, self.chat_format.end_of_turn]
        return self._scripts[request]


MakeEngine = Callable[..., Scripted]
Serve = Callable[..., str]
OpenPage = Callable[..., Any]


@pytest.fixture
def make_engine(make_model: Callable[..., Transformer]) -> MakeEngine:
    def make(script: Mapping[str, Sequence[str]] | None = None, form: str = "lanbot", context: int = 512) -> Scripted:
        kind = FORMATS[form]
        tokenizer = BPETokenizer.of_bytes(kind.special_tokens)
        engine = Scripted(make_model(vocab_size=tokenizer.vocab_size, context=context), kind(tokenizer))
        engine.script = script or {}
        return engine

    return make


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(engine, access, **options of make_app) -> the server's address; the model is called `tiny`, if there are no
    other `models`."""
    with servers() as start_app:

        def start(engine: Engine, access: Access = Access(), models: Models | None = None, **options: Any) -> str:  # noqa: B008
            models = models or Models([Served("tiny", lambda: engine, engine.model.config.context)], {"other": "tiny"})
            return start_app(make_app(models, access, **options))

        yield start


@pytest.fixture
def lanbot(tmp_path: Path) -> Callable[..., Any]:
    """lanbot(*arguments, env) runs the command to its end."""

    def run(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lanbot", *arguments]
        given = {**os.environ, **(env or {})}
        return subprocess.run(command, env=given, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    return run


# -- the chat page


@pytest.fixture
def open_page(browser, make_engine, serve) -> Iterator[OpenPage]:  # noqa: F811
    """open_page(access, seconds, width, **of the context) -> the page over a server of four models; fails at the end if
    the page asked another host for anything, or raised an error."""
    contexts, troubles = [], []

    def open_(access: Access = Access(), seconds: float = 0.0, width: int = 1200, url: str = "", **more: Any) -> Any:  # noqa: B008
        if not url:
            engine = make_engine(SCRIPT, context=1024)
            engine.seconds = seconds
            names = ("rl", "sft", "base")
            models = [Served(f"run/{name}", lambda: engine, 1024) for name in names]
            url = serve(engine, access, Models(models, {"run": "run/rl"}))
        context = browser.new_context(viewport={"width": width, "height": 800}, **more)
        context.set_default_timeout(8_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda said: troubles.append(said.text) if "Content Security" in said.text else None)
        page.on("request", lambda sent: troubles.append(sent.url) if not sent.url.startswith((url, "blob:")) else None)
        page.goto(url)
        if not access.keys:
            page.wait_for_selector("[data-ready]", state="attached")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert troubles == []
