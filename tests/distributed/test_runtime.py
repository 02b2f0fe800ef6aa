"""Several ranks train what one trains, and their checkpoints go on at any number of them.

This file is the test and, under torchrun, the ranks: python -m torch.distributed.run ... test_parallel.py JOB FOLDER
"""

import gc
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lanbot.chat.formats import load_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.core import hardware
from lanbot.data.packing import Batch
from lanbot.distributed import fsdp
from lanbot.distributed.runtime import Runtime
from lanbot.models import saved
from lanbot.models.config import ModelConfig
from lanbot.models.init import init_weights
from lanbot.models.lora import LoRA, attach, initial, load_adapter
from lanbot.models.stored import Rows
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model, save_model
from lanbot.training import checkpoint, memory
from lanbot.training.optim import MuonAdamW, Rates
from lanbot.training.sampled_softmax import SampledSoftmax
from lanbot.training.step import training_step

RUNTIME = Runtime.start()

LAYOUTS = ("dealt", "sharded")
VOCAB, T = 449, 24  # an odd vocabulary and MLP: nothing divides by the number of ranks
ROWS = (6, 1, 5, 6)
"""Of each step: a rank may have more passes than another, or none."""
SAVED = 2
RATES = Rates(0.02, 0.05, 0.01, 0.005, weight_decay=0.1)


def batches() -> Iterator[Batch]:
    rng = np.random.default_rng(0)
    for rows in ROWS:
        tokens = rng.integers(0, VOCAB, (rows, T + 1))
        weights = rng.random((rows, T)).astype(np.float32) / (rows * T)
        documents = (rng.random((rows, T)) < 0.2).cumsum(axis=1)
        yield Batch(tokens[:, :-1].copy(), tokens[:, 1:].copy(), weights, documents)


def fresh(layout: str, dtype: torch.dtype = torch.float32, tied: bool = False) -> tuple[Transformer, MuonAdamW]:
    config = ModelConfig(
        vocab_size=VOCAB, dim=32, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=8, mlp_dim=50, context=64,
        tie_embeddings=tied,
    )  # fmt: skip
    model = Transformer(config, dtype)
    init_weights(model, torch.Generator().manual_seed(0))
    if layout == "sharded":
        assert RUNTIME.mesh is not None
        fsdp.shard(model, RUNTIME.mesh)
    return model, MuonAdamW(model, RATES, dtype, RUNTIME.mesh)


def steps(model: Transformer, optimizer: MuonAdamW, numbers: range) -> list[tuple[float, float]]:
    """(loss, gradient norm) of each; every second one with a softmax over some tokens."""
    place, results = RUNTIME, []
    sampled = SampledSoftmax(np.arange(VOCAB), 50, seed=0, at_random=40)
    for i, batch in enumerate(batches()):
        if i in numbers:
            mine = batch.rows(slice(place.rank, None, place.size))
            candidates = sampled.candidates(batch.targets, i, 0.0) if i % 2 else None
            result = training_step(model, optimizer, mine, 1.0, 0.05, 2, RUNTIME, candidates)
            results.append((result.loss.item(), result.grad_norm.item()))
    return results


def weights(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in fsdp.gathered(model).named_parameters()}


def state_numel(optimizer: MuonAdamW) -> int:
    return sum(tensor.numel() for kept in optimizer.state.values() for tensor in kept.values())


def train_and_save(folder: Path) -> None:
    vocabulary = load_format(folder)
    for layout in LAYOUTS:
        model, optimizer = fresh(layout)
        results = steps(model, optimizer, range(SAVED))
        checkpoint.save(folder / layout, SAVED, model, vocabulary, optimizer, {}, RUNTIME)
        saver = checkpoint.Saver(RUNTIME, background=True)
        saver.save(folder / f"{layout}_background", SAVED, model, vocabulary, optimizer, {})
        results += steps(model, optimizer, range(SAVED, len(ROWS)))
        saver.wait()
        rough = {tied: steps(*fresh(layout, torch.bfloat16, tied), range(1)) for tied in (False, True)}
        share = RUNTIME.gather([state_numel(optimizer)])
        keep(folder / f"{layout}.pt", {"weights": weights(model), "steps": results, "bf16": rough, "share": share})


def resume(folder: Path) -> None:
    for layout in LAYOUTS:
        keep(folder / f"{layout}_resumed.pt", weights(resumed(folder / LAYOUTS[layout == "dealt"], layout)))


