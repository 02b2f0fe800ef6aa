"""Batches from another process: the same ones in the same order, and errors of the process."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.config import recipe_file
from lanbot.core.errors import UserError
from lanbot.data.corpus import Corpus
from lanbot.data.file_formats import Chunk
from lanbot.data.loader import ChatLoader, Loader, TextLoader
from lanbot.data.packing import Batch, make_batch
from lanbot.data.prefetch import PrefetchLoader, prefetched
from lanbot.phases.loaders import base_loader, chat_loader
from lanbot.tokenizers.bpe import BPETokenizer


class Scripted:
    """A loader of three batches, in which things go wrong on demand."""

    def __init__(self, wrong: str = "", error: Exception | None = None) -> None:
        self.step, self.wrong, self.error = 0, wrong, error
        self._go("making")

    def _go(self, where: str) -> None:
        if self.wrong == where:
            if self.error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                raise self.error

    def next_batch(self) -> Batch | None:
        print("a library prints")
        if self.step == 3:
            return None
        if self.step == 1:
            self._go("second batch")
        self.step += 1
        return make_batch(np.full((2, 9), self.step), np.ones((2, 9), np.float32), 0)

    def progress(self) -> float:
        return self.step / 3

    def state(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state(self, state: dict[str, Any]) -> None:
        self._go("resuming")
        self.step = state["step"]

    def notes(self) -> dict[str, int]:
        return {"steps": self.step, "torch": int("torch" in sys.modules)}


def standing(loader: Loader) -> tuple[Any, ...]:
    return json.dumps(loader.state()), loader.progress(), loader.notes()


def same(one: Batch | None, other: Batch | None) -> bool:
    if one is None or other is None:
        return one is other
    return all(np.array_equal(getattr(one, k), getattr(other, k)) for k in ("ids", "targets", "weights", "documents"))


@pytest.fixture(scope="module", params=["base", "mid"])
def make(request: pytest.FixtureRequest, chat_format: ChatFormat, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("tokenizer")
    chat_format.save(folder)
    recipe = recipe_file.load("smoke", {"base.tokens": "6144", "base.batch_tokens": "1024"}).resolve()
    if request.param == "base":
        return partial(base_loader, recipe, folder)
    return partial(chat_loader, recipe, "mid", folder, True)


def test_the_loaders_of_the_phases_give_the_same_from_another_process(make) -> None:  # type: ignore[no-untyped-def]
    expected = make()
    assert isinstance(expected, TextLoader | ChatLoader)
    with prefetched(make, ahead=True) as loader:
        for _ in range(4):
            assert standing(loader) == standing(expected)
            assert same(loader.next_batch(), expected.next_batch())
        kept = json.loads(json.dumps(loader.state()))
    with prefetched(make, ahead=True) as again:
        again.load_state(kept)
        assert standing(again) == standing(expected)
        while (batch := expected.next_batch()) is not None:
            assert same(again.next_batch(), batch)
            assert standing(again) == standing(expected)
        assert again.next_batch() is None
        assert again.next_batch() is None
        again.load_state(kept)  # also after it has run ahead
        assert json.loads(json.dumps(again.state())) == kept
        assert again.next_batch() is not None


def test_without_another_process_it_is_the_loader_itself() -> None:
    with prefetched(Scripted, ahead=False) as loader:
        assert isinstance(loader, Scripted)


def test_the_process_needs_no_torch_and_may_print() -> None:
    with prefetched(Scripted, ahead=True) as loader:
        assert [loader.next_batch() is None for _ in range(4)] == [False, False, False, True]
        assert loader.notes() == {"steps": 3, "torch": 0}
        assert loader.next_batch() is None


def take_all(loader: Loader) -> None:
    loader.load_state({"step": 0})
    while loader.next_batch() is not None:
        pass


@pytest.mark.parametrize("wrong", ["making", "resuming", "second batch"])
def test_a_user_error_is_raised_unchanged(wrong: str) -> None:
    make = partial(Scripted, wrong, UserError("a.jsonl: broken", "Mend it."))
    with prefetched(make, ahead=True) as loader, pytest.raises(UserError) as raised:
        take_all(loader)
    assert (raised.value.problem, raised.value.remedy) == ("a.jsonl: broken", "Mend it.")
    assert str(raised.value) == "a.jsonl: broken\nMend it."
    assert wrong != "second batch" or loader.progress() == 1 / 3, "what came before the error is given"


def test_another_error_comes_with_its_traceback() -> None:
    make = partial(Scripted, "making", KeyError("x"))
    with prefetched(make, ahead=True) as loader, pytest.raises(KeyError) as raised:
        take_all(loader)
    assert "in _go" in "".join(raised.value.__notes__)


@pytest.mark.parametrize("wrong", ["making", "second batch"])
def test_a_killed_process_is_reported(wrong: str) -> None:
    with prefetched(partial(Scripted, wrong), ahead=True) as loader, pytest.raises(UserError, match=r"exit code -9"):
        take_all(loader)


def test_the_process_ignores_the_terminals_signals_and_ends_when_closed() -> None:
    loader = PrefetchLoader(Scripted)
    assert os.getsid(loader.process.pid) != os.getsid(0)
    assert loader.next_batch() is not None
    loader.close()
    assert loader.process.returncode is not None


ENDLESS = """
import sys, time
sys.path[:] = {path!r}
from test_prefetch import endless
from lanbot.data.prefetch import PrefetchLoader
loader = PrefetchLoader(endless)
if {taken}:
    loader.next_batch()
print(loader.process.pid, flush=True)
time.sleep(600)
"""


def endless() -> TextLoader:
    tokens = BPETokenizer({bytes([i]): i for i in range(256)}, r"\w+|\W+", LanBotFormat.special_tokens)
    chat_format = LanBotFormat(tokens)
    return TextLoader(
        Corpus([("x", lambda start: iter([Chunk(["text " * 100] * 9)][start:]))], 0), chat_format, 64, 512, 10**9
    )


@pytest.mark.parametrize("taken", [False, True])
def test_it_ends_when_the_trainer_is_killed(taken: bool) -> None:
    path = [str(Path(__file__).parent), *sys.path]
    trainer = subprocess.Popen(
        [sys.executable, "-c", ENDLESS.format(path=path, taken=taken)], stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    with trainer:
        process = int(trainer.stdout.readline())
        assert alive(process)
        trainer.kill()
    for _ in range(600):
        if not alive(process):
            return
        time.sleep(0.1)
    os.kill(process, signal.SIGKILL)
    pytest.fail("it has outlived the trainer")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
