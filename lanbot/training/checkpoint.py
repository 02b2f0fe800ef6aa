"""Checkpoints: a model folder with the trainer's state beside it, complete once its manifest exists.

step_000400/
  model.safetensors config.json tokenizer.json tokenizer_config.json    opens in transformers as it is
  trainer/                                                              torch.distributed.checkpoint: each rank writes
                                                                        its share, any number of them reads it
  manifest.json                                                         size and sha256 of every file, written last
  adapter/                                                              with LoRA: PEFT's files. Only the phase's last
                                                                        step has a model, with the adapters merged
The folder is written as .step_000400.tmp, synced and renamed: after a kill or a power loss it is complete or absent.
A save keeps the last KEEP checkpoints of a phase and deletes earlier ones once it is done, so a phase takes the space
of KEEP checkpoints, and of one more while it saves.
"""

import copy
import errno
import json
import os
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from lanbot.chat.formats.base import ChatFormat
from lanbot.core.errors import UserError
from lanbot.distributed.fsdp import gathered_on_main, on_main
from lanbot.distributed.runtime import Runtime
from lanbot.models import lora, saved
from lanbot.models.saved import sha256
from lanbot.models.transformer import Transformer
from lanbot.models.weights import save_model
from lanbot.training.optim import MuonAdamW

_WriteAdapter = Callable[[Path], None]

KEEP = 2
"""Checkpoints that are kept of a phase: if the last is damaged, the one before it is used."""


class Saver:
    """Saves the steps of a phase, in the background where the device would wait for it.

    On CUDA the state is copied to pinned memory and a thread writes it while training continues, one at a time: the
    next save waits for the last. On the CPU it is written synchronously: a thread there takes cores and memory from
    training and saves no time. An error in the thread is raised by the next `save` or `wait`.
    """

    def __init__(self, runtime: Runtime, background: bool | None = None) -> None:
        """background: left out, as the device needs it."""
        self.runtime = runtime
        cuda = runtime.device.type == "cuda"
        self.background = cuda if background is None else background
        self.stager = BlockingAsyncStager(cache_staged_state_dict=cuda)
        self.pool = ThreadPoolExecutor(1, "checkpoint", _use_device, (runtime.device,))
        self.running: Future[Path] | None = None
        # the thread's collectives must not meet training's
        apart = self.background and runtime.size > 1
        self.group: dist.ProcessGroup | None = dist.new_group(backend="gloo") if apart else None

    def save(
        self,
        phase: Path,
        step: int,
        model: Transformer,
        chat_format: ChatFormat,
        optimizer: MuonAdamW,
        progress: dict[str, Any],
        last: bool = True,
    ) -> None:
        """As the function `save`, whose errors may be raised later."""
        self.wait()
        if not self.background:
            save(phase, step, model, chat_format, optimizer, progress, self.runtime, last)
            return
        whole, adapter = _contents(model, self.runtime.main, last)
        # rank 0 alone writes weights; those of a sharded model, or merged ones, are a copy on the host already
        copied = whole is model and self.runtime.main
        weights = {name: p.detach() for name, p in model.named_parameters()} if copied else {}
        staged = self.stager.stage({"weights": weights, "trainer": _trainer_state(optimizer, progress)})
        if copied:
            copies: dict[int, Any] = {id(p): nn.Parameter(staged["weights"][n]) for n, p in model.named_parameters()}
            whole = copy.deepcopy(model, copies)  # deepcopy takes these as the parameters' copies
        self.running = self.pool.submit(
            _write, phase, step, whole if self.runtime.main else None, chat_format, staged["trainer"],
            self.runtime, self.group, adapter,
        )  # fmt: skip

    def wait(self) -> None:
        """Until the last save is on disk. Raises what `save` raises."""
        running, self.running = self.running, None
        if running is not None:
            running.result()


def save(
    phase: Path,
    step: int,
    model: Transformer,
    chat_format: ChatFormat,
    optimizer: MuonAdamW,
    progress: dict[str, Any],
    runtime: Runtime,
    last: bool = True,
) -> Path:
    """Saves a step of a phase; all ranks call it. `progress` is JSON: the loader's state and the counters. last:
    whether it is the phase's last step; before that, adapters are saved without their model.

    Raises UserError if it cannot be written (the disk is full, or read-only); checkpoints before it are untouched.
    """
    whole, adapter = _contents(model, runtime.main, last)
    state = _trainer_state(optimizer, progress)
    return _write(phase, step, whole, chat_format, state, runtime, adapter=adapter)


