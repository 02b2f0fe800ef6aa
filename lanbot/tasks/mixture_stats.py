"""Estimates before training what a recipe's phases train on: rows, tokens, how well they pack."""

import math
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import RL, ChatTraining, Recipe
from lanbot.core.console import table, track
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.data.corpus import open_corpus
from lanbot.data.loader import ChatLoader
from lanbot.tasks.mixture import Mixture

SAMPLE = 1_000
"""Rows of a part, or documents, from which the totals are estimated."""
PACKED = 4_000
"""Conversations that are packed to measure the padding."""

HEADER = ("rows", "epochs", "tokens", "± error", "share", "under loss", "truncated", "dropped", "bad")


@dataclass(frozen=True)
class Part:
    """A part of a phase. Counts are over all epochs, and estimates if only a sample was counted."""

    task: str
    rows: int
    epochs: int
    looked_at: int
    """Rows of the sample."""
    tokens: int
    tokens_error: int
    """The standard error of tokens."""
    under_loss: int
    truncated: int
    dropped: int
    bad: int


@dataclass(frozen=True)
class Plan:
    phase: str
    parts: tuple[Part, ...]
    batch_tokens: int
    sequence: int
    """Trained tokens of a row."""
    row_tokens: int
    """All tokens of a row."""
    filled: float
    """The share of rows that is not padding."""

    @property
    def tokens(self) -> int:
        return sum(part.tokens for part in self.parts)

    @property
    def steps(self) -> int:
        """0 if there is nothing to train on. The last batch may be smaller."""
        if not self.filled:
            return 0
        rows = self.tokens / self.filled / self.row_tokens
        return math.ceil(rows / (self.batch_tokens // self.sequence))

    def json(self) -> dict[str, Any]:
        return asdict(self) | {"tokens": self.tokens, "steps": self.steps}

    def __str__(self) -> str:
        rows = [
            (part.task, f"{part.rows:,}", part.epochs, f"{part.tokens:,}", f"{part.tokens_error:,}",
             f"{part.tokens / max(1, self.tokens):.1%}", f"{part.under_loss / max(1, part.tokens):.1%}",
             f"{part.truncated:,}", f"{part.dropped:,}", f"{part.bad:,}")
            for part in self.parts
        ]  # fmt: skip
        return (
            f"{table(rows, (self.phase, *HEADER))}\n"
            f"{self.tokens:,} tokens, rows of {self.sequence:,} filled to {self.filled:.1%}: "
            f"{self.steps:,} steps of {self.batch_tokens:,} tokens"
        )


def plan_mixture(phase: str, recipe: Recipe, chat_format: ChatFormat, options: Options | None = None) -> Plan:
    """The plan of a phase that trains on its mixture's conversations. Raises UserError as training would."""
    settings: ChatTraining = getattr(recipe, phase)
    assert settings.sequence and settings.batch_tokens, "the recipe is resolved"
    mixture = Mixture(settings.mixture, recipe.identity, chat_format, recipe.seed, options=options)
    parts = [_part(mixture, k, settings.sequence + 1) for k in range(len(mixture.parts))]
    filled = _filled(mixture, chat_format.bos, settings.sequence)
    return Plan(phase, tuple(parts), settings.batch_tokens, settings.sequence, settings.sequence + 1, filled)


def _part(mixture: Mixture, k: int, longest: int) -> Part:
    places = np.flatnonzero(mixture.which == k)
    if not len(places):
        raise UserError(f"{mixture.parts[k].task}: no rows in it", "Leave it out, or give it rows.")
    epochs = mixture.parts[k].epochs
    places = places[: len(places) // epochs]  # the first epoch has every row once
    chosen = places[:SAMPLE]  # their order is random
    label = f"plan: {mixture.parts[k].task}"
    seen = [mixture[int(i)] for i in track(chosen, label, len(chosen), "rows")]
    lengths = np.array([min(len(ids), longest) if any(mask[:longest]) else 0 for ids, mask in seen], dtype=np.float64)
    factor = len(places) * epochs / max(1, len(seen))
    unseen = 1 - len(seen) / len(places)
    error = factor * (lengths.std() * (len(seen) * unseen) ** 0.5)
    bad = sum(not ids for ids, _ in seen)
    return Part(
        mixture.parts[k].task,
        rows=len(places),
        epochs=epochs,
        looked_at=len(seen),
        tokens=round(factor * lengths.sum()),
        tokens_error=round(error),
        under_loss=round(factor * sum(sum(mask[:longest]) for _, mask in seen)),
        truncated=round(factor * sum(len(ids) > longest for ids, _ in seen)),
        dropped=round(factor * (int((lengths == 0).sum()) - bad)),
        bad=round(factor * bad) + mixture.tasks[k].skipped,
    )


def _filled(mixture: Mixture, bos: int, sequence: int) -> float:
    """The share of rows that is not padding, by packing the first PACKED conversations."""
    order = range(min(PACKED, len(mixture)))
    seen = [mixture[i] for i in track(order, "plan: packing", len(order), "rows")]
    used = sum(min(len(ids), sequence + 1) for ids, mask in seen if any(mask[: sequence + 1]))
    loader, rows = ChatLoader(seen, bos, 1, sequence), 0
    while loader.next_batch() is not None:
        rows += 1
    return used / max(1, rows * (sequence + 1))


def plan_corpus(phase: str, recipe: Recipe, chat_format: ChatFormat, options: Options | None = None) -> Plan:
    """The plan of a phase that trains on the base corpus. The number of documents is an estimate."""
    base = recipe.base
    assert base.tokens and base.batch_tokens and base.sequence, "the recipe is resolved"
    corpus, _ = open_corpus(base.data, recipe.seed, base.skip_bad_rows, options, base.data_column)
    documents = track(islice(corpus.once(), SAMPLE), f"plan: {phase}", SAMPLE, "documents")
    lengths = np.array([1 + len(chat_format.tokenizer.encode_array(text)) for text in documents])
    tokens = max(1, base.tokens // base.batch_tokens) * base.batch_tokens
    rows = round(tokens / lengths.mean())
    part = Part(base.data, rows, 1, len(lengths), tokens, 0, tokens, 0, 0, 0)
    return Plan(phase, (part,), base.batch_tokens, base.sequence, base.sequence, 1.0)


@dataclass(frozen=True)
class Questions:
    """The plan of an RL phase."""

    phase: str
    questions: int
    bad: int
    steps: int
    passes: float
    """Over all questions."""
    looked_at: int
    """Questions of the sample."""
    prompt_tokens: float
    """Mean tokens of a prompt of the sample."""
    too_long: int
    """Prompts of the sample that leave no room for an answer."""

    def json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.phase}: {self.questions:,} questions, {self.steps:,} steps, {self.passes:.2g} times over all; "
            f"a prompt has {self.prompt_tokens:,.0f} tokens on average, "
            f"{self.too_long:,} of {self.looked_at:,} leave no room to answer"
        )


def plan_questions(phase: str, recipe: Recipe, chat_format: ChatFormat, options: Options | None = None) -> Questions:
    """The plan of a phase that is rewarded for its answers. Raises UserError as training would."""
    settings: RL = getattr(recipe, phase)
    mixture = Mixture(settings.mixture, recipe.identity, chat_format, recipe.seed, options=options)
    order = range(min(SAMPLE, len(mixture)))
    asked = [mixture.conversation(i) for i in track(order, f"plan: {phase}", len(order), "questions")]
    lengths = [len(chat_format.prompt_of(one)) for one in asked if one is not None]
    if not lengths:
        raise UserError(f"{phase}.mixture: no question in it", "Give it rows that are not bad.")
    return Questions(
        phase,
        questions=len(mixture),
        bad=sum(one is None for one in asked),
        steps=settings.steps,
        passes=settings.steps * settings.prompts / len(mixture),
        looked_at=len(asked),
        prompt_tokens=sum(lengths) / len(lengths),
        too_long=sum(length >= recipe.model.longest for length in lengths),
    )
