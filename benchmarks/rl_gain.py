"""What RL is worth beside continuing sft for as long: held-out word problems and errands.

    OMP_NUM_THREADS=1 python benchmarks/rl_gain.py demo [demo-1 ...] [--seeds 0 1 2] [--recipe FILE] [--json]

RL is trained anew from the sft of each run, once for each seed, in a run RUN-rl-SEED beside it, with --recipe's [rl]
or else of the run. The control continues sft from the same checkpoint, on sft's mixture, with sft's learning rates, for
as many seconds as RL took at most; one control serves all seeds of a run. Seconds are CPU seconds, which other work on
the machine does not change. Problems are of three kinds of templates: those with solutions in sft have no room left,
practised ones have answers only, and RL trains on them, and nothing trains on the rest. `open` is the latter two.
Intervals are Student's over runs and seeds.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

from lanbot.chat.formats import load_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.config import recipe_file
from lanbot.config.recipe import RL
from lanbot.config.run import Run
from lanbot.core.console import say, table
from lanbot.data.loader import ChatLoader
from lanbot.data.packing import Batch
from lanbot.distributed.runtime import Runtime
from lanbot.evals.task_eval import evaluate
from lanbot.inference.engine import Engine
from lanbot.models import saved
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model
from lanbot.phases.rl import train_rl
from lanbot.tasks.agent_tasks import AgentTasks
from lanbot.tasks.builtin import WordProblems
from lanbot.tasks.mixture import Mixture
from lanbot.training.trainer import Trainer

RUNTIME = Runtime.single()
STUDENT_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}
"""Two-sided 95% quantiles of Student's t for n seeds."""
PROBLEMS, ERRANDS = 2_000, 1_000
KINDS = ("demonstrated", "practised", "never")
COLUMNS = ("problems", "open", *KINDS, "errands")
Scores = dict[str, float]


@dataclass(frozen=True)
class Compared:
    """The scores after sft, after sft continued, and after RL. seconds: of RL."""

    name: str
    seconds: float
    sft: Scores
    continued: Scores
    rl: Scores


class ForSeconds(ChatLoader):
    """A chat loader that ends after a number of CPU seconds; the schedule follows them."""

    def __init__(self, *arguments: Any, seconds: float) -> None:
        super().__init__(*arguments)
        self.seconds, self.began = seconds, time.process_time()

    def progress(self) -> float:
        return min(1.0, (time.process_time() - self.began) / self.seconds)

    def next_batch(self) -> Batch | None:
        return None if self.progress() >= 1 else super().next_batch()


def scores_of(model: Transformer, chat_format: ChatFormat) -> Scores:
    engine = Engine(model, chat_format)
    problems = evaluate(engine, WordProblems("test"), "word_problems", PROBLEMS, 96, seed=7, runtime=RUNTIME)
    errands = evaluate(engine, AgentTasks("test"), "agent_tasks", ERRANDS, 96, seed=7, runtime=RUNTIME)
    parts = {kind: problems.parts[f"templates {kind}"] for kind in KINDS}
    with_room = [parts["practised"], parts["never"]]
    return {
        "problems": problems.score,
        "open": sum(part.score * part.n for part in with_room) / sum(part.n for part in with_room),
        **{kind: part.score for kind, part in parts.items()},
        "errands": errands.score,
        **{f"errands: {kind}": part.score for kind, part in errands.parts.items()},
    }


def after(run: Run, phase: str) -> Scores:
    folder = saved.latest(run.phase(phase))
    assert folder, f"{phase} is done"
    return scores_of(load_model(folder, RUNTIME.dtype, RUNTIME.device), load_format(folder))


def trained(run: Run, seed: int, settings: RL) -> tuple[float, Scores]:
    """(seconds, scores) of an rl that is trained anew from the run's sft."""
    folder = run.folder.with_name(f"{run.folder.name}-rl-{seed}")
    shutil.rmtree(folder, ignore_errors=True)
    recipe = replace(run.recipe, name=folder.name, seed=seed, rl=replace(settings, eval_questions=1))
    made = Run.create(recipe, folder.parent, run.options)
    for phase in ("tokenizer", "sft"):
        shutil.copytree(run.phase(phase), made.phase(phase))
    began = time.process_time()
    train_rl(made, RUNTIME)
    return time.process_time() - began, after(made, "rl")


def continued(run: Run, seconds: float) -> Scores:
    """The scores after sft went on for so many seconds."""
    settings, folder, trial = run.recipe.sft, saved.latest(run.phase("sft")), run.folder / "sft-continued"
    assert folder and settings.batch_tokens and settings.sequence, "sft is done"
    chat_format = load_format(folder)
    shutil.rmtree(trial, ignore_errors=True)
    model = load_model(folder, RUNTIME.dtype, RUNTIME.device)
    often = replace(settings, checkpoint_every=10**9)
    trainer = Trainer(model, chat_format, often, trial, RUNTIME, settings.sequence)
    parts = [replace(part, rows=None if part.rows is None else 20 * part.rows) for part in settings.mixture]
    mixture = Mixture(parts, run.recipe.identity, chat_format, run.recipe.seed + 1_000)
    rows = settings.batch_tokens // settings.sequence
    try:
        trainer.train(ForSeconds(mixture, chat_format.bos, rows, settings.sequence, seconds=seconds))
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return scores_of(trainer.model, chat_format)


def interval(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{mean(values):+.3f}"
    half = STUDENT_95[len(values)] * stdev(values) / len(values) ** 0.5
    return f"{mean(values):+.3f} ({mean(values) - half:+.3f} to {mean(values) + half:+.3f})"


def show(found: Sequence[Compared]) -> None:
    rows = []
    for one in found:
        for phase, scores in (("sft", one.sft), ("sft continued", one.continued), ("rl", one.rl)):
            seconds = f"{one.seconds:.0f}" if phase == "rl" else ""
            rows.append((one.name, phase, *(f"{scores[column]:.3f}" for column in COLUMNS), seconds))
    print(table(rows, ("run", "after", *COLUMNS, "seconds"), left=2), end="\n\n")
    differences = []
    for column in found[0].rl:
        over_sft = interval([one.rl[column] - one.sft[column] for one in found])
        differences.append((column, over_sft, interval([one.rl[column] - one.continued[column] for one in found])))
    print(table(differences, ("rl above", "sft", "sft continued"), left=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="of rl; each run's own if left out")
    parser.add_argument("--recipe", help="a recipe whose [rl] is trained, by name or path")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    runs = [Run.open(name) for name in asked.runs]
    if len(runs) * max(1, len(asked.seeds)) not in (1, *STUDENT_95):
        sys.exit(f"1 to {max(STUDENT_95)} runs and seeds")
    found: list[Compared] = []
    for run in runs:
        settings = recipe_file.load(asked.recipe).rl if asked.recipe else run.recipe.rl
        sft, rl = after(run, "sft"), []
        for seed in asked.seeds or [run.recipe.seed]:
            seconds, scores = trained(run, seed, settings)
            say(f"{run.folder.name}, seed {seed}: {seconds:.0f} s, {scores}")
            rl.append((seed, seconds, scores))
        control = continued(run, max(seconds for _, seconds, _ in rl))
        found += [Compared(f"{run.folder.name}/{seed}", seconds, sft, control, scores) for seed, seconds, scores in rl]
    show(found)
    if asked.json:
        print(json.dumps({"runs": [vars(one) for one in found]}))


if __name__ == "__main__":
    main()
