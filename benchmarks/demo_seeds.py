"""The demo over several seeds: mean and spread of every score, and what RL is worth against continuing sft.

for s in 0 1 2; do lanbot run demo --seed $s --name demo-$s; done
python benchmarks/demo_seeds.py demo-0 demo-1 demo-2 [--json]

RL is compared with sft continued from the same checkpoint, on sft's mixture (rows not seen before), at sft's rates,
for as many seconds as RL's steps took, on the same held-out problems. The interval is Student's over the seeds.
"""

import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from lanbot.console import say, table
from lanbot.data.loader import ChatLoader
from lanbot.data.packing import Batch
from lanbot.engine.engine import Engine
from lanbot.evals.chat import evaluate
from lanbot.phases.chat import start_from
from lanbot.run import Run
from lanbot.tasks.builtin import WordProblems
from lanbot.tasks.mixture import Mixture
from lanbot.training.trainer import train

STUDENT_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95% quantiles of Student's t for n seeds."""
PROBLEMS = 2_000


class ForSeconds(ChatLoader):
    """A chat loader that ends when its time is over; the schedule goes by the clock."""

    def __init__(self, *arguments: Any, seconds: float) -> None:
        super().__init__(*arguments)
        self.seconds, self.began = seconds, time.monotonic()

    def progress(self) -> float:
        return min(1.0, (time.monotonic() - self.began) / self.seconds)

    def next_batch(self) -> Batch | None:
        return None if self.progress() >= 1 else super().next_batch()


def problems_right(run: Run, phase_or_model: Any, tokenizer: Any) -> float:
    score = evaluate(Engine(phase_or_model, tokenizer), WordProblems("test"), "word_problems", PROBLEMS, 96, 7)
    return score.score


def continued(run: Run) -> dict[str, float]:
    """Word problems right: after sft, after sft continued for RL's seconds, after RL."""
    from lanbot.training import checkpoint
    from lanbot.training.parallel import world

    seconds = run.read("rl", "evals.json")["training"]["seconds"]
    sft, rl = (checkpoint.latest(run.phase(phase)) for phase in ("sft", "rl"))
    assert sft and rl, "the run is done"
    state = start_from(run, "rl", run.recipe.model.context)
    before = problems_right(run, state.model, state.tokenizer)
    trial = run.folder / "sft-continued"
    shutil.rmtree(trial, ignore_errors=True)
    state.phase, state.settings = trial, replace(run.recipe.sft, checkpoint_every=10**9)
    rates = run.recipe.sft
    optimizer = state.optimizer
    optimizer.rates = replace(
        optimizer.rates, muon=rates.muon_lr, embedding=rates.embedding_lr, head=rates.head_lr, norm=rates.norm_lr
    )
    for name in optimizer.others:
        kind = "embedding" if "embed" in name else "head" if "lm_head" in name else "norm"
        optimizer.others[name] = getattr(optimizer.rates, kind)
    parts = [replace(part, rows=None if part.rows is None else 20 * part.rows) for part in rates.mixture]
    mixture = Mixture(parts, run.recipe.identity, state.tokenizer, run.recipe.seed + 1_000)
    rows = (rates.batch_tokens or 0) // (rates.sequence or 1)
    train(state, ForSeconds(mixture, state.tokenizer.bos, rows, rates.sequence, seconds=seconds))
    after = problems_right(run, state.model, state.tokenizer)
    shutil.rmtree(trial)
    model = checkpoint.load(rl, world())
    return {"sft": before, "continued": after, "rl": problems_right(run, model, state.tokenizer), "seconds": seconds}


def interval(values: list[float]) -> str:
    if len(values) < 2:
        return f"{mean(values):.3f}"
    half = STUDENT_95[len(values)] * stdev(values) / len(values) ** 0.5
    return f"{mean(values):+.3f} ({mean(values) - half:+.3f} to {mean(values) + half:+.3f})"


def main(names: list[str]) -> None:
    runs = [Run.open(name) for name in names]
    reports = [json.loads((Path(run.folder) / "report.json").read_text()) for run in runs]
    rows = []
    for task in reports[0]["evals"]:
        for phase in reports[0]["evals"][task]:
            scores = [report["evals"][task][phase]["score"] for report in reports]
            spread = f"{stdev(scores):.3f}" if len(scores) > 1 else ""
            rows.append((task, phase, f"{mean(scores):.3f}", spread, *(f"{score:.3f}" for score in scores)))
    print(table(rows, ("task", "phase", "mean", "spread", *names), left=2))
    gains = []
    for run in runs:
        say(f"{run.folder.name}: sft continued")
        gains.append(continued(run))
    print(
        "\n"
        + table(
            [(name, f"{g['sft']:.3f}", f"{g['continued']:.3f}", f"{g['rl']:.3f}", f"{g['seconds']:.0f}") for name, g in zip(names, gains, strict=True)],
            ("run", "sft", "sft continued", "rl", "seconds"),
        )
    )
    removed = [(g["rl"] - g["sft"]) / (1 - g["sft"]) for g in gains]
    above = [g["rl"] - g["continued"] for g in gains]
    print(f"\nshare of sft's errors that RL removes: {interval(removed)}")
    print(f"RL above sft continued: {interval(above)} (95% interval over {len(runs)} seeds; n = {PROBLEMS:,} problems)")
    if "--json" in sys.argv:
        print(json.dumps({"runs": gains, "removed": removed, "above": above}))


if __name__ == "__main__":
    main([argument for argument in sys.argv[1:] if not argument.startswith("--")])
