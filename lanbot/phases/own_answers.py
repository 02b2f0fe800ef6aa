"""Asks the model that a phase begins from the questions of the task own_answers, once for a run."""

import json
import re

from lanbot.chat.formats import load_format
from lanbot.chat.messages import spoken
from lanbot.config.run import Run
from lanbot.core.console import say
from lanbot.core.files import write_atomic
from lanbot.distributed.runtime import Runtime
from lanbot.evals.task_eval import answer_all
from lanbot.inference.engine import Engine
from lanbot.models import saved
from lanbot.models.weights import load_model
from lanbot.phases.phase import model_before
from lanbot.synthetic import general
from lanbot.synthetic.identity.checks import claims
from lanbot.tasks.own_answers import FILE, ROWS

TASK = "own_answers"
TOKENS = 64
"""Of an answer; what is longer ends with its last whole sentence."""


def make(run: Run, phase: str, runtime: Runtime) -> None:
    """Writes own_answers.jsonl if the phase's mixture has the task and the run has no such file. The model answers as
    it was trained: under its family's own system message; and greedily."""
    path = run.folder / FILE
    if not _rows(run, phase) or runtime.on_main(path.is_file):
        return
    asked = general.questions("train", max(_rows(run, name) for name in run.recipe.phase_names))
    if runtime.main:
        say(f"{phase}: the model answers {len(asked):,} general questions, to keep what it knows")
    folder = saved.latest(run.phase(model_before(run.recipe, phase, run)))
    assert folder is not None, "the phase before is done"
    engine = Engine(load_model(folder, runtime.dtype, runtime.device), load_format(run.phase("tokenizer")))
    mine = asked[runtime.rank :: runtime.size]
    answers = [shortened(spoken(answer)) for answer in answer_all(engine, mine, TOKENS)]
    both = runtime.gather(list(zip(mine, answers, strict=True)))
    if runtime.main:
        who = run.recipe.identity
        good = [(q, a) for q, a in both if a and not any(claims([{"role": "assistant", "content": a}], who))]
        write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in good))
    runtime.barrier()


def shortened(answer: str) -> str:
    """Up to the end of the last whole sentence; "" if there is none."""
    whole = re.match(r".*[^\d\W][\"')*]*[.!?][\"')*]*(?=\s|$)", answer.strip(), re.DOTALL)
    return whole[0] if whole else ""


def _rows(run: Run, phase: str) -> int:
    """How many the phase's mixture asks for."""
    mixture = getattr(getattr(run.recipe, phase, None), "mixture", ())
    return max((part.rows or ROWS for part in mixture if part.task == TASK), default=0)
