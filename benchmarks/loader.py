"""Throughput of the data loaders, and how long a trainer waits for them.

    python benchmarks/loader.py --mirror DIR [--json]

Text comes from the mirror (docs/architecture.md); chats are a mixture like d20's: smoltalk, mmlu, gsm8k, spelling.
The vocabularies are trained on the text. tokens/s: what one process tokenizes and packs, in the trainer's process or
ahead of it in another.
encode: megabytes of UTF-8 per second of CPU time through Tokenizer.encode_array, each text once.
wait: the share of the time that a trainer of 6,000 (laptop) or 1.2 million tokens/s (each of 8 ranks prepares every
batch) waits, after its first step. start: seconds until a new loader is ready.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from lanbot.chat.formats import DEFAULT, get_format, load_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.config import recipe_file
from lanbot.config.recipe import MixturePart
from lanbot.core.console import say, table
from lanbot.core.options import Options
from lanbot.data.corpus import open_corpus
from lanbot.data.loader import Loader
from lanbot.data.prefetch import prefetched
from lanbot.phases.loaders import base_loader, chat_loader
from lanbot.tokenizers.bpe_training import train

SECONDS = 6.0
CHATS = (  # in the proportions of 460 : 100 : 8 : 200 : 80 thousand
    MixturePart("smoltalk", rows=20_000, epochs=20),
    MixturePart("mmlu", rows=4_350, epochs=20),
    MixturePart("gsm8k", rows=350, epochs=20),
    MixturePart("simple_spelling", rows=8_700, epochs=20),
    MixturePart("spelling_bee", rows=3_500, epochs=20),
)
SHAPES = {
    "laptop": {"vocab": 8_192, "sequence": 512, "batch": 4_096, "demand": 6_000},
    "d20 on 8 GPUs": {"vocab": 65_536, "sequence": 2_048, "batch": 524_288, "demand": 1_200_000},
}


def encode_rate(chat_format: ChatFormat, texts: list[str]) -> float:
    chat_format.tokenizer.encode_array("")  # fastokens is set up in the first call
    size, began = sum(len(text.encode()) for text in texts), time.process_time()
    for text in texts:
        chat_format.tokenizer.encode_array(text)
    return size / (time.process_time() - began) / 1e6


def rate(loader: Loader, demand: float = float("inf"), seconds: float = SECONDS) -> tuple[float, float]:
    """(tokens a second, share of the time waited), after a first step, batches taken no faster than `demand`."""
    first = loader.next_batch()
    assert first is not None
    time.sleep(first.ids.size / demand)
    tokens, waited, began = 0, 0.0, time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        batch = loader.next_batch()
        assert batch is not None
        waited += time.perf_counter() - now
        tokens += batch.ids.size
        time.sleep(batch.ids.size / demand)
    return tokens / (time.perf_counter() - began), waited / (time.perf_counter() - began)


def measure(shape: dict[str, int], folder: Path, texts: list[str], options: Options) -> dict[str, float]:
    recipe = recipe_file.load(
        "laptop",
        {
            "base.tokens": str(10**12),
            "base.batch_tokens": str(shape["batch"]),
            "model.context": str(shape["sequence"]),
            "tokenizer.vocab_size": str(shape["vocab"]),
        },
    ).resolve()
    make = partial(base_loader, recipe, folder, options)
    result = {"encode": encode_rate(load_format(folder), texts)}
    chats = replace(recipe, mid=replace(recipe.mid, mixture=CHATS))
    result["rate chats"], _ = rate(chat_loader(chats, "mid", folder, False, options))
    result["rate"], _ = rate(make())
    _, result["wait"] = rate(make(), shape["demand"])
    began = time.perf_counter()
    with prefetched(make, ahead=True) as loader:
        loader.progress()
        result["start"] = time.perf_counter() - began
        result["rate ahead"], _ = rate(loader)
    with prefetched(make, ahead=True) as loader:
        _, result["wait ahead"] = rate(loader, shape["demand"])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {}
    options = Options.from_environment(arguments.mirror)
    corpus, _ = open_corpus(recipe_file.load("laptop").base.data, 0, options=options)
    texts = list(islice(corpus.once(), 5_000))
    with tempfile.TemporaryDirectory() as scratch:
        hidden = Path(scratch) / "hidden"
        hidden.mkdir()
        (hidden / "fastokens.py").write_text("raise ImportError\n", encoding="utf-8")
        for name, shape in SHAPES.items():
            folder = Path(scratch) / name
            say(f"training a vocabulary of {shape['vocab']:,}")
            chat_format = get_format(DEFAULT)
            first = islice(corpus.once(), 20_000)
            chat_format(train(first, shape["vocab"], chat_format.special_tokens)).save(folder)
            for encoder in ("fastokens", "tiktoken"):
                if encoder == "tiktoken":
                    sys.path.insert(0, str(hidden))
                    sys.modules.pop("fastokens", None)
                elif getattr(load_format(folder).tokenizer, "_fast", None) is None:
                    say("fastokens is not installed")
                    continue
                say(f"{name}, {encoder}")
                results[f"{name}, {encoder}"] = measure(shape, folder, texts, options)
            sys.path.remove(str(hidden))
            sys.modules.pop("fastokens", None)
    header = ("loader", "encode MB/s", "tokens/s", "wait", "start s", "ahead tokens/s", "ahead wait", "chats tokens/s")
    rows = [
        (
            name,
            f"{r['encode']:.0f}",
            f"{r['rate']:,.0f}",
            f"{r['wait']:.2%}",
            f"{r['start']:.2f}",
            f"{r['rate ahead']:,.0f}",
            f"{r['wait ahead']:.2%}",
            f"{r['rate chats']:,.0f}",
        )
        for name, r in results.items()
    ]
    print(table(rows, header))
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
