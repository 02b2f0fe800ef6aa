"""What the phases of a recipe do, in numbers that no machine changes: tokens, FLOPs, answers, words."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lanbot.cloud import averages, speeds
from lanbot.cloud.averages import Average
from lanbot.config.recipe import RL, ChatTraining, MixturePart, Recipe
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.models.config import ModelConfig

ROLLOUTS, BATCH = 512, 256
"""The most answers that one GPU decodes together, in RL and in an evaluation."""
PASS_SAMPLES = 8
"""Answers to each question of RL's pass@k, before and after."""


@dataclass(frozen=True)
class Answers:
    """Answers that are generated: `groups` groups of `group` answers, shared by the GPUs, all of it `times` times."""

    groups: int
    group: int
    prompt: float
    """Tokens of a question."""
    limit: int
    """The longest answer, in tokens."""
    together: int
    """The most that one GPU decodes at a time."""
    times: int = 1


@dataclass(frozen=True)
class Work:
    """What a phase does."""

    name: str
    steps: int = 0
    tokens: int = 0
    """Positions of all batches, padding included."""
    flops: float = 0.0
    """Forward and backward."""
    rows: int = 0
    """Of a batch, all GPUs together; 0: it is of any size."""
    sequence: int = 0
    chars: int = 0
    """Characters of a tokenizer's text."""
    text: int = 0
    """Tokens that the loader encodes from text."""
    chats: int = 0
    """Tokens that the loader renders of conversations."""
    rollouts: tuple[Answers, ...] = ()
    answers: tuple[Answers, ...] = ()
    """Of evaluations."""
    programs: float = 0.0
    """Answers that are graded by running them."""
    read_flops: float = 0.0
    """Forward passes of evaluations: held-out text, questions with choices."""
    searched: float = 0.0
    """Words that rank 0 searches for test items."""


def measured_between(rl: RL) -> int:
    """How often pass@k is measured besides before and after."""
    return (rl.steps - 1) // rl.pass_every if rl.pass_every else 0


def _passes(rl: RL) -> float:
    """Forward and backward passes of a step's answers; a forward pass alone is a third."""
    forward = (rl.ppo_epochs - (not rl.kl)) + bool(rl.kl)
    return float(rl.ppo_epochs + forward / 3)


