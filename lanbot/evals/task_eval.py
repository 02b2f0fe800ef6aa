"""Scores a chat model on tasks: by the likeliest letter, or by checking what it generates with its tools."""

import collections
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import torch

from lanbot.chat.messages import Message
from lanbot.core.console import Progress
from lanbot.core.errors import UserError
from lanbot.distributed.runtime import Runtime
from lanbot.evals.attempts import Attempt, attempt
from lanbot.evals.attempts import faults as faults_of
from lanbot.evals.score import Score
from lanbot.evals.scorer import TOKENS, padded
from lanbot.inference.engine import Engine
from lanbot.inference.sampling import Sampling
from lanbot.tasks.agent_tasks import AgentEnv, AgentTasks
from lanbot.tasks.mixture import sample_rows
from lanbot.tasks.task import Task


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
    faults: list[str] = []
    did_not_fit = 0
    with Progress(f"evaluating {name}", len(mine)) as progress:
        if task.kind == "choice":
            right = _choose(engine, task, mine, progress.show)
        else:
            attempts = attempt_each(engine, task, mine, max(max_tokens, task.answer_tokens), progress.show)
            faults, did_not_fit = faults_of(attempts), sum(one.did_not_fit for one in attempts)
            right = [not fault for fault in faults]
    guesses, parts = ([of(row) for row in mine] for of in (task.guess, task.part))
    score = Score.of(runtime.gather(right), runtime.gather(guesses), runtime.gather(parts))
    score = replace(score, did_not_fit=sum(runtime.gather([did_not_fit])))
    if task.runs_code:
        score = replace(score, failed=_failed(runtime.gather(faults)), sandbox=_level([task], runtime))
    return of_task(score, task, left_out, max_tokens)


def of_task(score: Score, task: Task, left_out: Collection[int], max_tokens: int) -> Score:
    """Adds which items were asked, and how many tokens an answer may have beyond max_tokens."""
    items, needed = len(task) - len(left_out), task.answer_tokens
    return replace(
        score,
        left_out=len(left_out),
        items=items if score.n < items else 0,
        max_tokens=needed if needed > max_tokens else 0,
    )


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
    """pass@k for each k <= samples: the mean over items of the chance that one of k of its samples is right.

    The error is that of item means, since samples of one item are not independent.
    """
    numbers = range(len(items))[runtime.rank :: runtime.size]
    attempts = [Attempt(*items[i]) for i in numbers for _ in range(samples)]
    keys = [f"pass/{i}/{j}" for i in numbers for j in range(samples)]
    with Progress(label, len(attempts)) as progress:
        attempt(engine, attempts, Sampling(max_tokens, temperature), seed, keys, progress.show)
    mine = faults_of(attempts)
    # of each item, in the order of the ranks' shares, one fault a sample
    faults = runtime.gather([mine[i * samples : (i + 1) * samples] for i in range(len(numbers))])
    did_not_fit = sum(runtime.gather([sum(one.did_not_fit for one in attempts) // samples]))
    guesses = [task.guess(row) for task, row in items]
    level, failed = _level([task for task, _ in items], runtime), {}
    if any(task.runs_code for task, _ in items):
        failed = _failed(fault for of_item in faults for fault in of_item)
    scores = {}
    for k in ks:
        values = [unbiased(samples, of_item.count(""), k) for of_item in faults]
        chance = sum(1 - (1 - guess) ** k for guess in guesses) / max(1, len(guesses))
        score = Score.of_means(values, chance, binary=k == samples)
        scores[f"pass@{k}"] = replace(score, sandbox=level, failed=failed, did_not_fit=did_not_fit)
    return scores


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


ProgressCallback = Callable[[int], None]


def attempt_each(
    engine: Engine,
    task: Task,
    rows: Sequence[int],
    max_tokens: int,
    on_progress: ProgressCallback = lambda _: None,
) -> list[Attempt]:
    """A greedy attempt at each row; of an errand its first conversation, then its second."""
    attempts = [Attempt(task, row) for row in rows]
    attempt(engine, attempts, Sampling(max_tokens), 0, [str(row) for row in rows], on_progress)
    return attempts


def do_errands(
    engine: Engine,
    task: AgentTasks,
    rows: Sequence[int],
    max_tokens: int,
    on_progress: ProgressCallback = lambda _: None,
) -> list[AgentEnv]:
    """The environments of all errands after they are done."""
    attempts = attempt_each(engine, task, rows, max_tokens, on_progress)
    return [one.env for one in attempts if isinstance(one.env, AgentEnv)]


@torch.inference_mode()
def _choose(engine: Engine, task: Task, rows: Sequence[int], on_progress: ProgressCallback) -> list[bool]:
    """The answer is the letter of the highest logit after the prompt. Prompts of like length are read together."""
    model, chat_format, tokenizer = engine.model, engine.chat_format, engine.chat_format.tokenizer
    prompts = {row: chat_format.prompt_of(task.asked(row, chat_format))[-model.config.context :] for row in rows}
    right: dict[int, bool] = {}
    remaining = sorted(rows, key=lambda row: -len(prompts[row]))
    while remaining:
        count = max(1, TOKENS[engine.device.type] // len(prompts[remaining[0]]))
        batch, remaining = remaining[:count], remaining[count:]
        last = torch.tensor([len(prompts[row]) - 1 for row in batch], device=engine.device)
        hidden = model(padded([prompts[row] for row in batch], engine.device))
        logits = model.logits(hidden[torch.arange(len(batch)), last])
        if logits.isnan().any():
            raise UserError("the model's logits are not finite", "Are its weights damaged? Try fp32.")
        for i, row in enumerate(batch):
            letters = [tokenizer.encode(letter)[0] for letter in task.letters(row)]
            best = task.letters(row)[int(logits[i, letters].argmax())]
            right[row] = task.check(row, {"role": "assistant", "content": best})
        on_progress(len(right))
    return [right[row] for row in rows]


def answer_all(engine: Engine, questions: Sequence[str], max_tokens: int) -> list[Message]:
    """The model's greedy answer to each question."""
    prompts = [engine.chat_format.prompt([{"role": "user", "content": question}]) for question in questions]
    answers: list[Message] = [{"role": "assistant", "content": "(longer than the context)"} for _ in prompts]
    fits = [i for i, prompt in enumerate(prompts) if len(prompt) < engine.model.config.context]
    with Progress("answering", len(fits)) as progress:
        done = engine.generate([prompts[i] for i in fits], Sampling(max_tokens), on_finished=progress.show)
    for i, completion in zip(fits, done, strict=True):
        answers[i] = engine.chat_format.parse(completion.ids, completion.sampled)
    return answers
