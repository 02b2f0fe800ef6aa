"""Training a vocabulary on text with very many distinct words: time and peak memory of the whole process.

    python benchmarks/tokenizer_scale.py [--chars 2000000000] [--distinct 20000000] [--vocab 65536]
        [--rustbpe] [--json]
    python benchmarks/tokenizer_scale.py --encode FOLDER [FOLDER ...] [--chars 4000000] [--json]

The text is generated while it is read: made-up words of one to four syllables whose frequencies follow Zipf's law,
interspersed with all words in turn, so that each occurs. --rustbpe: rustbpe alone, which keeps every word, for
comparison. --encode: how fast the tokenizers of these folders encode the built-in world's text on one core, by the
`tokenizers` library (or tiktoken) and by fastokens, and whether the ids are the same.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import rustbpe

from lanbot.core.console import duration, size, table, track
from lanbot.synthetic import world
from lanbot.tokenizers import load_tokenizer
from lanbot.tokenizers.bpe import LLAMA3_PATTERN
from lanbot.tokenizers.bpe_training import train

SYLLABLES = np.array([list((c + v).encode()) for c in "bcdfghjklmnprstvwxyz" for v in "aeiou"], dtype=np.uint8)
LONGEST = 4
WORDS_A_TEXT = 15_000
STRIDE = 7_368_787
"""A prime, so that steps of it visit all words before one repeats."""


def spell(words: np.ndarray) -> str:
    """Words by rank, the most frequent one syllable long, each preceded by a space."""
    letters = np.zeros((len(words), 1 + 2 * LONGEST), dtype=np.uint8)
    letters[:, 0] = ord(" ")
    left = words
    for k in range(LONGEST):
        some = left >= 0
        letters[some, 1 + 2 * k : 3 + 2 * k] = SYLLABLES[left[some] % len(SYLLABLES)]
        left = np.where(some, left // len(SYLLABLES) - 1, -1)
    return letters[letters > 0].tobytes().decode()


def zipf(chars: int, distinct: int) -> Iterator[str]:
    """Texts of `chars` characters in all; the word of rank r is drawn with a probability near 1 / (r ln distinct)."""
    rng = np.random.default_rng(0)
    every, turn = max(1, chars // (7 * distinct)), 0  # a word takes between 6 and 7 characters
    while chars > 0:
        words = np.exp(rng.random(WORDS_A_TEXT) * np.log(distinct)).astype(np.int64) - 1
        in_turn = turn + np.arange(len(words[::every]))
        words[::every], turn = in_turn * STRIDE % distinct, turn + len(in_turn)
        text = spell(words)[:chars]
        chars -= len(text)
        yield text


def encoded(folders: list[Path], chars: int, as_json: bool) -> None:
    """MB/s of each folder's tokenizer."""
    texts, left = [], chars
    for i in count():
        texts.append(world.document("train", i)[:left])
        left -= len(texts[-1])
        if left <= 0:
            break
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    rows = []
    for folder in folders:
        tokenizer = load_tokenizer(folder)
        tokenizer.encode_array("")  # fastokens is set up in the first call
        began = time.perf_counter()
        plain = [tokenizer.encode(text) for text in texts]
        middle = time.perf_counter()
        fast = [tokenizer.encode_array(text).tolist() for text in texts]
        seconds = middle - began, time.perf_counter() - middle
        rows.append((folder.name, tokenizer.vocab_size, *(megabytes / s for s in seconds), plain == fast))
    shown = [(name, f"{vocab:,}", f"{a:.2f}", f"{b:.2f}", "yes" if same else "NO") for name, vocab, a, b, same in rows]
    print(table(shown, ("tokenizer", "ids", "encode MB/s", "encode_array MB/s", "same ids"), left=1))
    if as_json:
        print(json.dumps({name: {"encode": a, "encode_array": b, "same": same} for name, _, a, b, same in rows}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encode", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--chars", type=int)
    parser.add_argument("--distinct", type=int, default=20_000_000)
    parser.add_argument("--vocab", type=int, default=65_536)
    parser.add_argument("--rustbpe", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.encode:
        encoded(arguments.encode, arguments.chars or 4_000_000, arguments.json)
        return
    chars, distinct = arguments.chars or 2_000_000_000, arguments.distinct
    texts = track(zipf(chars, distinct), "reading", chars, "chars", len)
    began = time.perf_counter()
    if arguments.rustbpe:
        rustbpe.Tokenizer().train_from_iterator(texts, arguments.vocab, pattern=LLAMA3_PATTERN)
    else:
        train(texts, arguments.vocab, ())
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1_024)
    row = (f"{chars:,}", f"{distinct:,}", duration(seconds), f"{chars / seconds / 1e6:.1f}", size(peak))
    print(table([row], ("characters", "distinct words", "time", "million characters/s", "peak memory"), left=0))
    if arguments.json:
        print(json.dumps({"chars": chars, "distinct": distinct, "seconds": seconds, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
