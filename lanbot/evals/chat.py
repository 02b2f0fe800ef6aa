"""Scoring a chat model on tasks: by the likeliest letter, or by what it generates with its tool, checked."""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lanbot.agent.loop import bounded
from lanbot.chat.conversation import Message
from lanbot.chat.lanbot_format import parse, prompt_of, render_prompt
from lanbot.console import Progress, duration
from lanbot.engine.engine import Engine, Tool
from lanbot.engine.sampling import Sampling
from lanbot.tasks.agent_tasks import AgentTasks, Desk
from lanbot.tasks.mixture import sample_rows
from lanbot.tasks.task import Task
from lanbot.training.parallel import gather, world

CHOICE_TOKENS = 16_384
"""Tokens of prompts that are scored in one forward pass."""
GENERATE_BATCH = 256
CALLS = 8
"""Calls that one request of an errand may make."""


@dataclass(frozen=True)
class Score:
    """score: the share that is right. stderr: its standard error, sqrt(p (1 - p) / n). chance: of a guess.

    parts: the same for the parts of a task that has some. left_out: items that were not asked because they are in the
    training data.
    """

    score: float
    n: int
    stderr: float
    chance: float
    parts: dict[str, "Score"] = field(default_factory=dict)
    left_out: int = 0

    @classmethod
    def of(cls, right: Sequence[bool], chance: float, parts: Sequence[str] = ()) -> "Score":
        """parts: for each item the name of its part; "": it has none."""
        n = len(right)
        p = sum(right) / max(1, n)
        of_part: dict[str, list[bool]] = {}
        for name, one in sorted(zip(parts, right, strict=False)):
            if name:
                of_part.setdefault(name, []).append(one)
        return cls(
            round(p, 6),
            n,
            round(math.sqrt(p * (1 - p) / max(1, n)), 6),
            chance,
            {name: cls.of(rights, chance) for name, rights in of_part.items()},
        )

    def json(self) -> dict[str, Any]:
        values: dict[str, Any] = {"score": self.score, "n": self.n, "stderr": self.stderr, "chance": self.chance}
        values |= {"left_out": self.left_out} if self.left_out else {}
        return values | ({"parts": {name: part.json() for name, part in self.parts.items()}} if self.parts else {})

    def __str__(self) -> str:
        return f"{self.score:.3f} ± {self.stderr:.3f} (n {self.n:,}, chance {self.chance:.2f})"


def evaluate(
    engine: Engine,
    task: Task,
    name: str,
    limit: int,
    max_tokens: int,
    seed: int = 0,
    left_out: Collection[int] = (),
) -> Score:
    """The score on `limit` rows of a task's split, a seeded sample. All ranks share the work and get the score.

    left_out: rows that the sample is drawn without.

    A prompt longer than the context is cut on the left where a letter is chosen; where an answer is generated
    there is no room for one, and the row counts as wrong.
    """
    if task.kind == "chat":
        raise ValueError(f"{name} is for training only")
    place = world()
    rows = sample_rows(task, limit, seed, left_out)
    mine = rows[place.rank :: place.size]
    told = Counter(f"evaluating {name}", len(mine))
    if task.kind == "choice":
        right = _choose(engine, task, mine, told)
    elif isinstance(task, AgentTasks):
        right = [desk.right() for desk in do_errands(engine, task, mine, max_tokens, told)]
    else:
        right = _generate(engine, task, mine, max_tokens, told)
    score = Score.of(gather(right), task.chance, gather([task.part(row) for row in mine]))
    return replace(score, left_out=len(left_out))


