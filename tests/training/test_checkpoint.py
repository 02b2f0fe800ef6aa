"""Checkpoints: complete or an error, and exact."""

import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.testing import assert_close

from lanbot.chat.formats.base import ChatFormat
from lanbot.core.errors import Stopped, UserError
from lanbot.distributed.runtime import Runtime
from lanbot.models import saved
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model
from lanbot.training import checkpoint
from lanbot.training.optim import MuonAdamW, Rates

RUNTIME = Runtime.single()

TRUE = torch.tensor(True)

MakeModel = Callable[..., Transformer]
Save = Callable[..., Path]


def train_a_little(model: Transformer, optimizer: MuonAdamW, seeds: range) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step(1.0, TRUE)
        optimizer.zero_grad()


def fresh(make_model: MakeModel, seed: int = 0, **changes: object) -> tuple[Transformer, MuonAdamW]:
    model = make_model(seed=seed, **changes)
    return model, MuonAdamW(model, Rates(0.02, 0.1, 0.01, 0.005), torch.float32)


@pytest.fixture
def phase(tmp_path: Path) -> Path:
    return tmp_path / "base"


@pytest.fixture
def save(make_model: MakeModel, chat_format: ChatFormat, phase: Path) -> Save:
    """save(step): a checkpoint of that name; the model is trained on between them."""
    model, optimizer = fresh(make_model, dim=16, n_layers=1, mlp_dim=16)

    def save(step: int) -> Path:
        train_a_little(model, optimizer, range(step, step + 1))
        return checkpoint.save(phase, step, model, chat_format, optimizer, {"step": step}, RUNTIME)

    return save