def resumed(phase: Path, layout: str) -> Transformer:
    """Trained to the end from a phase's checkpoint."""
    model, optimizer = fresh(layout)
    last = saved.latest(phase)
    assert last is not None
    fsdp.load(model, last)
    checkpoint.resume(last, optimizer, RUNTIME)
    steps(model, optimizer, range(SAVED, len(ROWS)))
    return model


def adapted(layout: str) -> tuple[Transformer, MuonAdamW]:
    """With LoRA, the embedding trained too, and activation checkpointing."""
    model, _ = fresh("whole", tied=True)
    attach(model, LoRA(3, 6.0, ("q_proj", "o_proj", "down_proj"), embeddings=True))
    fsdp.put(model, initial(model, seed=1))
    model.checkpointing = True
    if layout == "sharded":
        assert RUNTIME.mesh is not None
        fsdp.shard(model, RUNTIME.mesh)
    rates = Rates(0.02, 0.05, 0.01, 0.005, adapter=0.01)
    return model, MuonAdamW(model, rates, torch.float32, RUNTIME.mesh)


def train_adapters(folder: Path) -> None:
    vocabulary = load_format(folder)
    for layout in LAYOUTS:
        model, optimizer = adapted(layout)
        results = steps(model, optimizer, range(SAVED))
        checkpoint.save(folder / layout, SAVED, model, vocabulary, optimizer, {}, RUNTIME, last=False)
        again, optimizer = adapted(layout)
        folder_of_step = folder / layout / f"step_{SAVED:06d}"
        fsdp.put(again, load_adapter(again, folder_of_step / "adapter"))
        checkpoint.resume(folder_of_step, optimizer, RUNTIME)
        results += steps(again, optimizer, range(SAVED, len(ROWS)))
        checkpoint.save(folder / layout, len(ROWS), again, vocabulary, optimizer, {}, RUNTIME)
        keep(folder / f"{layout}.pt", {"steps": results, "sampled with": weights(again) if layout == "sharded" else {}})


def two_phases(folder: Path) -> None:
    """Counts the parameters that are alive after each of two models was trained and dropped."""
    alive = []
    for _ in range(2):
        steps(*fresh("dealt"), range(1))
        hardware.release()
        alive.append(sum(isinstance(one, torch.nn.Parameter) for one in gc.get_objects()))
    keep(folder / "alive.pt", alive)


def read_rows(folder: Path) -> None:
    """Each rank loads a model that does not fit it, and trains it for a step."""
    fsdp.must_shard = lambda *_: True
    read, counts = Rows.read, []

    def counted(stored: Rows, rows: slice | None = None) -> torch.Tensor:
        counts.append((found := read(stored, rows)).numel())
        return found

    Rows.read = counted  # type: ignore[method-assign]
    for tied in (False, True):
        counts.clear()
        exact = replace(RUNTIME, dtype=torch.float32)
        model = fsdp.load_model(folder / f"tied_{tied}", exact, lambda model: None)
        shares, loaded = RUNTIME.gather([sum(counts)]), weights(model)
        after = steps(model, MuonAdamW(model, RATES, exact.dtype, RUNTIME.mesh), range(1))
        keep(folder / f"rows_{tied}.pt", {"read": shares, "weights": loaded, "steps": after})


def keep(path: Path, value: Any) -> None:
    if RUNTIME.main:
        torch.save(value, path)


def torchrun(processes: int, job: str, folder: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
         __file__, job, str(folder)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, chat_format: ChatFormat) -> Path:
    """What two ranks leave."""
    folder = tmp_path_factory.mktemp("two")
    chat_format.save(folder)
    torchrun(2, "train_and_save", folder)
    return folder


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    """What one process makes of the same batches."""
    torch.set_num_threads(1)
    model, optimizer = fresh("whole")
    rough = {tied: steps(*fresh("whole", torch.bfloat16, tied), range(1)) for tied in (False, True)}
    results = steps(model, optimizer, range(len(ROWS)))
    return {"weights": weights(model), "steps": results, "bf16": rough, "share": state_numel(optimizer)}


