"""What stands beneath scores, for those who read them. No torch here: reports say it too."""

from typing import Any


def beneath(name: str, score: dict[str, Any]) -> list[str]:
    """The notes on a score, as its JSON has it; most have none."""
    notes = []
    if "sandbox_level" in score:
        notes.append(programs(name, score))
    if "left_out" in score:
        notes.append(f"{name}: {score['left_out']:,} items that are in the training data were not asked")
    return notes


def programs(name: str, score: dict[str, Any]) -> str:
    """humaneval: failed: 3 wrong, 1 timeout; sandbox level 2."""
    failed = ", ".join(f"{count:,} {fault}" for fault, count in score.get("failed", {}).items())
    level = f"sandbox level {score['sandbox_level']}"
    return f"{name}: {f'failed: {failed}; ' if failed else ''}{level}"