@dataclass
class Counter:
    """Counts a recipe's phases. notes: what was not known and had to be assumed."""

    recipe: Recipe
    config: ModelConfig
    options: Options
    chat_format: Any = None
    """A format with the run's tokenizer, if the data is at hand too: then `data plan` counts it."""
    notes: dict[str, None] = field(default_factory=dict)

    def phase(self, phase: Any) -> Work:
        """phase: a lanbot.phases.phase.Phase."""
        if phase.makes == "tokenizer":
            return Work(phase.name, chars=phase.settings(self.recipe).max_chars)
        if phase.makes != "model":
            return Work(phase.name)
        settings = phase.settings(self.recipe)
        if "corpus" in phase.needs:
            return self._base(phase, settings)
        if phase.rewards and isinstance(settings, RL):
            return self._rl(phase, settings)
        if isinstance(settings, ChatTraining):
            return self._chat(phase, settings)
        self.notes[f"{phase.name}: a phase from outside that cannot be planned, so it is left out."] = None
        return Work(phase.name)

    def _base(self, phase: Any, base: Any) -> Work:
        steps = max(1, base.tokens // base.batch_tokens)
        tokens = steps * base.batch_tokens
        validations = (steps // base.eval_every + 2) * base.eval_tokens
        return Work(
            phase.name, steps, tokens, self._flops(tokens, base.sequence), base.batch_tokens // base.sequence,
            base.sequence, text=tokens, **self._evaluation(phase, validations, ()),
        )  # fmt: skip

    def _chat(self, phase: Any, settings: Any) -> Work:
        tokens, steps = self._mixture(phase, settings)
        rows = settings.batch_tokens // settings.sequence
        trained = steps * settings.batch_tokens
        return Work(
            phase.name, steps, trained, self._flops(trained, settings.sequence), rows, settings.sequence,
            chats=tokens, **self._evaluation(phase, 0, ()),
        )  # fmt: skip

    def _rl(self, phase: Any, rl: Any) -> Work:
        from lanbot.tasks.registry import find_task

        known = [(average, part.weight or 1.0) for part in rl.mixture if (average := self._average(part.task))]
        weights = sum(weight for _, weight in known) or 1.0
        prompt = sum(average.prompt * weight for average, weight in known) / weights * self._longer
        answers = rl.prompts * rl.group_size
        width = min(self.config.context, round(prompt + rl.max_tokens * speeds.DECODED.expected))
        tokens = rl.steps * answers * width
        passes = Answers(rl.eval_questions, PASS_SAMPLES, prompt, rl.max_tokens, BATCH, 2 + measured_between(rl))
        asked = [math.ceil(rl.prompts * speeds.EQUAL.expected**round) for round in range(1 + rl.refill)]
        rolled = tuple(Answers(n, rl.group_size, prompt, rl.max_tokens, ROLLOUTS, rl.steps) for n in asked)
        graded = sum(part.weight or 1.0 for part in rl.mixture if find_task(part.task)[0].runs_code)
        share = graded / sum(part.weight or 1.0 for part in rl.mixture)
        answered = sum(answers.groups * answers.group * answers.times for answers in (*rolled, passes))
        return Work(
            phase.name, rl.steps, tokens, self._flops(tokens, width) * _passes(rl), 0, width, rollouts=rolled,
            programs=share * answered, **self._evaluation(phase, 0, (passes,)),
        )  # fmt: skip

    def _flops(self, tokens: float, sequence: int) -> float:
        return tokens * self.config.flops_per_token(sequence)

    @property
    def _longer(self) -> float:
        return averages.longer(self.config.vocab_size)

    def _average(self, spec: str) -> Average | None:
        """Of a task, or of the same task with another argument."""
        found = averages.TASKS.get(spec) or averages.TASKS.get(spec.partition(":")[0])
        if found is None:
            self.notes[f"{spec}: its size is not known, so it is left out."] = None
        return found

    def _mixture(self, phase: Any, settings: Any) -> tuple[int, int]:
        """Tokens of a mixture and steps over it."""
        if self.chat_format is not None:
            try:
                counted = phase.plan(self.recipe, self.chat_format, self.options)
                return counted.tokens, counted.steps
            except UserError as error:
                self.notes[f"{phase.name}: from averages, as its data cannot be read ({error.problem})."] = None
        tokens = round(sum(self._part(part, settings.sequence + 1) for part in settings.mixture))
        return tokens, math.ceil(tokens / speeds.FILLED / settings.batch_tokens)

    def _part(self, part: MixturePart, longest: int) -> float:
        average = self._average(part.task)
        if average is None:
            return 0.0
        rows = min(part.rows or average.rows, average.rows)
        return rows * part.epochs * min(longest, average.tokens * self._longer)

    def _evaluation(self, phase: Any, validated: int, more: Iterable[Answers]) -> dict[str, Any]:
        """The evaluation after a phase. validated: tokens of held-out text read before it."""
        from lanbot.phases.phase import sources
        from lanbot.tasks.registry import find_task

        evals, answers, read = self.recipe.evals, list(more), float(validated)
        if any(source.corpus for source in sources(self.recipe)):
            read += self.recipe.base.eval_tokens
        for spec in evals.tasks:
            average, task = self._average(spec), find_task(spec)[0]
            items = min(phase.eval_limit(self.recipe), average.test_rows if average else 0)
            prompt = average.prompt * self._longer if average else 0.0
            if task.kind == "choice":
                read += items * prompt
            elif items:
                limit = max(evals.max_tokens, task.answer_tokens)
                answers.append(Answers(items, 1, prompt, limit, BATCH))
        flops = self._flops(read, self.recipe.base.sequence or self.config.context) / 3
        return {"answers": tuple(answers), "read_flops": flops}

    def searched(self) -> float:
        """Words of the recipe's training data that the search for contamination reads, once."""
        from lanbot.phases.phase import sources
        from lanbot.tasks import contamination

        if not contamination.real(self.recipe.evals.tasks):
            return 0.0
        plan = contamination.plan(self.recipe, self.recipe.evals.tasks, sources(self.recipe))
        words = (plan["corpus"][3] if plan["corpus"] else 0) / averages.CHARS * averages.WORDS
        parts = {(task, rows) for _, task, rows, _ in plan["training"]}
        return words + averages.WORDS * sum(self._part(MixturePart(*part), 1 << 30) for part in parts)
