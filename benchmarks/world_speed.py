"""Speed of the built-in world in MB/s on one core, by kind of text. The target is 5 MB/s for base's documents.

python benchmarks/world_speed.py [--json]
"""

import argparse
import json
import time
from collections.abc import Callable

from lanbot.core.console import table
from lanbot.synthetic import world
from lanbot.synthetic.world.documents import plain

KINDS: dict[str, Callable[[int], str]] = {
    "documents": lambda i: world.document("train", i),
    "word problems": lambda i: plain(world.problem_chat("train", i)),
    "identity": lambda i: plain(world.identity_chat("Robi", "Ada", "cheerful", "train", i)[0]),
    "talk": lambda i: plain(world.talk("train", i)),
    "errands": lambda i: plain(world.errand_chat("train", i)),
}


def rate(make: Callable[[int], str], seconds: float = 2.0) -> tuple[float, float]:
    """(MB/s, bytes per text), after a warm-up."""
    for i in range(200):
        make(i)
    began, size, texts = time.perf_counter(), 0, 0
    while time.perf_counter() - began < seconds:
        size += len(make(1_000 + texts).encode())
        texts += 1
    return size / (time.perf_counter() - began) / 1e6, size / texts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {kind: rate(make) for kind, make in KINDS.items()}
    print(
        table(
            [(kind, f"{speed:.1f}", f"{size:.0f}") for kind, (speed, size) in results.items()],
            ("text", "MB/s", "bytes each"),
        )
    )
    if arguments.json:
        print(json.dumps({kind: round(speed, 2) for kind, (speed, _) in results.items()}))
