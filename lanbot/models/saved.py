"""Finding a phase's checkpoints, for all who open one; training/checkpoint.py writes them and says their layout."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from lanbot.core.console import say

STEP = re.compile(r"step_(\d+)")


def latest(phase: Path) -> Path | None:
    """The last complete checkpoint of a phase. Warns about damaged checkpoints and skips them."""
    for folder in reversed(steps(phase)):
        problem = damage(folder)
        if problem is None:
            return folder
        say(f"{folder} is damaged ({problem}): using the checkpoint before it")
    return None


def steps(phase: Path) -> list[Path]:
    """The folders that are named as checkpoints, complete or not, by step."""
    return sorted((path for path in phase.glob("step_*") if STEP.fullmatch(path.name) and path.is_dir()), key=step_of)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def damage(folder: Path, only: Sequence[str] = ()) -> str | None:
    """What is wrong with a checkpoint, or with these files of it, by its manifest; None if it is complete."""
    try:
        files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
        expected = [(name, files[name]["bytes"], files[name]["sha256"]) for name in only or files]
    except (OSError, ValueError, KeyError):
        return "its manifest is missing or broken"
    for name, count, digest in expected:
        path = folder / name
        try:
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != count:
                return f"{name} has {path.stat().st_size:,} bytes instead of {count:,}"
            if sha256(path) != digest:
                return f"{name} does not match its sha256"
        except OSError as error:  # the disk fails
            return f"{name} cannot be read: {error.strerror}"
    return None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
