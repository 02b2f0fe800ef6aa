"""lanbot serve as a process: what it says, what others see of it, and how it ends."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.models.weights import save_model
from lanbot.tokenizers.bpe import BPETokenizer


@pytest.fixture
def folder(make_model, tmp_path: Path) -> Path:
    tokenizer = BPETokenizer.of_bytes(LanBotFormat.special_tokens)
    folder = tmp_path / "little"
    save_model(make_model(vocab_size=tokenizer.vocab_size, context=8_192), folder)
    LanBotFormat(tokenizer).save(folder)
    return folder


@pytest.fixture
def process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "lanbot", "serve", str(folder), "--port", "0"]
    env = {**os.environ, "LANBOT_API_KEY": "the-key", "OMP_NUM_THREADS": "1"}
    made = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    yield made
    made.kill()
    made.wait()


def test_sigterm_lets_answers_end_and_takes_no_more(process) -> None:
    line = process.stderr.readline()
    found = re.fullmatch(r"little at (http://127\.0\.0\.1:\d+) \(with key\)\n", line)
    assert found, line
    url = found[1]
    seen = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert b"the-key" not in seen
    headers = {"Authorization": "Bearer the-key"}
    body = {"model": "little", "prompt": "x", "max_tokens": 1_500, "stream": True, "temperature": 0.0, "top_k": 1}
    text, reasons = "", []
    with httpx2.stream("POST", f"{url}/v1/completions", json=body, headers=headers, timeout=60) as answer:
        for line in answer.iter_lines():
            if not text:
                process.send_signal(signal.SIGTERM)
            text += line
            reasons += re.findall(r'"finish_reason":"(\w+)"', line)
    assert text.endswith("data: [DONE]") and reasons in (["length"], ["stop"])
    assert process.wait(timeout=30) == 143
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/health")
    log = process.stderr.read()
    assert "POST /v1/completions 200" in log and "Traceback" not in log and "the-key" not in log


def test_ctrl_c_twice_ends_it_at_once(process) -> None:
    url = process.stderr.readline().split()[2].removesuffix("/v1")
    body = {"model": "little", "prompt": "x", "max_tokens": 8_000, "stream": True, "n": 8}
    headers = {"Authorization": "Bearer the-key"}

    def ask() -> None:
        with suppress(httpx2.HTTPError):
            httpx2.post(f"{url}/v1/completions", json=body, headers=headers, timeout=60)

    threading.Thread(target=ask, daemon=True).start()
    while process.stderr.readable() and not httpx2.get(f"{url}/metrics", headers=headers).text.count("running 1"):
        pass
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
