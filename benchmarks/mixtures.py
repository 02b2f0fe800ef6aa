"""How fast conversations are rendered and packed, and how long a phase with all of them takes to start.

    python benchmarks/mixtures.py --mirror DIR [--json]

rate: GSM8K, ARC, MMLU and all chats of the mirror, rendered and packed into rows of 2,048, after the first tenth. A
vocabulary of 65,536 is trained on the mirror's text.
start: time until the first batch of mid of the d20 recipe in a separate process, with its peak memory. The mirror is
first enlarged to the data sets' full sizes by repeating its rows, each with a number in its text.
"""

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

from lanbot.chat.formats import DEFAULT, get_format
from lanbot.config import recipe_file
from lanbot.config.recipe import MixturePart
from lanbot.core.console import say, size, table
from lanbot.core.options import Options
from lanbot.data.corpus import open_corpus
from lanbot.phases.loaders import chat_loader
from lanbot.tokenizers.bpe_training import train

PARTS = {
    "gsm8k": (MixturePart("gsm8k"),),
    "arc": (MixturePart("arc_easy"), MixturePart("arc_challenge")),
    "mmlu": (MixturePart("mmlu"),),
    "smoltalk": (MixturePart("smoltalk"),),
}
FULL = {"smoltalk_like/train.jsonl.gz": 460_000, "mmlu/auxiliary_train_partial.jsonl.gz": 100_000}


def rate(parts: tuple[MixturePart, ...], folder: Path, options: Options) -> dict[str, float]:
    recipe = recipe_file.load("d20")
    recipe = replace(recipe, mid=replace(recipe.mid, mixture=parts, batch_tokens=16_384))
    loader = chat_loader(recipe, "mid", folder, True, options)
    tokens, began, seconds = 0, 0.0, 0.0
    while (batch := loader.next_batch()) is not None:
        if loader.progress() > 0.1:
            began = began or time.perf_counter()
            tokens += int((batch.ids != loader.bos).sum())
            seconds = time.perf_counter() - began
    return {"tokens": tokens, "tokens/s": tokens / seconds}


def enlarge(mirror: Path, to: Path) -> None:
    """A mirror with as many rows as the real data sets."""
    for file in mirror.rglob("*"):
        if file.is_file() and str(file.relative_to(mirror)) not in FULL:
            (to / file.relative_to(mirror)).parent.mkdir(parents=True, exist_ok=True)
            (to / file.relative_to(mirror)).symlink_to(file)
    for name, count in FULL.items():
        rows = [line for line in gzip.decompress((mirror / name).read_bytes()).split(b"\n") if line.strip()]
        where = b'"content":"' if b'"content":"' in rows[0] else b'"content": "'
        where = where if "smoltalk" in name else b'"question":"' if b'"question":"' in rows[0] else b'"question": "'
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(to / name, "wb", compresslevel=1) as out:
            for i in range(count):
                out.write(rows[i % len(rows)].replace(where, where + str(i).encode() + b" ", 1) + b"\n")


def start(folder: Path, options: Options) -> None:
    began = time.perf_counter()
    loader = chat_loader(recipe_file.load("d20"), "mid", folder, True, options)
    assert loader.next_batch() is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"rows": len(loader.conversations), "seconds": time.perf_counter() - began, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    options = Options.from_environment(arguments.mirror)
    if arguments.start:
        start(arguments.start, options)
        return
    result: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "tokenizer"
        say("training a vocabulary of 65,536")
        corpus, _ = open_corpus("hf:HuggingFaceFW/fineweb-edu", 0, options=options)
        chat_format = get_format(DEFAULT)
        chat_format(train(islice(corpus.once(), 20_000), 65_536, chat_format.special_tokens)).save(folder)
        for name, parts in {**PARTS, "all": sum(PARTS.values(), ())}.items():
            result[name] = rate(parts, folder, options)
        print(table([(n, f"{r['tokens']:,}", f"{r['tokens/s']:,.0f}") for n, r in result.items()],
                    ("rendered and packed", "tokens", "tokens/s")))  # fmt: skip
        say("\nenlarging the mirror to full size")
        enlarge(arguments.mirror.resolve(), full := Path(scratch) / "mirror")
        command = [sys.executable, __file__, "--mirror", str(full), "--start", str(folder)]
        result["start"] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        s = result["start"]
        print(
            f"\nmid of d20, {s['rows']:,} conversations: first batch after {s['seconds']:.1f} s, peak {size(s['peak'])}"
        )
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
