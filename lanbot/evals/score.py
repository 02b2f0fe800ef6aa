"""A score with its error, and how it is written. No torch here: reports import it too."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lanbot.core.console import table


@dataclass(frozen=True)
class Score:
    """The share of n items that are right."""

    score: float
    n: int
    stderr: float
    """Standard error, sqrt(p (1 - p) / n); where all or none are right the bound of Wilson's interval, 1 / (n + 1)."""
    chance: float
    """What a guess scores on these items."""
    parts: dict[str, "Score"] = field(default_factory=dict)
    """The same for the parts of a task that has some."""
    left_out: int = 0
    """Items that were not asked because they are in the training data."""
    items: int = 0
    """All items of the task, where only a sample was asked; else 0."""
    did_not_fit: int = 0
    """Items that counted as wrong because the context had no room for an answer."""
    failed: dict[str, int] = field(default_factory=dict)
    """Of programs, how many failed and why; of pass@k, of all samples."""
    sandbox: int | None = None
    """The level of the sandbox in which programs ran."""
    max_tokens: int = 0
    """Tokens of an answer, where the task needs more than the settings allow; else 0."""

    @classmethod
    def of(cls, right: Sequence[bool], chance: float | Sequence[float], parts: Sequence[str] = ()) -> "Score":
        """chance: of a guess, for all items or for each. parts: each item's part; "": it has none."""
        n = len(right)
        guesses = [chance] * n if isinstance(chance, float | int) else chance
        of_part: dict[str, list[int]] = {}
        for i, name in enumerate(parts):
            if name:
                of_part.setdefault(name, []).append(i)
        score = cls.of_means([float(one) for one in right], sum(guesses) / max(1, n), binary=True)
        for name, items in sorted(of_part.items()):
            score.parts[name] = cls.of([right[i] for i in items], [guesses[i] for i in items])
        return score

    @classmethod
    def of_means(cls, values: Sequence[float], chance: float, binary: bool = False) -> "Score":
        """values: each item's mean over its samples. binary: each is 0 or 1."""
        n = len(values)
        mean = sum(values) / max(1, n)
        if binary:
            error = math.sqrt(mean * (1 - mean) / max(1, n))
        else:
            error = math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, n - 1) / max(1, n))
        return cls(round(mean, 6), n, round(error if error > 1e-9 else 1 / (n + 1), 6), round(chance, 6))

    def json(self) -> dict[str, Any]:
        values: dict[str, Any] = {"score": self.score, "n": self.n, "stderr": self.stderr, "chance": self.chance}
        values |= {name: getattr(self, name) for name in ("left_out", "did_not_fit", "failed") if getattr(self, name)}
        values |= {"sampled": True, "items": self.items} if self.items else {}
        values |= {"max_tokens": self.max_tokens} if self.max_tokens else {}
        values |= {"sandbox_level": self.sandbox} if self.sandbox is not None else {}
        return values | ({"parts": {name: part.json() for name, part in self.parts.items()}} if self.parts else {})

    def __str__(self) -> str:
        return f"{self.score:.3f} ± {self.stderr:.3f} (n {items_asked(self.json())}, chance {self.chance:.2f})"


class Centered(NamedTuple):
    """A score scaled so that its baseline (0 to 1) counts 0 and all right counts 1, with its standard error."""

    value: float
    stderr: float

    @classmethod
    def of(cls, score: Score, baseline: float) -> "Centered":
        return cls((score.score - baseline) / (1 - baseline), score.stderr / (1 - baseline))

    @classmethod
    def mean(cls, scores: Collection["Centered"]) -> "Centered":
        """Its error follows from the errors of the tasks."""
        n = max(1, len(scores))
        return cls(sum(one.value for one in scores) / n, math.sqrt(sum(one.stderr**2 for one in scores)) / n)

    def json(self) -> dict[str, float]:
        return {"centered": round(self.value, 6), "centered_stderr": round(self.stderr, 6)}


def items_asked(score: dict[str, Any]) -> str:
    """n; "20 of 1,319" of a sample; "20 of 1,319, 3 did not fit"."""
    text = f"{score['n']:,} of {score['items']:,}" if score["n"] < score.get("items", 0) else f"{score['n']:,}"
    return text + (f", {score['did_not_fit']:,} did not fit" if score.get("did_not_fit") else "")


def score_table(
    rows: Iterable[tuple[tuple[str, ...], dict[str, Any]]], labels: Sequence[str], failed: str = "failed"
) -> str:
    """A line for each (names, score as JSON), the task's first; notes below. failed: see `footnotes`."""
    lines, notes = [], []
    for names, s in rows:
        lines.append((*names, f"{s['score']:.3f}", f"± {s['stderr']:.3f}", items_asked(s), f"{s['chance']:.2f}"))
        notes += footnotes(names[0], s, failed)
    shown = table(lines, (*labels, "score", "error", "n", "chance"), left=len(labels))
    return "\n".join([shown, *dict.fromkeys(notes)])


def task_table(scores: dict[str, dict[str, Any]]) -> str:
    """A line a task."""
    return score_table((((name,), one) for name, one in scores.items()), ("task",))


def footnotes(name: str, score: dict[str, Any], failed: str = "failed") -> list[str]:
    """Notes on a score, as its JSON has it; most have none. failed: a word for what did."""
    notes = []
    if "sandbox_level" in score:
        faults = ", ".join(f"{count:,} {fault}" for fault, count in score.get("failed", {}).items())
        notes.append(f"{name}: {f'{failed}: {faults}; ' if faults else ''}sandbox level {score['sandbox_level']}")
    if "max_tokens" in score:
        notes.append(f"{name}: answers of at most {score['max_tokens']:,} tokens, which a right one may need")
    if "left_out" in score:
        notes.append(f"{name}: {score['left_out']:,} items that are in the training data were not asked")
    return notes


def settings(values: dict[str, Any]) -> str:
    """settings: limit 200, max_tokens 128, temperature 0, seed 0."""
    return "settings: " + ", ".join(f"{key} {'none' if value is None else value}" for key, value in values.items())
