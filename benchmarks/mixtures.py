"""How fast conversations become batches, and how soon a phase with all of them begins.

    python benchmarks/mixtures.py --mirror DIR [--json]

rate: GSM8K, ARC, MMLU and all chats of the mirror, rendered and packed into rows of 2,048, after the first tenth. A
vocabulary of 65,536 is trained on the mirror's text.
start: mid of the d20 recipe, in a process of its own, from nothing to its first batch, with the peak of its memory. The
mirror is blown up to the data sets' full sizes first: its rows again and again, each with a number in its text.
"""

import argparse
import gzip
import json
import os
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


def rate(parts: tuple[MixturePart, ...], folder: Path) -> dict[str, float]:
    recipe = recipe_file.load("d20")
    loader = chat_loader(
        replace(recipe, mid=replace(recipe.mid, mixture=parts, batch_tokens=16_384)), "mid", folder, True
    )
    tokens, began, seconds = 0, 0.0, 0.0
    while (batch := loader.next_batch()) is not None:
        if loader.progress() > 0.1:
            began = began or time.perf_counter()
            tokens += int((batch.ids != loader.bos).sum())
            seconds = time.perf_counter() - began
    return {"tokens": tokens, "tokens/s": tokens / seconds}


def blow_up(mirror: Path, to: Path) -> None:
    """A mirror with as many rows as the data sets really have."""
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


def start(folder: Path) -> None:
    began = time.perf_counter()
    loader = chat_loader(recipe_file.load("d20"), "mid", folder, True)
    assert loader.next_batch() is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"rows": len(loader.conversations), "seconds": time.perf_counter() - began, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["LANBOT_MIRROR"] = str(arguments.mirror)
    if arguments.start:
        start(arguments.start)
        return
    result: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "tokenizer"
        say("training a vocabulary of 65,536")
        chat_format, (corpus, _) = get_format(DEFAULT), open_corpus("hf:HuggingFaceFW/fineweb-edu", 0)
        chat_format(train(islice(corpus.once(), 20_000), 65_536, chat_format.special_tokens)).save(folder)
        for name, parts in {**PARTS, "all": sum(PARTS.values(), ())}.items():
            result[name] = rate(parts, folder)
        print(table([(n, f"{r['tokens']:,}", f"{r['tokens/s']:,.0f}") for n, r in result.items()],
                    ("rendered and packed", "tokens", "tokens/s")))  # fmt: skip
        say("\nblowing the mirror up to full size")
        blow_up(arguments.mirror.resolve(), full := Path(scratch) / "mirror")
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
