"""Scoring a chat model on tasks: by the likeliest letter, or by what it generates with its tool, checked."""

import collections
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lanbot.agent.loop import bounded
from lanbot.chat.messages import Message
from lanbot.core.console import Progress
from lanbot.core.errors import UserError
from lanbot.distributed.runtime import Runtime
from lanbot.evals.scorer import TOKENS, padded
from lanbot.inference.engine import Engine, Tool
from lanbot.inference.sampling import Sampling
from lanbot.tasks.agent_tasks import AgentEnv, AgentTasks
from lanbot.tasks.mixture import sample_rows
from lanbot.tasks.task import Task

GENERATE_BATCH = 256
CALLS = 8
"""Calls that one request of an errand may make."""


@dataclass(frozen=True)
class Score:
    """score: the share that is right. stderr: its standard error, sqrt(p (1 - p) / n). chance: of a guess, at these
    items.

    parts: the same for the parts of a task that has some. left_out: items that were not asked because they are in the
    training data. items: how many there are, where only a sample of them was asked; else 0. failed: of programs, how
    many failed and why; of pass@k, of all samples. sandbox: the level at which they ran. max_tokens: of an answer,
    where the task needs more than the settings allow; else 0.
    """

    score: float
    n: int
    stderr: float
    chance: float
    parts: dict[str, "Score"] = field(default_factory=dict)
    left_out: int = 0
    items: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    sandbox: int | None = None
    max_tokens: int = 0

    @classmethod
    def of(cls, right: Sequence[bool], chance: float | Sequence[float], parts: Sequence[str] = ()) -> "Score":
        """chance: of a guess, in every item or in each. parts: of each item the name of its part; "": it has none."""
        n = len(right)
        p = sum(right) / max(1, n)
        guesses = [chance] * n if isinstance(chance, float | int) else chance
        of_part: dict[str, list[int]] = {}
        for i, name in enumerate(parts):
            if name:
                of_part.setdefault(name, []).append(i)
        return cls(
            round(p, 6),
            n,
            round(math.sqrt(p * (1 - p) / max(1, n)), 6),
            round(sum(guesses) / max(1, n), 6),
            {
                name: cls.of([right[i] for i in items], [guesses[i] for i in items])
                for name, items in sorted(of_part.items())
            },
        )

    def asked(self) -> str:
        """n, and of how many if not of all."""
        return f"{self.n:,} of {self.items:,}" if self.items else f"{self.n:,}"

    def json(self) -> dict[str, Any]:
        values: dict[str, Any] = {"score": self.score, "n": self.n, "stderr": self.stderr, "chance": self.chance}
        values |= {"left_out": self.left_out} if self.left_out else {}
        values |= {"sampled": True, "items": self.items} if self.items else {}
        values |= {"max_tokens": self.max_tokens} if self.max_tokens else {}
        values |= {"failed": self.failed} if self.failed else {}
        values |= {"sandbox_level": self.sandbox} if self.sandbox is not None else {}
        return values | ({"parts": {name: part.json() for name, part in self.parts.items()}} if self.parts else {})

    def __str__(self) -> str:
        return f"{self.score:.3f} ± {self.stderr:.3f} (n {self.asked()}, chance {self.chance:.2f})"


def evaluate(
    engine: Engine,
    task: Task,
    name: str,
    limit: int,
    max_tokens: int,
    seed: int = 0,
    left_out: Collection[int] = (),
    *,
    runtime: Runtime,
) -> Score:
    """The score on `limit` rows of a task's split, a seeded sample. All ranks share the work and get the score.

    left_out: rows that the sample is drawn without.

    A prompt longer than the context is cut on the left where a letter is chosen; where an answer is generated
    there is no room for one, and the row counts as wrong.
    """
    if task.kind == "chat":
        raise ValueError(f"{name} is for training only")
    rows = sample_rows(task, limit, seed, left_out)
    mine = rows[runtime.rank :: runtime.size]
    with Progress(f"evaluating {name}", len(mine)) as progress:
        if task.kind == "choice":
            right = _choose(engine, task, mine, progress.show)
        elif isinstance(task, AgentTasks):
            right = [desk.right() for desk in do_errands(engine, task, mine, max_tokens, progress.show)]
        else:
            faults = _generate(engine, task, mine, max_tokens, progress.show)
            right = [not fault for fault in faults]
    guesses, parts = ([of(row) for row in mine] for of in (task.guess, task.part))
    score = Score.of(runtime.gather(right), runtime.gather(guesses), runtime.gather(parts))
    if task.runs_code:
        score = replace(score, failed=_failed(runtime.gather(faults)), sandbox=_level([task], runtime))
    return of_task(score, task, left_out, max_tokens)


