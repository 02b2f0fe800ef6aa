"""The demo over several seeds: mean and spread of every score.

for s in 0 1 2; do lanbot run demo --seed $s --name demo-$s; done
python benchmarks/demo_seeds.py demo-0 demo-1 demo-2 [--json]

What RL is worth in these runs: benchmarks/rl_gain.py.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

from lanbot.config.run import Run
from lanbot.core.console import table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    folders = [Run.open(name).folder for name in asked.runs]
    reports = [json.loads((Path(folder) / "report.json").read_text(encoding="utf-8")) for folder in folders]
    rows, found = [], []
    for task, by_phase in reports[0]["evals"].items():
        for phase in by_phase:
            scores = [report["evals"][task][phase]["score"] for report in reports]
            spread = f"{stdev(scores):.3f}" if len(scores) > 1 else ""
            rows.append((task, phase, f"{mean(scores):.3f}", spread, *(f"{score:.3f}" for score in scores)))
            found.append({"task": task, "phase": phase, "scores": scores})
    print(table(rows, ("task", "phase", "mean", "spread", *asked.runs), left=2))
    if asked.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
