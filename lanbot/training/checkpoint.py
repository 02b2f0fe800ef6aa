"""Checkpoints: a model folder with the trainer's state beside it, complete only once its manifest is there.

step_000400/
  model.safetensors config.json tokenizer.json tokenizer_config.json    opens in transformers as it is
  trainer/                                                              torch.distributed.checkpoint
  manifest.json                                                         size and sha256 of every file, written last
The folder is written as .step_000400.tmp and renamed.
"""

import errno
import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from lanbot.console import say
from lanbot.errors import UserError
from lanbot.model.transformer import Transformer
from lanbot.model.weights import load_model, save_model
from lanbot.tokenizer import Tokenizer
from lanbot.training.optim import MuonAdamW
from lanbot.training.parallel import World, barrier, from_main

KEEP = 2
"""How many checkpoints of a phase are kept: should the last be damaged, one before it is there."""


def save(
    phase: Path,
    step: int,
    model: Transformer,
    tokenizer: Tokenizer,
    optimizer: MuonAdamW,
    progress: dict[str, Any],
    world: World,
) -> Path:
    """Saves a step of a phase; all ranks call it. `progress` is JSON: the loader's state and what else goes on.

    Raises UserError if the disk is full; checkpoints before it are untouched.
    """
    folder, beside = phase / f"step_{step:06d}", phase / f".step_{step:06d}.tmp"
    try:
        if world.main:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            ids = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.special["<|assistant_end|>"]}
            save_model(model, beside, ids)
            tokenizer.save(beside)
        barrier()
        state = {**optimizer.state_dict(), "rng": torch.get_rng_state(), "progress": json.dumps(progress)}
        with warnings.catch_warnings():  # "assuming single process": so it is
            warnings.simplefilter("ignore")
            dcp.save(state, checkpoint_id=beside / "trainer", no_dist=world.size == 1)
        barrier()
        if world.main:
            manifest = {"step": step, "files": _digest(beside)}
            (beside / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
            _sync(beside / "manifest.json")
            shutil.rmtree(folder, ignore_errors=True)
            beside.rename(folder)
            for old in [s for s in _steps(phase) if step_of(s) <= step][:-KEEP]:  # later ones are damaged
                shutil.rmtree(old)
    except (Exception, CheckpointException) as caught:  # each library tells a full disk in its own way
        error = _cause(caught)
        shutil.rmtree(beside, ignore_errors=True)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        if not full and not isinstance(error, OSError):
            raise error from None
        cause = "the disk is full" if full else str(error)
        remedy = "Earlier checkpoints are whole: free some space (lanbot runs) and run the same command again."
        raise UserError(f"{folder}: cannot be saved, {cause}", remedy) from None
    barrier()
    return folder


def latest(phase: Path) -> Path | None:
    """The last whole checkpoint of a phase. Damaged ones are told, and passed over."""
    for folder in reversed(_steps(phase)):
        problem = damage(folder)
        if problem is None:
            return folder
        say(f"{folder} is damaged ({problem}): going on from the one before it")
    return None


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, by its manifest; None if it is whole."""
    try:
        files = json.loads((folder / "manifest.json").read_text())["files"]
        expected = [(name, entry["bytes"], entry["sha256"]) for name, entry in files.items()]
    except (OSError, ValueError, KeyError):
        return "its manifest is missing or broken"
    for name, count, sha256 in expected:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != count:
            return f"{name} has {path.stat().st_size:,} bytes instead of {count:,}"
        if _sha256(path) != sha256:
            return f"{name} does not match its sha256"
    return None


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def load(folder: Path, world: World) -> Transformer:
    """The model of a checkpoint that `latest` found whole."""
    return load_model(folder, world.dtype, world.device)


def resume(folder: Path, optimizer: MuonAdamW, world: World) -> dict[str, Any]:
    """Fills the optimiser and the random state from a checkpoint, in place; returns its `progress`."""
    state: dict[str, Any] = {**optimizer.state_dict(), "rng": torch.get_rng_state(), "progress": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dcp.load(state, checkpoint_id=folder / "trainer", no_dist=world.size == 1)
        except CheckpointException as caught:
            raise _cause(caught) from None
    rng: Tensor = state["rng"]
    torch.set_rng_state(rng)
    return json.loads(state["progress"])


def last_step(phase: Path, world: World) -> Path | None:
    """`latest`, looked up once for all ranks; what an interrupted save left behind is removed."""
    if world.main:
        for beside in phase.glob(".step_*.tmp"):
            shutil.rmtree(beside, ignore_errors=True)
    return from_main(latest(phase) if world.main else None)


def _cause(error: BaseException) -> BaseException:
    """What was raised inside torch.distributed.checkpoint, which wraps everything, Ctrl-C too."""
    if isinstance(error, CheckpointException):
        causes = [failure[0] for failure in error.failures.values()]
        return next((cause for cause in causes if not isinstance(cause, Exception)), causes[0])
    return error


def _steps(phase: Path) -> list[Path]:
    return sorted(phase.glob("step_*"), key=step_of)


def _digest(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        _sync(path)
    return {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