def of_task(score: Score, task: Task, left_out: Collection[int], max_tokens: int) -> Score:
    """With what is to be said of the items: rows left out, of how many they are a sample, tokens beyond max_tokens."""
    there, needed = len(task) - len(left_out), task.answer_tokens
    sampled, more = score.n < there, needed > max_tokens
    return replace(score, left_out=len(left_out), items=there if sampled else 0, max_tokens=needed if more else 0)


def pass_at_k(
    engine: Engine,
    items: Sequence[tuple[Task, int]],
    k: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    label: str,
    *,
    runtime: Runtime,
) -> dict[str, Score]:
    """pass@1 (the mean over k samples of each item) and pass@k (at least one of k is right)."""
    return pass_at(engine, items, (1, k), k, max_tokens, temperature, seed, label, runtime=runtime)


def pass_at(
    engine: Engine,
    items: Sequence[tuple[Task, int]],
    ks: Sequence[int],
    samples: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    label: str,
    *,
    runtime: Runtime,
) -> dict[str, Score]:
    """pass@k for each k <= samples: the mean over items of the chance that of k of its samples one is right.

    The error is that of item means: samples of one item are not independent. Of items that are right or wrong, as
    pass@k with k = samples is, it is sqrt(p (1 - p) / n), as everywhere.
    """
    faults = _sample(engine, items, samples, max_tokens, temperature, seed, label, runtime)
    counts, n = [of_item.count("") for of_item in faults], len(faults)
    guesses = [task.guess(row) for task, row in items]
    scores = {}
    for k in ks:
        of_k = round(sum(1 - (1 - guess) ** k for guess in guesses) / max(1, n), 6)
        if k == samples:
            scores[f"pass@{k}"] = Score.of([right > 0 for right in counts], of_k)
            continue
        values = [unbiased(samples, right, k) for right in counts]
        mean = sum(values) / max(1, n)
        error = math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, n - 1) / max(1, n))
        scores[f"pass@{k}"] = Score(round(mean, 6), n, round(error, 6), of_k)
    level, failed = _level([task for task, _ in items], runtime), {}
    if any(task.runs_code for task, _ in items):
        failed = _failed(fault for of_item in faults for fault in of_item)
    return {name: replace(score, sandbox=level, failed=failed) for name, score in scores.items()}


def _failed(faults: Iterable[str]) -> dict[str, int]:
    """How often each is; "" is none."""
    return dict(sorted(collections.Counter(fault for fault in faults if fault).items()))


def _level(tasks: Sequence[Task], runtime: Runtime) -> int | None:
    """The worst level of the sandbox in which any rank ran programs; None: it ran none."""
    levels = runtime.gather([task.sandbox_level for task in tasks])
    return max((level for level in levels if level is not None), default=None)


def unbiased(n: int, right: int, k: int) -> float:
    """1 - C(n - right, k) / C(n, k): the chance that of k of n samples, drawn without repetition, one is right; an
    unbiased estimate of pass@k (Chen et al. 2021)."""
    return (math.comb(n, k) - math.comb(n - right, k)) / math.comb(n, k)


def _sample(
    engine: Engine,
    items: Sequence[tuple[Task, int]],
    samples: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    label: str,
    runtime: Runtime,
) -> list[list[str]]:
    """Of each item's samples what is wrong with them, "" if nothing. All ranks share the work, and the order of items
    is that of their shares."""
    numbers = range(len(items))[runtime.rank :: runtime.size]
    asked = [items[i] for i in numbers for _ in range(samples)]
    with Progress(label, len(asked)) as progress:
        answers = _answers(
            engine,
            [engine.chat_format.prompt_of(task.conversation(row)) for task, row in asked],
            Sampling(max_tokens, temperature),
            progress.show,
            seed,
            [f"pass/{i}/{j}" for i in numbers for j in range(samples)],
        )
    faults: list[str] = []
    for task, group in itertools.groupby(zip(asked, answers, strict=True), key=lambda one: one[0][0]):
        of_task = list(group)
        faults += task.faults([row for (_, row), _ in of_task], [answer for _, answer in of_task])
    return runtime.gather([faults[i * samples : (i + 1) * samples] for i in range(len(numbers))])