def flip(path: Path, position: int) -> Iterator[None]:
    """The first step flips a bit of the file, the next flips it back."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))
    content[position] ^= 1
    yield
    path.write_bytes(bytes(content))


# -- whole ---------------------------------------------------------------------------------------------------


def test_a_saved_checkpoint_is_complete_and_the_latest(save: Save, phase: Path) -> None:
    folder = save(7)
    assert folder == phase / "step_000007"
    assert saved.damage(folder) is None
    assert saved.latest(phase) == folder
    assert saved.step_of(folder) == 7
    assert sorted(path.name for path in phase.iterdir()) == ["step_000007"]
    assert {"model.safetensors", "config.json", "tokenizer.json", "trainer"} <= {p.name for p in folder.iterdir()}


def test_there_is_none_where_nothing_was_saved(phase: Path) -> None:
    assert saved.latest(phase) is None
    assert saved.latest(phase) is None


def test_the_last_two_are_kept(save: Save, phase: Path) -> None:
    for step in (2, 4, 6, 8):
        save(step)
    assert sorted(path.name for path in phase.iterdir()) == ["step_000006", "step_000008"]


def test_steps_are_ordered_as_numbers(save: Save, phase: Path) -> None:
    save(999_999)
    assert saved.latest(phase) == phase / "step_999999"
    save(1_000_000)
    assert saved.latest(phase) == phase / "step_1000000"


def test_only_folders_named_step_and_digits_are_checkpoints(save: Save, phase: Path) -> None:
    """A copy, a note or a file beside the checkpoints is neither loaded nor deleted."""
    last = save(15)
    others = [phase / "step_000015_2", phase / "step_000015_backup", phase / "old_step_000099"]
    for folder in others:
        shutil.copytree(last, folder)
    others += [phase / "step_notes.txt", phase / "step_000099"]
    for file in others[-2:]:
        file.write_text("notes")
    assert saved.steps(phase) == [last] and saved.latest(phase) == last
    for step in (16, 17):
        save(step)
    assert saved.latest(phase) == phase / "step_000017" and not last.exists()
    assert all(path.exists() for path in others)


def test_a_checkpoint_may_be_saved_again(save: Save, phase: Path) -> None:
    save(3)
    assert saved.damage(save(3)) is None
    assert len(list(phase.iterdir())) == 1


def test_a_checkpoint_opens_in_transformers(make_model: MakeModel, chat_format: ChatFormat, phase: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, optimizer = fresh(make_model)
    train_a_little(model, optimizer, range(2))
    folder = checkpoint.save(phase, 2, model, chat_format, optimizer, {}, RUNTIME)
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(folder)("Once upon a time", return_tensors="pt").input_ids
    assert ids[0].tolist() == chat_format.tokenizer.encode("Once upon a time")
    assert theirs.config.bos_token_id == chat_format.bos
    assert theirs.config.eos_token_id == chat_format.tokenizer.special["<|assistant_end|>"]
    with torch.no_grad():
        assert_close(theirs(ids).logits, model.logits(model(ids)), atol=1e-4, rtol=1e-4)


# -- damaged -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize(
    "file",
    [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "trainer/.metadata",
        "trainer/__0_0.distcp",
    ],
)
def test_a_flipped_byte_is_found_and_the_checkpoint_before_is_taken(
    save: Save, phase: Path, file: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, last = save(2), save(4)
    size = (last / file).stat().st_size
    next(flip(last / file, {"first": 0, "middle": size // 2, "last": size - 1}[place]))
    assert file in (saved.damage(last) or "")
    assert saved.latest(phase) == before
    told = capsys.readouterr().err
    assert str(last) in told and file in told
    load_model(before, RUNTIME.dtype, RUNTIME.device)


def test_a_flipped_byte_anywhere_in_the_manifest_is_found(save: Save) -> None:
    folder = save(4)
    content = (folder / "manifest.json").read_bytes()
    for position in range(content.index(b'"files"'), len(content.rstrip())):
        for _ in flip(folder / "manifest.json", position):
            assert saved.damage(folder), content[max(0, position - 20) : position + 5]
    assert saved.damage(folder) is None


@pytest.mark.parametrize("file", ["model.safetensors", "trainer/.metadata", "manifest.json"])
@pytest.mark.parametrize("how", ["missing", "empty", "longer"])
def test_a_missing_cut_or_longer_file_is_found(save: Save, phase: Path, file: str, how: str) -> None:
    before, last = save(2), save(4)
    path = last / file
    content = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(b"" if how == "empty" else content + b"x")
    assert saved.damage(last)
    assert saved.latest(phase) == before


def test_a_half_written_folder_is_no_checkpoint(save: Save, phase: Path) -> None:
    folder = save(2)
    save(4).rename(phase / ".step_000004.tmp")
    assert saved.latest(phase) == folder
    again = save(4)
    assert saved.latest(phase) == again
    assert not (phase / ".step_000004.tmp").exists()


def test_a_checkpoint_is_kept_though_damaged_ones_are_later(save: Save, phase: Path) -> None:
    for step in (4, 6):
        (save(step) / "model.safetensors").unlink()
    assert saved.latest(phase) is None
    new = save(1)
    assert saved.latest(phase) == new


# -- a full disk ---------------------------------------------------------------------------------------------

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FULL = {  # where it shows, and how each library tells it
    "weights": (
        "save_model",
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ),
    "tokenizer": ("ChatFormat.save", Exception("No space left on device (os error 28)")),
    "trainer": ("os.fsync", NO_SPACE),
    "manifest": ("_digest", NO_SPACE),
}


@pytest.mark.parametrize("where", FULL)
def test_a_full_disk_is_an_error_and_keeps_the_checkpoint_before(
    save: Save, phase: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = save(2)
    name, error = FULL[where]

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(f"lanbot.training.checkpoint.{name}", fail)
        with pytest.raises(UserError, match=r"step_000004: cannot be saved, the disk is full\n.*free some space"):
            save(4)
    assert [path.name for path in phase.iterdir()] == ["step_000002"]
    assert saved.latest(phase) == before
    assert saved.latest(phase.parent / "base") == before
    assert saved.damage(save(4)) is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"may not mount a file system: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path, make_model: MakeModel, chat_format: ChatFormat) -> None:
    """It fills up wherever it happens to: with the weights, the tokenizer, the trainer's state."""
    phase = small_disk / "base"
    model, optimizer = fresh(make_model)
    before = checkpoint.save(phase, 2, model, chat_format, optimizer, {}, RUNTIME)
    room = sum(path.stat().st_size for path in before.rglob("*") if path.is_file())
    left = shutil.disk_usage(small_disk).free
    for missing in range(1, 10):
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * (left - room * missing // 10))
        with pytest.raises(UserError, match="cannot be saved, the disk is full"):
            checkpoint.save(phase, 4, model, chat_format, optimizer, {}, RUNTIME)
        filler.unlink()
        assert list(phase.iterdir()) == [before]
        assert saved.latest(phase) == before
    checkpoint.save(phase, 4, model, chat_format, optimizer, {}, RUNTIME)


def test_a_read_only_disk_is_an_error(small_disk: Path, make_model: MakeModel, chat_format: ChatFormat) -> None:
    phase = small_disk / "base"
    model, optimizer = fresh(make_model)
    before = checkpoint.save(phase, 2, model, chat_format, optimizer, {}, RUNTIME)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=r"step_000004: cannot be saved, .*Read-only file system"):
        checkpoint.save(phase, 4, model, chat_format, optimizer, {}, RUNTIME)
    assert saved.latest(phase) == before


