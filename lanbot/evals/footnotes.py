"""What stands beneath scores, for those who read them. No torch here: reports say it too."""

from typing import Any


def beneath(name: str, score: dict[str, Any], failed: str = "failed") -> list[str]:
    """The notes on a score, as its JSON has it; most have none. failed: a word for what did."""
    notes = []
    if "sandbox_level" in score:
        notes.append(programs(name, score, failed))
    if "max_tokens" in score:
        notes.append(f"{name}: answers of at most {score['max_tokens']:,} tokens, which a right one may need")
    if "left_out" in score:
        notes.append(f"{name}: {score['left_out']:,} items that are in the training data were not asked")
    return notes


def settings(values: dict[str, Any]) -> str:
    """settings: limit 200, max_tokens 128, temperature 0, seed 0: as JSON has them."""
    return "settings: " + ", ".join(f"{key} {'none' if value is None else value}" for key, value in values.items())


def programs(name: str, score: dict[str, Any], failed: str = "failed") -> str:
    """humaneval: failed: 3 wrong, 1 timeout; sandbox level 2."""
    faults = ", ".join(f"{count:,} {fault}" for fault, count in score.get("failed", {}).items())
    level = f"sandbox level {score['sandbox_level']}"
    return f"{name}: {f'{failed}: {faults}; ' if faults else ''}{level}"
