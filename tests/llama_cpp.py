"""llama.cpp itself (the package cyllama), asked in a process of its own: it aborts where others raise.

results = ask(gguf, tokenize=[...], greedy=[...])     `python tests/llama_cpp.py` is the other end
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

needs_llama_cpp = pytest.mark.skipif(find_spec("cyllama") is None, reason="cyllama is not installed")


def ask(gguf: Path, **jobs: Any) -> dict[str, Any]:
    """What llama.cpp makes of a file, by job. Its own abort fails the test.

    tokenize: texts; plain text without bos. parse: texts in which special tokens are read. greedy: lists of ids, each
    continued by 64 tokens: {"ids", "gaps": best logit minus second}. logits: lists of ids; the last token's logits.
    render: lists of messages, by the file's chat template, with the start of an answer. meta: keys.
    """
    given = json.dumps({"gguf": str(gguf), **jobs})
    done = subprocess.run([sys.executable, __file__], input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"llama.cpp ended with {done.returncode}: {done.stderr[:2000]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


class _Model:
    def __init__(self, path: str) -> None:
        from cyllama import LLM
        from cyllama.llama import llama_cpp

        class Sized(llama_cpp.LlamaModel):  # get_logits asks for what LlamaModel lacks
            n_vocab = property(lambda model: model.get_vocab().n_vocab)

        self.library, self.llm = llama_cpp, LLM(path)
        self.model = Sized(path, llama_cpp.LlamaModelParams())
        self.vocab = self.model.get_vocab()
        params = llama_cpp.LlamaContextParams()
        params.n_ctx = params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = 0  # keys and values in fp32
        params.flash_attn_type = 0
        self.context = llama_cpp.LlamaContext(self.model, params)

    def tokenize(self, text: str) -> list[int]:
        return list(self.vocab.tokenize(text, False, False)) if text else []

    def parse(self, text: str) -> list[int]:
        return list(self.vocab.tokenize(text, False, True)) if text else []

    def logits(self, ids: list[int]) -> list[float]:
        self.context.kv_cache_clear()
        return self._feed(ids, 0)

    def greedy(self, ids: list[int]) -> dict[str, list[Any]]:
        self.context.kv_cache_clear()
        logits, new, gaps = self._feed(ids, 0), [], []
        while len(new) < 64:
            first, second = sorted(logits)[:-3:-1]
            gaps.append(first - second)
            new.append(logits.index(first))
            logits = self._feed([new[-1]], len(ids) + len(new) - 1)
        return {"ids": new, "gaps": gaps}

    def _feed(self, ids: list[int], position: int) -> list[float]:
        self.context.decode(self.library.llama_batch_get_one(ids, position))
        return list(self.context.get_logits())

    def render(self, messages: list[dict[str, str]]) -> str:
        return str(self.llm._apply_jinja_template(messages, True))

    def meta(self, key: str) -> str:
        return str(self.model.meta_val_str(key))


def main() -> None:
    jobs = json.load(sys.stdin)
    model = _Model(jobs.pop("gguf"))
    print("\n" + json.dumps({job: [getattr(model, job)(item) for item in items] for job, items in jobs.items()}))


if __name__ == "__main__":
    main()