def test_another_error_of_the_system_is_reported_unchanged(
    save: Save, phase: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "model.safetensors")

    monkeypatch.setattr(checkpoint, "save_model", fail)
    with pytest.raises(UserError, match=r"cannot be saved, .*Permission denied"):
        save(2)
    assert not list(phase.iterdir())


def test_a_bug_is_not_taken_for_a_full_disk(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(checkpoint, "save_model", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        save(2)


# -- resumed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True}, {"family": "qwen2"}], ids=str)
def test_a_resumed_optimiser_is_the_same(
    make_model: MakeModel, chat_format: ChatFormat, phase: Path, changes: dict[str, object]
) -> None:
    model, optimizer = fresh(make_model, **changes)
    train_a_little(model, optimizer, range(3))
    torch.manual_seed(11)
    torch.rand(5)
    progress = {"step": 3, "loader": {"left_over": [1, 2], "name": "é"}, "seconds": 0.1}
    folder = checkpoint.save(phase, 3, model, chat_format, optimizer, progress, RUNTIME)
    drawn = torch.rand(5)
    train_a_little(model, optimizer, range(3, 6))

    again, new_optimizer = fresh(make_model, seed=99, **changes)
    again.load_state_dict(load_model(folder, RUNTIME.dtype, RUNTIME.device).state_dict())
    torch.manual_seed(12)
    assert checkpoint.resume(folder, new_optimizer, RUNTIME) == progress
    assert torch.equal(torch.rand(5), drawn)
    assert new_optimizer.steps == 3
    train_a_little(again, new_optimizer, range(3, 6))
    for (name, ours), expected in zip(again.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, expected), name
    for name, state in optimizer.state.items():
        assert all(torch.equal(new_optimizer.state[name][key], value) for key, value in state.items()), name


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), Stopped(143, "stopped")])
def test_a_signal_inside_a_save_is_itself_and_leaves_the_checkpoint_before(
    save: Save, phase: Path, signal: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = save(2)

    def interrupted(*_: object, **__: object) -> None:
        raise CheckpointException("", {0: (signal, None)})  # type: ignore[dict-item]

    monkeypatch.setattr(dcp, "save", interrupted)
    with pytest.raises(type(signal)):
        save(4)
    assert list(phase.glob(".step_*")) == []
    assert saved.latest(phase) == before


def test_what_a_killed_save_left_behind_is_removed_by_the_trainer_not_by_a_reader(save: Save, phase: Path) -> None:
    whole = save(2)
    (phase / ".step_000003.tmp" / "trainer").mkdir(parents=True)
    assert saved.latest(phase) == whole
    assert len(list(phase.glob(".step_*"))) == 1, "a save may be going on there"
    checkpoint.clean(phase)
    assert list(phase.iterdir()) == [whole]


# -- in the background ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True}], ids=str)
def test_a_save_in_the_background_holds_the_state_of_its_moment(
    make_model: MakeModel,
    chat_format: ChatFormat,
    phase: Path,
    changes: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, optimizer = fresh(make_model, **changes)
    train_a_little(model, optimizer, range(3))
    at_once = checkpoint.save(phase / "at_once", 3, model, chat_format, optimizer, {"step": 3}, RUNTIME)
    may_write, write = threading.Event(), checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", lambda *rest: may_write.wait() and write(*rest))
    saver = checkpoint.Saver(RUNTIME, background=True)
    saver.save(phase, 3, model, chat_format, optimizer, {"step": 3})
    torch.rand(5)
    train_a_little(model, optimizer, range(3, 6))
    assert saved.latest(phase) is None
    may_write.set()
    saver.wait()
    folder = saved.latest(phase)
    assert folder is not None
    assert (folder / "model.safetensors").read_bytes() == (at_once / "model.safetensors").read_bytes()
    for name in ("again", "expected"):
        restored, state = fresh(make_model, seed=9, **changes)
        assert checkpoint.resume(folder if name == "again" else at_once, state, RUNTIME) == {"step": 3}
        train_a_little(restored, state, range(3, 6))
        restored.load_state_dict(load_model(folder, RUNTIME.dtype, RUNTIME.device).state_dict())
        train_a_little(restored, state, range(3, 6))
        if name == "again":
            first = [p.clone() for p in restored.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(first, restored.parameters(), strict=True))


def test_the_saving_thread_uses_the_device_of_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new thread would use GPU 0, where each rank would then hold a context of half a gigabyte."""
    used: list[tuple[torch.device, int]] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: used.append((device, threading.get_ident())))
    monkeypatch.setattr(checkpoint, "BlockingAsyncStager", lambda **_: None)
    device = torch.device("cuda", 3)
    saver = checkpoint.Saver(replace(RUNTIME, device=device))
    assert saver.background
    thread = saver.pool.submit(threading.get_ident).result()
    assert used == [(device, thread)] and thread != threading.get_ident()


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_0_alone_copies_the_weights_that_it_alone_writes(
    make_model: MakeModel, chat_format: ChatFormat, phase: Path, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = fresh(make_model)
    saver = checkpoint.Saver(replace(RUNTIME, rank=rank), background=True)
    staged: list[dict[str, Any]] = []
    written: list[Transformer | None] = []
    stage = saver.stager.stage
    monkeypatch.setattr(saver.stager, "stage", lambda state: staged.append(state) or stage(state))
    monkeypatch.setattr(checkpoint, "_write", lambda phase, step, model, *rest: written.append(model))
    saver.save(phase, 2, model, chat_format, optimizer, {})
    saver.wait()
    assert set(staged[0]["weights"]) == ({name for name, _ in model.named_parameters()} if rank == 0 else set())
    assert "rng" in staged[0]["trainer"] and (written[0] is not None) == (rank == 0)


def test_the_writer_does_not_wait_for_a_cuda_stream(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors are on the host already; copying ahead would synchronise with the training stream."""
    options: list[dict[str, Any]] = []
    writer = checkpoint.FileSystemWriter
    monkeypatch.setattr(
        checkpoint, "FileSystemWriter", lambda path, **given: options.append(given) or writer(path, **given)
    )
    save(2)
    assert [given["per_thread_copy_ahead"] for given in options] == [0]


@pytest.mark.parametrize("then", ["save", "wait"])
def test_an_error_in_the_background_is_raised_afterwards(
    save: Save, phase: Path, make_model: MakeModel, chat_format: ChatFormat, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = save(2)
    model, optimizer = fresh(make_model)
    saver = checkpoint.Saver(RUNTIME, background=True)

    def full(*_: object) -> None:
        raise NO_SPACE

    monkeypatch.setattr(checkpoint, "save_model", full)
    saver.save(phase, 4, model, chat_format, optimizer, {})
    with pytest.raises(UserError, match="step_000004: cannot be saved, the disk is full"):
        saver.save(phase, 6, model, chat_format, optimizer, {}) if then == "save" else saver.wait()
    monkeypatch.undo()
    assert [path.name for path in phase.iterdir()] == [before.name]
    saver.wait()  # it is told once
    saver.save(phase, 6, model, chat_format, optimizer, {})
    saver.wait()
    assert saved.latest(phase) == phase / "step_000006"
