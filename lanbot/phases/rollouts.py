"""RL's rollouts: the questions of a step, groups of answers to them, their rewards and their advantages."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lanbot.chat.messages import Message
from lanbot.config.recipe import RL
from lanbot.distributed.runtime import Runtime
from lanbot.evals.attempts import Attempt, attempt, faults
from lanbot.inference.engine import Completion, Engine
from lanbot.inference.sampling import Sampling
from lanbot.phases.rewards import reward_terms
from lanbot.tasks.mixture import Mixture
from lanbot.tasks.task import Task


@dataclass(frozen=True)
class Question:
    """number: its place among all questions of the phase, on which the draws of its answers depend."""

    number: int
    task: Task
    row: int


@dataclass(frozen=True)
class Rollout:
    """An answer. turns: one completion; of an errand one for each of its conversations."""

    turns: tuple[Completion, ...]
    reward: float = 0.0
    advantage: float = 0.0
    right: bool = False
    terms: dict[str, float] = field(default_factory=dict)
    """What the terms of the reward added to it."""
    message: Message | None = None
    """The last answer, parsed."""
    question: Question | None = None
    attempt: Attempt | None = field(default=None, compare=False)


Group = list[Rollout]
"""The answers to one question."""


class Questions:
    """The questions of a phase in the mixture's order, again and again. Its state is the same on all ranks."""

    def __init__(self, mixture: Mixture, settings: RL, runtime: Runtime) -> None:
        self.mixture, self.settings, self.runtime = mixture, settings, runtime
        self.position = 0
        self.asked = 0
        """Questions of the current step on this rank."""

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state(self, state: dict[str, Any]) -> None:
        self.position = state["position"]

    def rounds(self, groups: Sequence[Group]) -> Iterator[list[Question]]:
        """This rank's questions of a step, in rounds; the caller adds each round's groups to `groups`.

        The first round has `prompts` questions; each of at most `refill` further ones has as many as there are groups
        missing of all ranks that have something to learn from. Which questions they are does not depend on the number
        of ranks, which take turns.
        """
        size, rank = self.runtime.size, self.runtime.rank
        first, missing = self.position, self.settings.prompts
        self.asked = 0
        for left in reversed(range(1 + self.settings.refill)):
            numbers = range(self.position, self.position + missing)
            self.position += missing
            mine = [number for number in numbers if (number - first) % size == rank]
            self.asked += len(mine)
            yield [Question(number, *self.mixture.item(number % len(self.mixture))) for number in mine]
            if left:
                missing = self.settings.prompts - int(self.runtime.sum(sum(map(is_informative, groups))))
            if not left or missing < 1:
                return


def roll_out(engine: Engine, asked: Sequence[Question], settings: RL, seed: int) -> list[Group]:
    """Groups of answers, not yet rewarded; without questions whose prompts leave no room in the context."""
    groups = [[Attempt(question.task, question.row) for _ in range(settings.group_size)] for question in asked]
    keys = [f"rl/{question.number}/{g}" for question in asked for g in range(settings.group_size)]
    everything = [one for group in groups for one in group]
    attempt(engine, everything, Sampling(settings.max_tokens, temperature=1.0), seed, keys)
    return [
        [Rollout(tuple(one.turns), message=one.message, question=question, attempt=one) for one in group]
        for question, group in zip(asked, groups, strict=True)
        if group[0].turns
    ]


def score(groups: Sequence[Group], settings: RL) -> list[Group]:
    """Rewards: 1 for a right answer, by its task's checker, and the terms that the recipe adds."""
    found = iter(faults([one.attempt for group in groups for one in group if one.attempt is not None]))
    return [[_rewarded(one, not next(found), settings) for one in group] for group in groups]


def _rewarded(one: Rollout, right: bool, settings: RL) -> Rollout:
    terms = reward_terms(one.attempt, settings) if one.attempt is not None else {}
    return replace(one, right=right, terms=terms, reward=float(right) + sum(terms.values()), attempt=None)


def with_advantages(groups: Sequence[Group], settings: RL) -> list[Group]:
    """Advantages: reward - the group's mean; with divide_by_std divided by its standard deviation, as in GRPO."""
    return [
        [replace(one, advantage=a) for one, a in zip(group, advantages(group, settings), strict=True)]
        for group in groups
    ]


def advantages(group: Group, settings: RL) -> list[float]:
    mean = sum(one.reward for one in group) / len(group)
    found = [one.reward - mean for one in group]
    deviation = math.sqrt(sum(a * a for a in found) / len(group))
    return [a / deviation for a in found] if settings.divide_by_std and is_informative(group) else found


def is_informative(group: Group) -> bool:
    """Whether its rewards differ; otherwise every advantage is 0."""
    return len({one.reward for one in group}) > 1


def informative(groups: Sequence[Group]) -> list[Rollout]:
    """The rollouts to learn from."""
    return [one for group in groups if is_informative(group) for one in group]


def turns_of(rollouts: Sequence[Rollout]) -> list[tuple[Completion, float]]:
    """Their conversations, each with the advantage of its rollout."""
    return [(turn, one.advantage) for one in rollouts for turn in one.turns]


def mean_error(values: Sequence[float]) -> float:
    """The standard error of the mean; 0 for fewer than two values."""
    n = len(values)
    mean = sum(values) / max(1, n)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n) if n > 1 else 0.0
