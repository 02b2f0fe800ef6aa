"""What a run that began from open weights gained, and what it forgot: its phases side by side.

    OMP_NUM_THREADS=1 python benchmarks/open_weights.py RUN --mirror DIR [--phases base sft] [--items 200] [--json]

GSM8K is scored as the task does (the number after ####), and by the last number of the answer, since weights that were
never trained on the mark do not write it. ARC-Easy is scored by the likeliest letter, as chat evaluations do, and by
the likeliest answer without examples, which tells small models from a guess. Bits per byte are of the mirror's
held-out text. Relative changes are from the first phase to the last.
"""

import argparse
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from lanbot.chat.messages import spoken
from lanbot.config.run import Run
from lanbot.core.console import table
from lanbot.core.options import Options
from lanbot.distributed.runtime import Runtime
from lanbot.evals import core, task_eval
from lanbot.evals.attempts import faults
from lanbot.evals.score import Score
from lanbot.evals.scorer import ModelScorer
from lanbot.inference.engine import Engine
from lanbot.phases import evaluation
from lanbot.tasks.core import TASKS
from lanbot.tasks.gsm8k import GSM8K
from lanbot.tasks.mixture import sample_rows
from lanbot.tasks.registry import make_task
from lanbot.tasks.task import TaskContext, final_number

SEED = 7
TEXT = "hf:HuggingFaceFW/fineweb-edu"
TEXT_TOKENS = 8_192
ANSWER_TOKENS = 192
CHOICES = 500
"""Items of ARC-Easy, which are cheap."""
BITS = "bits per byte of text"
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
Figure = tuple[float, float, int]
"""Value, standard error, n."""


def figures(run: Run, phase: str, items: int, runtime: Runtime) -> dict[str, Figure]:
    """Of a phase's model, by what they are of."""
    folder, engine = evaluation.open_engine(run, phase, runtime)
    context = TaskContext(run.recipe.identity, options=run.options)
    found: dict[str, Figure] = {}

    def note(name: str, score: Score) -> None:
        found[name] = (score.score, score.stderr, score.n)

    for name, label, n in (
        ("identity:builtin", "identity, name and maker", 300),
        ("word_problems", "word problems", items),
        ("arc_easy", "ARC-Easy by letter", CHOICES),
    ):
        task = make_task(name, "test", context)
        note(label, task_eval.evaluate(engine, task, name, n, 96, SEED, runtime=runtime))
    strict, last = gsm8k(engine, context, items)
    note("GSM8K", strict)
    note("GSM8K by the last number", last)
    arc = replace(next(task for task in TASKS if task.label == "arc_easy"), shots=0)
    scorer = ModelScorer(engine.model, engine.chat_format, str(folder))
    likeliest = core.evaluate(scorer, CHOICES, (arc,), run.options, runtime=runtime)
    note("ARC-Easy by the likeliest answer", likeliest.tasks["arc_easy"].score)
    base = replace(run.recipe.base, data=TEXT, eval_tokens=TEXT_TOKENS)
    of_text = Run(run.folder, replace(run.recipe, base=base), run.options)
    bits = evaluation.validation(of_text, engine.chat_format, runtime).measure(engine.source)
    found[BITS] = (bits.value, bits.stderr or 0.0, bits.documents)
    return found


def gsm8k(engine: Engine, context: TaskContext, items: int) -> tuple[Score, Score]:
    """(by the task's mark, by the last number of the answer)."""
    task = GSM8K("test", context=context)
    rows = sample_rows(task, items, SEED)
    attempts = task_eval.attempt_each(engine, task, rows, ANSWER_TOKENS)
    strict = [not fault for fault in faults(attempts)]
    last = [one.message is not None and last_number(spoken(one.message)) == right(task, one.row) for one in attempts]
    return Score.of(strict, 0.0), Score.of(last, 0.0)


def right(task: GSM8K, row: int) -> str | None:
    return final_number(task.row(row)["answer"])


def last_number(said: str) -> str | None:
    numbers = NUMBER.findall(said)
    return final_number(f"#### {numbers[-1]}") if numbers else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--mirror", type=Path)
    parser.add_argument("--phases", nargs="+", default=["base", "sft"])
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    options = Options.from_environment()
    run = Run.open(asked.run, options=replace(options, mirror=asked.mirror or options.mirror))
    began = time.process_time()
    with Runtime.start() as runtime:
        by_phase = {phase: figures(run, phase, asked.items, runtime) for phase in asked.phases}
    first, final = by_phase[asked.phases[0]], by_phase[asked.phases[-1]]
    rows: list[tuple[Any, ...]] = []
    for name, (before, _, n) in first.items():
        shown = [f"{value:.4f} ± {error:.4f}" for value, error, _ in (found[name] for found in by_phase.values())]
        change = f"{final[name][0] / before - 1:+.1%}" if before else ""
        rows.append((name, n, *shown, change))
    print(table(rows, ("what", "n", *asked.phases, "change"), left=1))
    print(f"{time.process_time() - began:.0f} CPU seconds; n of {BITS} is documents")
    if asked.json:
        print(json.dumps(by_phase))


if __name__ == "__main__":
    main()
