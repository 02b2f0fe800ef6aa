"""How fast the built-in world writes, in MB/s on one core, by kind of text. The promise is 5 MB/s for base's documents.

python benchmarks/world_speed.py [--json]
"""

import json
import sys
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
    """(MB/s, bytes a text), after a warm-up."""
    for i in range(200):
        make(i)
    began, size, texts = time.perf_counter(), 0, 0
    while time.perf_counter() - began < seconds:
        size += len(make(1_000 + texts).encode())
        texts += 1
    return size / (time.perf_counter() - began) / 1e6, size / texts


if __name__ == "__main__":
    results = {kind: rate(make) for kind, make in KINDS.items()}
    print(
        table(
            [(kind, f"{speed:.1f}", f"{size:.0f}") for kind, (speed, size) in results.items()],
            ("text", "MB/s", "bytes each"),
        )
    )
    if "--json" in sys.argv:
        print(json.dumps({kind: round(speed, 2) for kind, (speed, _) in results.items()}))
