"""Runs lm-eval on a model folder or a hub model, to check our figures against a second implementation.

The model runs in transformers; prompts and scoring are lm-eval's own. For a run's model our code answers the same
prompts: the choices of both must agree.
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
"""lm-eval's own."""
BATCH = {"cpu": 8, "cuda": 64, "mps": 16}
"""Texts that are read together."""
ITEMS = 256
"""That are given to our model together."""


@dataclass(frozen=True)
class Figure:
    """metric: by lm-eval's name. chance: of a guess among the choices; None where there are none. items: of the task,
    of which n were asked."""

    metric: str
    score: float
    stderr: float | None
    n: int
    items: int
    shots: int
    chance: float | None

    def json(self) -> dict[str, Any]:
        values = {name: value for name, value in vars(self).items() if name != "metric"}
        return values | {"sampled": self.n < self.items}


@dataclass(frozen=True)
class Agreement:
    """Of our code with lm-eval on the same choices. score: our accuracy, to be held against acc. differ: items of which
    another choice was found likeliest. nats: by how much the log-likelihood of a choice differs, at most."""

    score: float
    differ: int
    nats: float


@dataclass(frozen=True)
class Harness:
    """figures: of each task. agreement: of each task of choices, where our code was asked as well."""

    model: str
    settings: dict[str, Any]
    figures: dict[str, list[Figure]]
    agreement: dict[str, Agreement]

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
                f"{task}: acc by LanBot's own code {own.score:.4f}, {own.differ:,} of {n:,} choices differ, "
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

    name: a model's folder or its name on the hub. own: the same model in our code; its texts begin with bos, and it
    is asked what lm-eval's tasks of choices ask. With a mirror the data comes from its files.

    Raises UserError without lm-eval, for a task it does not know or whose data is not to be had, and for tasks that run
    what the model wrote.
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
    """Of lm-eval's tasks: it reads some thousand files, which takes seconds."""
    from lm_eval.tasks import TaskManager

    say("reading lm-eval's list of tasks")
    return TaskManager()


def _load(manager: Any, names: Sequence[str]) -> dict[str, Any]:
    """What lm-eval makes of the names: {"tasks": {name: task}, ...}."""
    for name in names:
        if (entry := manager.task_index.get(name)) is None:
            raise UserError(f"{name}: lm-eval has no such task", "`lm-eval ls tasks` lists those it has.")
        if (entry.cfg or {}).get("unsafe_code"):  # loading it fails for other reasons: its data, what it imports
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
    said = f"{name}: lm-eval would run what the model wrote without a sandbox"
    return UserError(said, "For HumanEval: lanbot eval RUN --tasks humaneval.")


@contextmanager
def _mirrored(options: Options) -> Iterator[None]:
    """With a mirror, has lm-eval's tasks read its files: of the data sets that LanBot has a task for."""
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
            said = f"{path}{f' ({name})' if name else ''}: the mirror cannot answer for it to lm-eval"
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
    """Our tokenizer adds nothing by itself; base models are trained on documents that begin with bos."""
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token
    both = {"single": f"{bos} $A", "pair": f"{bos} $A {bos} $B:1"}
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        **both, special_tokens=[(bos, tokenizer.bos_token_id)]
    )


def _figures(found: dict[str, Any], task: str) -> list[Figure]:
    """lm-eval names a figure "acc,none": the metric, and what filtered the answers."""
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
    """samples: what lm-eval logged; of each choice the two texts it asked about, and the log-likelihood it found."""
    asked = (sample["arguments"] for sample in samples)
    ours = track(_log_likelihoods(own, asked), f"LanBot's own code on {task}", len(samples))
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
    """Of each (context, continuation) of each item: the continuation's, in nats. lm-eval's rules: spaces at a context's
    end belong to what follows, and a longer text than the model reads loses its beginning."""
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
