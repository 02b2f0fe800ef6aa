"""Runs lm-eval on a model folder or a hub model, to check our scores against a second implementation.

The model runs in transformers; prompts and scoring are lm-eval's. The model of a run is also scored by our code on
the same prompts, and the choices compared.
"""

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import islice
from typing import Any

from lanbot.core.console import no_bars, say, table, track
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.data import hub
from lanbot.distributed.runtime import Runtime
from lanbot.evals import score as scores
from lanbot.evals.hf_scorer import open_model
from lanbot.evals.scorer import ModelScorer
from lanbot.tasks.core import Prompt
from lanbot.tasks.registry import all_tasks
from lanbot.tasks.task import HubTask

CHOICE = "multiple_choice"
SHOTS_SEED = 1234
"""lm-eval's default."""
BATCH = {"cpu": 8, "cuda": 64, "mps": 16}
"""Texts of a forward pass in transformers."""
ITEMS = 256
"""Items of a batch for our model."""


@dataclass(frozen=True)
class Figure:
    metric: str
    """lm-eval's name for it."""
    score: float
    stderr: float | None
    n: int
    """Evaluated items."""
    items: int
    """All items of the task."""
    shots: int
    chance: float | None
    """Score of a random choice; None without choices."""

    def json(self) -> dict[str, Any]:
        values = {name: value for name, value in vars(self).items() if name != "metric"}
        return values | {"sampled": self.n < self.items}


@dataclass(frozen=True)
class Agreement:
    """Comparison of our code with lm-eval on the same choices."""

    score: float
    """Our accuracy, comparable with lm-eval's acc."""
    differ: int
    """Items with different choices."""
    nats: float
    """Maximum difference of a choice's log-likelihood."""


@dataclass(frozen=True)
class Harness:
    model: str
    settings: dict[str, Any]
    figures: dict[str, list[Figure]]
    agreement: dict[str, Agreement]
    """Of multiple-choice tasks, if our code scored them too."""

    def json(self) -> dict[str, Any]:
        tasks: dict[str, Any] = {}
        for task, figures in self.figures.items():
            tasks[task] = {figure.metric: figure.json() for figure in figures}
            if same := self.agreement.get(task):
                tasks[task]["lanbot"] = vars(same)
        return {"model": self.model, "settings": self.settings, "tasks": tasks}

    def __str__(self) -> str:
        rows: list[tuple[Any, ...]] = []
        for task, figures in self.figures.items():
            for one in figures:
                asked = f"{one.n:,} of {one.items:,}" if one.n < one.items else f"{one.n:,}"
                error = "" if one.stderr is None else f"± {one.stderr:.4f}"
                chance = "" if one.chance is None else f"{one.chance:.4f}"
                rows.append((task, one.metric, f"{one.score:.4f}", error, asked, chance, one.shots))
        header = ("task", "metric", "score", "error", "n", "chance", "shots")
        lines = [table(rows, header, left=2)]
        for task, own in self.agreement.items():
            n = self.figures[task][0].n
            lines.append(
                f"{task}: acc by LanBot's code {own.score:.4f}, {own.differ:,} of {n:,} choices differ, "
                f"log-likelihoods by at most {own.nats:.1g} nats"
            )
        return "\n".join([*lines, scores.settings(self.settings), self.model])


def evaluate(
    name: str,
    tasks: Sequence[str],
    limit: int | None,
    seed: int,
    runtime: Runtime,
    own: ModelScorer | None = None,
    options: Options | None = None,
) -> Harness:
    """lm-eval's tasks (or groups of them) by name, each on all its items or on a seeded sample of `limit`.

    name: a model's folder or its name on the hub. own: the same model in our code; texts begin with bos, and it is
    scored on multiple-choice tasks too. With a mirror the data comes from its files.

    Raises UserError without lm-eval, for an unknown task or one without data, and for tasks that execute code.
    """
    if runtime.size > 1:
        raise UserError("--harness: lm-eval runs in one process", "Start it without torchrun.")
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise UserError(f"--harness lm-eval: not installed ({error})", "pip install 'lanbot[eval]'") from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = _manager()
    with _mirrored(options or Options.from_environment()), no_bars():
        loaded = _load(manager, tasks)
    model, tokenizer = open_model(name, own.model.dtype if own else runtime.dtype)
    if own:
        _begin_with_bos(tokenizer)
    size = BATCH[runtime.device.type]
    lm = HFLM(model.to(runtime.device), tokenizer=tokenizer, batch_size=size, device=str(runtime.device))
    samples = {}
    for task, made in loaded["tasks"].items():
        items = len(made.eval_docs)
        samples[task] = sorted(random.Random(seed).sample(range(items), min(limit or items, items)))
        if made.config.num_fewshot is None:
            made.set_config(key="num_fewshot", value=0)
        made.set_fewshot_seed(SHOTS_SEED)
    with no_bars():
        found = lm_eval.evaluate(lm, loaded, samples=samples, bootstrap_iters=1_000)
    figures = {task: _figures(found, task) for task in loaded["tasks"]}
    choices = [task for task, made in loaded["tasks"].items() if made.OUTPUT_TYPE == CHOICE]
    agreement = {task: _agreement(own, task, found["samples"][task]) for task in choices} if own else {}
    settings = {
        "harness": f"lm-eval {version('lm_eval')}",
        "dtype": str(model.dtype).removeprefix("torch."),
        "context": lm.max_length,
        "begins_with": tokenizer.bos_token if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else None,
        "limit": limit,
        "seed": seed,
    }
    return Harness(name, settings, figures, agreement)