def assert_same_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """To fp32's rounding, which AdamW makes larger where gradients are small: on one kind of CPU to 1.3e-4 of the
    largest weight."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        atol = 2e-4 * theirs[name].abs().max().item()
        assert_close(ours[name], theirs[name], atol=atol, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_ranks_make_the_update_of_one(two: Path, one: dict[str, Any], layout: str) -> None:
    ours = torch.load(two / f"{layout}.pt")
    np.testing.assert_allclose(ours["steps"], one["steps"], rtol=1e-5)
    assert_same_weights(ours["weights"], one["weights"])
    for tied in (False, True):
        np.testing.assert_allclose(ours["bf16"][tied], one["bf16"][tied], rtol=2e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_rank_keeps_its_share_of_the_state(two: Path, one: dict[str, Any], layout: str) -> None:
    shares = torch.load(two / f"{layout}.pt")["share"]
    assert sum(shares) == pytest.approx(one["share"], rel=0.05)  # vectors are kept twice
    assert max(shares) < 0.6 * one["share"]


@pytest.mark.parametrize("layout", [*LAYOUTS, "dealt_background", "sharded_background"])
def test_a_checkpoint_of_two_ranks_resumes_in_one_process(two: Path, one: dict[str, Any], layout: str) -> None:
    assert_same_weights(weights(resumed(two / layout, "whole")), one["weights"])


def test_a_checkpoint_of_two_ranks_resumes_with_four_in_the_other_layout(two: Path, one: dict[str, Any]) -> None:
    torchrun(4, "resume", two)
    for layout in LAYOUTS:
        assert_same_weights(torch.load(two / f"{layout}_resumed.pt"), one["weights"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_saved_model_is_complete(two: Path, layout: str) -> None:
    folder = two / layout / f"step_{SAVED:06d}"
    model, optimizer = fresh("whole")
    steps(model, optimizer, range(SAVED))
    assert_same_weights(weights(load_model(folder, torch.float32, torch.device("cpu"))), weights(model))


def test_two_ranks_train_adapters_as_one_does(tmp_path: Path, chat_format: ChatFormat) -> None:
    torch.set_num_threads(1)
    chat_format.save(tmp_path)
    torchrun(2, "train_adapters", tmp_path)
    model, optimizer = adapted("whole")
    expected = steps(model, optimizer, range(len(ROWS)))
    merged = fsdp.gathered_on_main(model, True)
    assert merged is not None
    for layout in LAYOUTS:
        ours = torch.load(tmp_path / f"{layout}.pt")
        np.testing.assert_allclose(ours["steps"], expected, rtol=1e-5)
        written = load_model(tmp_path / layout / f"step_{len(ROWS):06d}", torch.float32, torch.device("cpu"))
        assert_same_weights(weights(written), weights(merged))
    assert_same_weights(ours["sampled with"], weights(merged))


def test_a_rank_reads_its_rows_alone(tmp_path: Path) -> None:
    for tied in (False, True):
        save_model(fresh("whole", tied=tied)[0], tmp_path / f"tied_{tied}")
    torchrun(2, "read_rows", tmp_path)
    for tied in (False, True):
        found = torch.load(tmp_path / f"rows_{tied}.pt")
        model, optimizer = fresh("whole", tied=tied)
        expected = weights(model)
        assert all(torch.equal(found["weights"][name], value) for name, value in expected.items())
        assert sum(found["read"]) == sum(value.numel() for value in expected.values())
        assert max(found["read"]) < 0.52 * sum(found["read"])
        np.testing.assert_allclose(found["steps"], steps(model, optimizer, range(1)), rtol=1e-5)


def test_no_parameter_outlives_its_phase(tmp_path: Path) -> None:
    torchrun(2, "two_phases", tmp_path)
    assert torch.load(tmp_path / "alive.pt") == [0, 0]


def test_a_model_too_large_for_each_rank_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def config(dim: int, layers: int) -> ModelConfig:
        return ModelConfig(65_536, dim, layers, dim // 128, dim // 128, 128, 8 * dim // 3, 2_048)

    monkeypatch.setattr(hardware, "total", lambda: 80 * 10**9)
    d20, large = config(1_280, 20), config(6_144, 40)  # 0.6 and 19 billion parameters
    assert not fsdp.must_shard(d20, 8) and fsdp.must_shard(large, 64) and not fsdp.must_shard(large, 1)
    assert memory.state_bytes(d20, 8) < 0.7 * memory.state_bytes(d20)
    assert memory.state_bytes(large, 64) < 20e9 < 200e9 < memory.state_bytes(large)


if __name__ == "__main__":
    torch.set_num_threads(1)
    jobs = (train_and_save, train_adapters, resume, two_phases, read_rows)
    {job.__name__: job for job in jobs}[sys.argv[1]](Path(sys.argv[2]))
    RUNTIME.close()
