"""Speed and variety of the offline identity data, and the similarity of its two most similar conversations.

python benchmarks/identity.py [RECIPE] [--json]

For 2,000 and 10,000 conversations of a recipe (default: demo), generated and filtered on one core.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lanbot.chat.messages import Conversation, parts
from lanbot.config import recipe_file
from lanbot.core.console import table
from lanbot.synthetic import world
from lanbot.synthetic.identity import offline, variety

COUNTS = (2_000, 10_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="demo")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    who = recipe_file.load(Path(arguments.recipe)).identity
    small = (who.name, who.creator, who.personality)
    sets: list[tuple[str, Callable[[], list[Conversation]]]] = [
        *((f"offline, {n:,}", partial(lambda n: list(offline.conversations(who, n, 0)), n)) for n in COUNTS),
        ("builtin, 2,000", lambda: [world.identity_chat(*small, "train", i)[0] for i in range(2_000)]),
    ]
    rows, results = [], {}
    for name, make in sets:
        start = time.perf_counter()
        made = make()
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        found = variety.stats(made)
        checked = time.perf_counter() - start
        calls = sum(part["type"] == "python" for row in made for message in row["messages"] for part in parts(message))
        results[name] = found | {"seconds": seconds, "seconds_checked": checked, "calls": calls}
        rows.append(
            (
                name,
                f"{seconds:.1f}",
                f"{checked:.1f}",
                *(f"{found[f'distinct_{n}']:.3f}" for n in (1, 2, 3, 4)),
                f"{found['closest_pair'][0]:.2f}",
                f"{found['turns'] / found['count']:.2f}",
                f"{found['words_per_answer']:.1f}",
                f"{found['multi_turn_share']:.0%}",
                f"{calls:,}",
            )
        )
    header = ("set", "made s", "checked s", "1-grams", "2-grams", "3-grams", "4-grams", "closest", "turns", "words")
    print(table(rows, (*header, "multi", "calls")))
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