@cache
def _manager() -> Any:
    """lm-eval's tasks; reading its thousands of files takes seconds."""
    from lm_eval.tasks import TaskManager

    say("reading lm-eval's list of tasks")
    return TaskManager()


def _load(manager: Any, names: Sequence[str]) -> dict[str, Any]:
    """{"tasks": {name: task}, ...}, as lm-eval loads them. Raises UserError."""
    for name in names:
        if (entry := manager.task_index.get(name)) is None:
            raise UserError(f"{name}: lm-eval has no such task", "`lm-eval ls tasks` lists those it has.")
        if (entry.cfg or {}).get("unsafe_code"):  # before loading, which may fail for other reasons
            raise _runs_code(name)
    try:
        loaded: dict[str, Any] = manager.load(list(names))
    except (OSError, ValueError, RuntimeError, LookupError, ImportError) as error:
        what = " ".join(str(error).split())[:160]
        said = f"{', '.join(names)}: lm-eval cannot load the data ({type(error).__name__}: {what})"
        raise UserError(said, "Check the network, or name a --mirror that has it.") from None
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise _runs_code(name)
    return loaded


def _runs_code(name: str) -> UserError:
    said = f"{name}: lm-eval would execute generated code without a sandbox"
    return UserError(said, "For HumanEval: lanbot eval RUN --tasks humaneval.")


@contextmanager
def _mirrored(options: Options) -> Iterator[None]:
    """With a mirror, makes lm-eval read its files, for the data sets that LanBot has a task for."""
    import datasets

    fetch = datasets.load_dataset

    def load_dataset(path: str, name: str | None = None, **_: Any) -> Any:
        known = {
            split: source
            for task in all_tasks().values()
            if issubclass(task, HubTask)
            for split, source in task.sources.items()
            if source.id == path and source.path.startswith(f"{name}/")
        }
        if not known:
            said = f"{path}{f' ({name})' if name else ''}: not in the mirror for lm-eval"
            raise UserError(said, "Leave --mirror out, or name tasks such as arc_easy, arc_challenge and gsm8k.")
        files = {split: [str(path) for path in hub.files(source, options)] for split, source in known.items()}
        kind = "parquet" if next(iter(files.values()))[0].endswith(".parquet") else "json"
        return fetch(kind, data_files=files)

    if options.mirror:
        datasets.load_dataset = load_dataset
    try:
        yield
    finally:
        datasets.load_dataset = fetch


def _begin_with_bos(tokenizer: Any) -> None:
    """Our tokenizer adds no bos by itself, but base models are trained on documents that begin with it."""
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token
    both = {"single": f"{bos} $A", "pair": f"{bos} $A {bos} $B:1"}
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        **both, special_tokens=[(bos, tokenizer.bos_token_id)]
    )


def _figures(found: dict[str, Any], task: str) -> list[Figure]:
    """lm-eval's keys are "acc,none": metric and filter of the answers."""
    results, n = found["results"][task], found["n-samples"][task]
    chance = None
    if found["configs"][task]["output_type"] == CHOICE:
        options = [len(sample["resps"]) for sample in found["samples"][task]]
        chance = round(sum(1 / k for k in options) / len(options), 6)
    figures = []
    for key, score in results.items():
        metric, comma, how = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        error = results.get(f"{metric}_stderr,{how}")
        stderr = round(error, 6) if isinstance(error, float) else None
        shown = metric if how == "none" else f"{metric} ({how})"
        of_chance = chance if metric in ("acc", "acc_norm") else None
        shots = found["n-shot"][task]
        figures.append(Figure(shown, round(score, 6), stderr, n["effective"], n["original"], shots, of_chance))
    return figures


def _agreement(own: ModelScorer, task: str, samples: Sequence[dict[str, Any]]) -> Agreement:
    """samples: as logged by lm-eval, with context, continuation and log-likelihood of each choice."""
    asked = (sample["arguments"] for sample in samples)
    ours = track(_log_likelihoods(own, asked), f"LanBot's code on {task}", len(samples))
    right = differ = 0
    nats = 0.0
    for sample, mine in zip(samples, ours, strict=True):
        theirs = [resp[0][0] for resp in sample["resps"]]
        chosen, expected = (values.index(max(values)) for values in (mine, theirs))
        right += chosen == sample["target"]
        differ += chosen != expected
        nats = max(nats, *(abs(a - b) for a, b in zip(mine, theirs, strict=True)))
    return Agreement(round(right / len(samples), 6), differ, round(nats, 6))


def _log_likelihoods(own: ModelScorer, items: Iterator[Sequence[tuple[str, str]]]) -> Iterator[list[float]]:
    """The log-likelihood in nats of each (context, continuation) of each item.

    As in lm-eval, trailing spaces of a context belong to the continuation, and long texts are truncated on the left.
    """
    while some := list(islice(items, ITEMS)):
        pairs = [(text.rstrip(), text[len(text.rstrip()) :] + more) for item in some for text, more in item]
        wholes = own.encode([text + more for text, more in pairs])
        starts = [len(ids) for ids in own.encode([text for text, _ in pairs])]
        most = (own.context or max(map(len, wholes))) + 1
        cuts = [max(0, len(ids) - most) for ids in wholes]
        made = (Prompt(ids[cut:], start - cut) for ids, start, cut in zip(wholes, starts, cuts, strict=True))
        prompts = [[next(made) for _ in item] for item in some]
        for item, judged in zip(prompts, own.score(prompts), strict=True):
            yield [-one.loss * (len(ids) - start) for one, (ids, start, _) in zip(judged, item, strict=True)]