def pass_at_k(
    engine: Engine,
    items: Sequence[tuple[Task, int]],
    k: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    label: str,
) -> dict[str, Score]:
    """pass@1 (the mean over k samples of each item) and pass@k (at least one of k is right).

    The error of pass@1 is that of item means: samples of one item are not independent.
    """
    place = world()
    numbers = range(len(items))[place.rank :: place.size]
    mine = [items[i] for i in numbers]
    keys = [f"pass/{i}/{j}" for i in numbers for j in range(k)]
    answers = _answers(
        engine,
        [prompt_of(task.conversation(row), engine.tokenizer) for task, row in mine for _ in range(k)],
        Sampling(max_tokens, temperature),
        Counter(label, len(mine) * k),
        seed,
        keys,
    )
    right = [answer is not None and mine[i // k][0].check(mine[i // k][1], answer) for i, answer in enumerate(answers)]
    means = gather([sum(right[i * k : i * k + k]) / k for i in range(len(mine))])
    n, mean = len(means), sum(means) / max(1, len(means))
    error = math.sqrt(sum((m - mean) ** 2 for m in means) / max(1, n - 1) / max(1, n))
    chance = sum(task.chance for task, _ in items) / max(1, len(items))
    return {
        "pass@1": Score(round(mean, 6), n, round(error, 6), chance),
        f"pass@{k}": Score.of([m > 0 for m in means], 1 - (1 - chance) ** k),
    }


class Counter:
    """Shows how far an evaluation is, from the main rank."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.began = label, total, time.monotonic()
        self.line = Progress(quiet=not world().main)

    def __call__(self, done: int) -> None:
        rate = done / max(time.monotonic() - self.began, 1e-9)
        left = duration((self.total - done) / max(rate, 1e-9))
        self.line.show(f"{self.label} | {done:,} of {self.total:,} | {rate:,.1f} items/s | {left} left")
        if done == self.total:
            self.line.close()


Told = Callable[[int], None]


def _generate(engine: Engine, task: Task, rows: Sequence[int], max_tokens: int, told: Told) -> list[bool]:
    prompts = [prompt_of(task.conversation(row), engine.tokenizer) for row in rows]
    answers = _answers(engine, prompts, Sampling(max_tokens), told)
    return [answer is not None and task.check(row, answer) for row, answer in zip(rows, answers, strict=True)]


def _answers(
    engine: Engine,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    told: Told,
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
            tools=[tools[start + i] for i in fits] if tools else None,
        )
        said = dict(zip(fits, completions, strict=True))
        answers += [parse(said[i].ids, engine.tokenizer) if i in said else None for i in range(len(batch))]
        told(len(answers))
    return answers


def do_errands(
    engine: Engine, task: AgentTasks, rows: Sequence[int], max_tokens: int, told: Told = lambda _: None
) -> list[Desk]:
    """The errands done, all of them side by side: first everyone's first conversation, then the second."""
    desks = [task.desk(row) for row in rows]
    waiting = desks
    while waiting := [desk for desk in waiting if desk.request()]:
        requests = [request for desk in waiting if (request := desk.request())]
        prompts = [render_prompt([request], engine.tokenizer) for request in requests]
        tools = [bounded(desk.tools, CALLS) for desk in waiting]

        def so_far(n: int, done: int = len(desks) - len(waiting)) -> None:
            told(done + n)

        answers = _answers(engine, prompts, Sampling(max_tokens), so_far, tools=tools)
        for desk, request, answer in zip(waiting, requests, answers, strict=True):
            desk.answered(request, answer or {"role": "assistant", "content": ""})
    return desks


@torch.inference_mode()
def _choose(engine: Engine, task: Task, rows: Sequence[int], told: Told) -> list[bool]:
    """The answer is the letter of the highest logit after the prompt."""
    model, tokenizer = engine.model, engine.tokenizer
    right: list[bool] = []
    start = 0
    while start < len(rows):
        batch: list[tuple[int, list[int]]] = []
        while start < len(rows) and (not batch or _area(batch) <= CHOICE_TOKENS):
            row = rows[start]
            batch.append((row, prompt_of(task.conversation(row), tokenizer)[-model.config.context :]))
            start += 1
        ids = torch.full((len(batch), max(len(p) for _, p in batch)), tokenizer.bos, device=engine.device)
        for i, (_, prompt) in enumerate(batch):
            ids[i, : len(prompt)] = torch.tensor(prompt)
        last = torch.tensor([len(prompt) - 1 for _, prompt in batch], device=engine.device)
        logits = model.logits(model(ids)[torch.arange(len(batch)), last])
        for i, (row, _) in enumerate(batch):
            letters = [tokenizer.encode(letter)[0] for letter in task.letters(row)]
            best = task.letters(row)[int(logits[i, letters].argmax())]
            right.append(task.check(row, {"role": "assistant", "content": best}))
        told(len(right))
    return right


def _area(batch: list[tuple[int, list[int]]]) -> int:
    return (len(batch) + 1) * max(len(prompt) for _, prompt in batch)


def answer_all(engine: Engine, questions: Sequence[str], max_tokens: int) -> list[str]:
    """What the model says to each question, greedily, calls and outputs shown in brackets."""
    prompts = [render_prompt([{"role": "user", "content": question}], engine.tokenizer) for question in questions]
    answers = _answers(engine, prompts, Sampling(max_tokens), Counter("answering", len(prompts)))
    return ["(longer than the context)" if answer is None else readable(answer) for answer in answers]


def readable(message: Message) -> str:
    """A message as one text: [2+2 → 4] for a call and its output."""
    content = message["content"]
    if isinstance(content, str):
        return content
    text = ""
    for part in content:
        text += {"text": "{}", "python": "[{}", "output": " → {}]"}[part["type"]].format(part["text"])
    return text.strip()
