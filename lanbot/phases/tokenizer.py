"""The tokenizer phase: trains the vocabulary."""

import json
import time
from collections.abc import Iterator

from lanbot.chat.formats import get_format, special_tokens
from lanbot.config.recipe import TokenizerSettings
from lanbot.config.run import Run
from lanbot.core.console import say, table, track
from lanbot.core.files import unwritable, write_atomic
from lanbot.data.corpus import Corpus, open_corpus
from lanbot.distributed.runtime import Runtime
from lanbot.phases.phase import Phase
from lanbot.synthetic import world
from lanbot.tokenizers import load_tokenizer
from lanbot.tokenizers.base import Tokenizer
from lanbot.tokenizers.bpe_training import train as train_bpe

NUMBERS = "In 2024 it cost $1,299.99, 17% more than the 1,110 of 1999; 3.14159 x 2**10 = 3216.98816."
CODE = """def mean(values: list[float]) -> float:
    if not values:
        raise ValueError("no values")
    return sum(values) / len(values)
"""
OTHER = "Ä naïve façade in Zürich. Это предложение по-русски. 这是一个中文句子。 これは日本語の文です。 👩‍🚀🚀"


class TokenizerPhase(Phase):
    """Trains the vocabulary on rank 0 while the others wait, unless `lanbot prepare` has done so."""

    name = "tokenizer"
    Settings = TokenizerSettings
    needs = ("corpus",)
    makes = "tokenizer"
    made_by = ("seed", "tokenizer", "base.data", "base.data_column")

    def train(self, run: Run, runtime: Runtime) -> None:
        if runtime.main and not (run.phase(self.name) / "tokenizer.json").is_file():
            train(run)
        runtime.barrier()

    def evaluate(self, run: Run, runtime: Runtime, began: float | None = None) -> None:
        if runtime.main:
            measure(run)
            times = {} if began is None else {"wall_seconds": round(time.monotonic() - began, 2)}
            write_atomic(run.phase(self.name) / "evals.json", json.dumps(times) + "\n")
        runtime.barrier()


def train(run: Run) -> None:
    """Trains the vocabulary on the base corpus and saves it."""
    settings, phase = run.recipe.tokenizer, run.phase("tokenizer")
    corpus, _ = corpora(run)
    texts = track(_first(corpus, settings.max_chars), "tokenizer: reading", settings.max_chars, "chars", len)
    chat_format = get_format(settings.chat_format)
    special = special_tokens(chat_format, settings.tool_tokens)
    trained = train_bpe(texts, settings.vocab_size, special, settings.bare_words)
    say(f"tokenizer done | {trained.vocab_size:,} tokens")
    try:
        chat_format(trained).with_default(run.recipe.identity.system_message).save(phase)
    except OSError as error:
        raise unwritable(phase, error) from None


def measure(run: Run) -> None:
    """Prints bytes per token for several kinds of text, and writes compression.json."""
    phase = run.phase("tokenizer")
    rows = compression(load_tokenizer(phase), corpora(run)[1])
    say(table([(kind, f"{n:,}", f"{ratio:.2f}") for kind, n, ratio in rows], ("text", "bytes", "bytes/token")))
    result = [{"text": kind, "bytes": n, "bytes_per_token": round(ratio, 4)} for kind, n, ratio in rows]
    write_atomic(phase / "compression.json", json.dumps(result, indent=1) + "\n")


def corpora(run: Run) -> tuple[Corpus, Corpus]:
    """(train, validation) text of a run."""
    base = run.recipe.base
    return open_corpus(base.data, run.recipe.seed, base.skip_bad_rows, run.options, base.data_column)


def compression(tokenizer: Tokenizer, validation: Corpus) -> list[tuple[str, int, float]]:
    """(kind of text, its bytes, bytes per token) for held-out text and for other kinds of text."""
    kinds = {
        "held-out corpus": "\n".join(_first(validation, 200_000)),
        "built-in world": "\n".join(world.document("test", i) for i in range(50)),
        "code": CODE,
        "numbers": NUMBERS,
        "other languages": OTHER,
    }
    sizes = {kind: len(text.encode()) for kind, text in kinds.items()}
    return [(kind, sizes[kind], sizes[kind] / len(tokenizer.encode(text))) for kind, text in kinds.items()]


def _first(corpus: Corpus, chars: int) -> Iterator[str]:
    """The first texts of a corpus, `chars` characters in all; the last one is truncated."""
    for text in corpus.once():
        yield text[:chars]
        chars -= len(text)
        if chars <= 0:
            return