def _contents(model: Transformer, main: bool, last: bool) -> tuple[Transformer | None, _WriteAdapter | None]:
    """What rank 0 writes: the model, adapters merged (None: nothing), and how to write the adapters."""
    if model.lora is None:
        return gathered_on_main(model, main), None
    adapter = partial(lora.save_adapter, model, on_main(model, main, trained_alone=True))
    return gathered_on_main(model, main) if last else None, adapter


def save_model_alone(phase: Path, step: int, model: Transformer, chat_format: ChatFormat, runtime: Runtime) -> Path:
    """A step without trainer/: a model that was trained elsewhere. Raises UserError as `save`."""
    return _write(phase, step, model, chat_format, None, runtime)


def _use_device(device: torch.device) -> None:
    """For a new thread, which would work on GPU 0 otherwise."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _trainer_state(optimizer: MuonAdamW, progress: dict[str, Any]) -> dict[str, Any]:
    return {**optimizer.state_dict(), "rng": torch.get_rng_state(), "progress": json.dumps(progress)}


def _write(
    phase: Path,
    step: int,
    model: Transformer | None,
    chat_format: ChatFormat,
    state: dict[str, Any] | None,
    runtime: Runtime,
    group: dist.ProcessGroup | None = None,
    adapter: _WriteAdapter | None = None,
) -> Path:
    """model: not sharded; rank 0 writes it, and the adapter. state: this rank's share of trainer/; None: there is none.
    group: for the collectives of several ranks; the default one if left out."""
    folder, beside = phase / f"step_{step:06d}", phase / f".step_{step:06d}.tmp"
    try:
        if runtime.main:
            assert model is not None or adapter is not None
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            if model is not None:
                ids = {"bos_token_id": chat_format.bos, "eos_token_id": chat_format.end_of_turn}
                save_model(model, beside, ids)
            if adapter is not None:
                adapter(beside / lora.FOLDER)
            chat_format.save(beside)
        _barrier(runtime, group)
        if state is not None:
            with warnings.catch_warnings():  # "assuming single process": so it is
                warnings.simplefilter("ignore")
                writer = FileSystemWriter(beside / "trainer", per_thread_copy_ahead=0)  # the tensors are on the host
                dcp.save(state, storage_writer=writer, process_group=group, no_dist=runtime.size == 1)
        _barrier(runtime, group)
        if runtime.main:
            manifest = {"step": step, "files": _digest(beside)}
            (beside / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            for path in (beside / "manifest.json", *([] if state is None else [beside / "trainer"]), beside):
                _sync(path)
            shutil.rmtree(folder, ignore_errors=True)
            beside.rename(folder)
            _sync(phase)
            for old in [s for s in saved.steps(phase) if saved.step_of(s) <= step][:-KEEP]:  # later ones are damaged
                shutil.rmtree(old)
    except (Exception, CheckpointException) as caught:  # each library reports a full disk in its own way
        error = _cause(caught)
        full = _disk_is_full(error)
        shutil.rmtree(beside, ignore_errors=True)
        if not full and not isinstance(error, OSError):
            raise error from None
        cause = "the disk is full" if full else str(error)
        remedy = "free some space (lanbot runs)" if full else "fix that"
        raise UserError(
            f"{folder}: cannot be saved, {cause}",
            f"Earlier checkpoints are complete: {remedy} and run the same command again.",
        ) from None
    _barrier(runtime, group)
    return folder


def _barrier(runtime: Runtime, group: dist.ProcessGroup | None) -> None:
    if runtime.size > 1:
        dist.barrier(group)


def resume(folder: Path, optimizer: MuonAdamW, runtime: Runtime) -> dict[str, Any]:
    """Fills the optimiser and the random state from a checkpoint, in place; returns its `progress`."""
    state: dict[str, Any] = {**optimizer.state_dict(), "rng": torch.get_rng_state(), "progress": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dcp.load(state, checkpoint_id=folder / "trainer", no_dist=runtime.size == 1)
        except CheckpointException as caught:
            raise _cause(caught) from None
    rng: Tensor = state["rng"]
    torch.set_rng_state(rng)
    return json.loads(state["progress"])


def clean(phase: Path) -> None:
    """Removes what an interrupted save left behind. For the process that trains: a reader would tear down its save."""
    for beside in phase.glob(".step_*.tmp"):
        shutil.rmtree(beside, ignore_errors=True)


def _cause(error: BaseException) -> BaseException:
    """What was raised inside torch.distributed.checkpoint, which wraps everything, Ctrl-C too."""
    if isinstance(error, CheckpointException):
        causes = [failure[0] for failure in error.failures.values()]
        return next((cause for cause in causes if not isinstance(cause, Exception)), causes[0])
    return error


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether the error or one of its causes says so: torch's archive raises another error while it closes."""
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _digest(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        _sync(path)
    return {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}


def _sync(path: Path) -> None:
    """Of a file its content, of a folder its names."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
