"""The demo over several seeds: mean and spread of every score, and what RL is worth against continuing sft.

for s in 0 1 2; do lanbot run demo --seed $s --name demo-$s; done
python benchmarks/demo_seeds.py demo-0 demo-1 demo-2 [--json]

RL is compared with sft continued from the same checkpoint, on sft's mixture, with sft's learning rates, for as many
seconds as RL's steps took, on the same held-out problems. Rows are new, except for spelling, which has no more words.
RL trains on templates without solutions, which sft cannot use, so the table separates the kinds of templates. The
interval is Student's over the seeds.
"""

import argparse
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from lanbot.chat.formats import load_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.config.run import Run
from lanbot.core.console import say, table
from lanbot.data.loader import ChatLoader
from lanbot.data.packing import Batch
from lanbot.distributed.runtime import Runtime
from lanbot.evals.score import Score
from lanbot.evals.task_eval import evaluate
from lanbot.inference.engine import Engine
from lanbot.models import saved
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model
from lanbot.tasks.builtin import WordProblems
from lanbot.tasks.mixture import Mixture
from lanbot.training.trainer import Trainer

RUNTIME = Runtime.single()

STUDENT_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95% quantiles of Student's t for n seeds."""
PROBLEMS = 2_000


class ForSeconds(ChatLoader):
    """A chat loader that ends after a number of seconds; the schedule follows the clock."""

    def __init__(self, *arguments: Any, seconds: float) -> None:
        super().__init__(*arguments)
        self.seconds, self.began = seconds, time.monotonic()

    def progress(self) -> float:
        return min(1.0, (time.monotonic() - self.began) / self.seconds)

    def next_batch(self) -> Batch | None:
        return None if self.progress() >= 1 else super().next_batch()


def problems_right(model: Transformer, chat_format: ChatFormat) -> Score:
    return evaluate(
        Engine(model, chat_format), WordProblems("test"), "word_problems", PROBLEMS, 96, seed=7, runtime=RUNTIME
    )


def compare(run: Run) -> tuple[float, dict[str, Score]]:
    """(RL's seconds, word problems right: after sft, after sft continued for as long, after RL)."""
    settings = run.recipe.sft
    seconds = run.read("rl", "evals.json")["training"]["seconds"]
    sft, rl = (saved.latest(run.phase(phase)) for phase in ("sft", "rl"))
    assert sft and rl and settings.batch_tokens and settings.sequence, "the run is done"
    chat_format, trial = load_format(sft), run.folder / "sft-continued"
    shutil.rmtree(trial, ignore_errors=True)
    state = Trainer(
        load_model(sft, RUNTIME.dtype, RUNTIME.device),
        chat_format,
        replace(settings, checkpoint_every=10**9),
        trial,
        RUNTIME,
        settings.sequence,
    )
    before = problems_right(state.model, chat_format)
    parts = [replace(part, rows=None if part.rows is None else 20 * part.rows) for part in settings.mixture]
    mixture = Mixture(parts, run.recipe.identity, chat_format, run.recipe.seed + 1_000)
    rows = settings.batch_tokens // settings.sequence
    try:
        state.train(ForSeconds(mixture, chat_format.bos, rows, settings.sequence, seconds=seconds))
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    after = {"sft": before, "sft continued": problems_right(state.model, chat_format)}
    return seconds, after | {"rl": problems_right(load_model(rl, RUNTIME.dtype, RUNTIME.device), chat_format)}


def interval(values: list[float]) -> str:
    if len(values) < 2:
        return f"{mean(values):.3f}"
    half = STUDENT_95[len(values)] * stdev(values) / len(values) ** 0.5
    return f"{mean(values):+.3f} ({mean(values) - half:+.3f} to {mean(values) + half:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names = arguments.runs
    if len(names) not in (1, *STUDENT_95):
        sys.exit(f"name 1 to {max(STUDENT_95)} runs")
    runs = [Run.open(name) for name in names]
    reports = [json.loads((Path(run.folder) / "report.json").read_text(encoding="utf-8")) for run in runs]
    rows = []
    for task, by_phase in reports[0]["evals"].items():
        for phase in by_phase:
            scores = [report["evals"][task][phase]["score"] for report in reports]
            spread = f"{stdev(scores):.3f}" if len(scores) > 1 else ""
            rows.append((task, phase, f"{mean(scores):.3f}", spread, *(f"{score:.3f}" for score in scores)))
    print(table(rows, ("task", "phase", "mean", "spread", *names), left=2), end="\n\n")
    shown, removed, above = [], [], []
    for run in runs:
        say(f"{run.folder.name}: sft continued for as long as rl took")
        seconds, after = compare(run)
        for what, score in after.items():
            kinds = (f"{score.parts[f'templates {kind}'].score:.3f}" for kind in ("demonstrated", "practised", "never"))
            shown.append(
                (run.folder.name, what, f"{score.score:.3f}", *kinds, f"{seconds:.0f}" if what != "sft" else "")
            )
        sft, continued, rl = (score.score for score in after.values())
        removed.append((rl - sft) / max(1e-9, 1 - sft))
        above.append(rl - continued)
    header = ("run", "after", "right", "demonstrated", "practised", "never", "seconds")
    print(table(shown, header, left=2), end="\n\n")
    print(f"share of sft's errors that RL removes: {interval(removed)}")
    print(f"RL above sft continued: {interval(above)} (95% interval over {len(runs)} seeds; n = {PROBLEMS:,} problems)")
    if arguments.json:
        print(json.dumps({"removed": removed, "above": above}))


if __name__ == "__main__":
    main()