ProgressCallback = Callable[[int], None]


def _generate(engine: Engine, task: Task, rows: Sequence[int], max_tokens: int, told: ProgressCallback) -> list[str]:
    """Of each row's answer what is wrong with it; "": it is right."""
    prompts = [engine.chat_format.prompt_of(task.conversation(row)) for row in rows]
    answers = _answers(engine, prompts, Sampling(max(max_tokens, task.answer_tokens)), told)
    return task.faults(rows, answers)


def _answers(
    engine: Engine,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    told: ProgressCallback,
    seed: int = 0,
    keys: Sequence[str] | None = None,
    tools: Sequence[Tool] | None = None,
) -> list[Message | None]:
    """The model's answer to each prompt; None where it leaves no room in the context for one."""
    answers: list[Message | None] = []
    for start in range(0, len(prompts), GENERATE_BATCH):
        batch = prompts[start : start + GENERATE_BATCH]
        fits = [i for i, prompt in enumerate(batch) if len(prompt) < engine.model.config.context]
        completions = engine.generate(
            [batch[i] for i in fits],
            sampling,
            seed,
            keys=[keys[start + i] for i in fits] if keys else None,
            call_handlers=[tools[start + i] for i in fits] if tools else None,
        )
        messages = {i: engine.chat_format.parse(one.ids, one.sampled) for i, one in zip(fits, completions, strict=True)}
        answers += [messages.get(i) for i in range(len(batch))]
        told(len(answers))
    return answers


def do_errands(
    engine: Engine, task: AgentTasks, rows: Sequence[int], max_tokens: int, told: ProgressCallback = lambda _: None
) -> list[AgentEnv]:
    """The errands done, all of them side by side: first everyone's first conversation, then the second."""
    desks = [task.desk(row) for row in rows]
    waiting = desks
    while waiting := [desk for desk in waiting if desk.request()]:
        requests = [request for desk in waiting if (request := desk.request())]
        prompts = [engine.chat_format.prompt([request]) for request in requests]
        tools = [bounded(desk.tools, CALLS) for desk in waiting]

        def so_far(n: int, done: int = len(desks) - len(waiting)) -> None:
            told(done + n)

        answers = _answers(engine, prompts, Sampling(max_tokens), so_far, tools=tools)
        for desk, request, answer in zip(waiting, requests, answers, strict=True):
            desk.answered(request, answer or {"role": "assistant", "content": ""})
    return desks


@torch.inference_mode()
def _choose(engine: Engine, task: Task, rows: Sequence[int], told: ProgressCallback) -> list[bool]:
    """The answer is the letter of the highest logit after the prompt. Prompts of like length are read together."""
    model, tokenizer = engine.model, engine.chat_format.tokenizer
    prompts = {row: engine.chat_format.prompt_of(task.conversation(row))[-model.config.context :] for row in rows}
    right: dict[int, bool] = {}
    left = sorted(rows, key=lambda row: -len(prompts[row]))
    while left:
        count = max(1, TOKENS[engine.device.type] // len(prompts[left[0]]))
        batch, left = left[:count], left[count:]
        last = torch.tensor([len(prompts[row]) - 1 for row in batch], device=engine.device)
        hidden = model(padded([prompts[row] for row in batch], engine.device))
        logits = model.logits(hidden[torch.arange(len(batch)), last])
        if logits.isnan().any():
            raise UserError("the model's logits are no numbers", "Are its weights damaged? Try fp32.")
        for i, row in enumerate(batch):
            letters = [tokenizer.encode(letter)[0] for letter in task.letters(row)]
            best = task.letters(row)[int(logits[i, letters].argmax())]
            right[row] = task.check(row, {"role": "assistant", "content": best})
        told(len(right))
    return [right[row] for row in rows]


def answer_all(engine: Engine, questions: Sequence[str], max_tokens: int) -> list[Message]:
    """The model's greedy answer to each question."""
    prompts = [engine.chat_format.prompt([{"role": "user", "content": question}]) for question in questions]
    with Progress("answering", len(prompts)) as progress:
        answers = _answers(engine, prompts, Sampling(max_tokens), progress.show)
    return [answer or {"role": "assistant", "content": "(longer than the context)"} for answer in answers]
