"""The runner's forward pass over slots is the model's own forward pass."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from lanbot.chat.formats.base import ChatFormat
from lanbot.inference import engine as module
from lanbot.inference.engine import Engine
from lanbot.inference.runner import Runner
from lanbot.inference.sampling import Sampling
from lanbot.inference.slots import GRAIN, Slots
from lanbot.models.families import FAMILIES
from lanbot.models.transformer import Transformer

CPU = torch.device("cpu")
MakeModel = Callable[..., Transformer]


def some_ids(model: Transformer, rows: int, T: int) -> torch.Tensor:
    return torch.randint(model.config.vocab_size, (rows, T), generator=torch.Generator().manual_seed(1))


def disturbed(model: Transformer) -> Transformer:
    """The model with norms and biases that do something."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def slots_of(model: Transformer, slots: int, tokens: int) -> Slots:
    made = Slots(model.config, torch.float32, CPU, budget=1 << 30)
    made.reserve(slots, tokens, used=0)
    return made


def fed(runner: Runner, slots: Slots, ids: torch.Tensor, starts: list[int], rows: list[int] | None) -> torch.Tensor:
    """The logits of tokens that follow each row's first `starts` ones."""
    positions = torch.tensor(starts)[:, None] + torch.arange(ids.shape[1])
    where = None if rows is None else torch.tensor(rows)
    return runner.logits(runner.forward(slots, ids, positions, where, int(positions.max()) + 1))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@torch.no_grad()
def test_prompts_in_pieces_then_token_by_token(family: str, kv_heads: int, make_model: MakeModel) -> None:
    model = disturbed(make_model(family=family, n_heads=4, n_kv_heads=kv_heads))
    ids = some_ids(model, 3, 20)
    expected, runner = model.logits(model(ids)), Runner(model)
    slots = slots_of(model, 5, 20)
    close = {"atol": 1e-4, "rtol": 1e-4}
    assert_close(fed(runner, slots, ids[:, :6], [0] * 3, [4, 0, 2]), expected[:, :6], **close)
    assert_close(fed(runner, slots, ids[1:2, 6:9], [6], [0]), expected[1:2, 6:9], **close)  # the others wait
    together = torch.stack((ids[0, 6:10], ids[1, 9:13]))
    pieces = torch.stack((expected[0, 6:10], expected[1, 9:13]))
    assert_close(fed(runner, slots, together, [6, 9], [4, 0]), pieces, **close)
    slots.copy(4, 1, 10)  # a fork of the first row, and the third taken aside and back
    held = slots.hold(2, ids[2, :6].tolist())
    slots.restore(held, 2, 6)
    lengths = torch.tensor([13, 10, 6])
    order = [1, 0, 2]
    for step in range(7):
        at = lengths + step
        got = fed(runner, slots, ids[order, at][:, None], at.tolist(), None)
        assert_close(got[:, 0], expected[order, at], **close)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_in_bf16_it_is_as_close_to_fp32_as_the_model(family: str, tied: bool, make_model: MakeModel) -> None:
    shape = {"seed": 5, "family": family, "tie_embeddings": tied}
    exact, model = (disturbed(make_model(dtype=dtype, **shape)) for dtype in (torch.float32, torch.bfloat16))
    ids = some_ids(model, 3, 20)
    expected, slots, runner = exact.logits(exact(ids)), slots_of(model, 3, 20), Runner(model)
    got = [fed(runner, slots, ids[:, :12], [0] * 3, None)]
    got += [fed(runner, slots, ids[:, at : at + 1], [at] * 3, None) for at in range(12, 20)]
    ours, theirs = ((logits - expected).norm() for logits in (torch.cat(got, 1), model.logits(model(ids))))
    assert 0 < ours < 1.2 * theirs < 0.1 * expected.norm()


@torch.no_grad()
def test_slots_keep_what_they_hold_when_they_grow(make_model: MakeModel) -> None:
    model = make_model(context=400)
    ids = some_ids(model, 2, GRAIN + 10)
    expected, runner, slots = model.logits(model(ids)), Runner(model), slots_of(model, 2, GRAIN)
    fed(runner, slots, ids[:, :GRAIN], [0, 0], None)
    slots.reserve(3, GRAIN + 10, used=2)
    assert slots.count == 3 and slots.capacity == 2 * GRAIN
    got = fed(runner, slots, ids[:, GRAIN:], [GRAIN] * 2, None)
    assert_close(got, expected[:, GRAIN:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_refresh_takes_new_weights_in_place(make_model: MakeModel) -> None:
    model, other = make_model(seed=1), make_model(seed=2)
    runner = Runner(model)
    places = {name: [tensor.data_ptr() for tensor in tensors] for name, tensors in runner.weights.items()}
    ids = some_ids(model, 1, 8)
    before = model.logits(model(ids))
    model.load_state_dict(other.state_dict())
    assert_close(fed(runner, slots_of(model, 1, 8), ids, [0], None), before, atol=1e-4, rtol=1e-4)
    runner.refresh(model)
    expected = other.logits(other(ids))
    assert_close(fed(runner, slots_of(model, 1, 8), ids, [0], None), expected, atol=1e-4, rtol=1e-4)
    assert places == {name: [tensor.data_ptr() for tensor in tensors] for name, tensors in runner.weights.items()}


@torch.no_grad()
def test_a_step_reads_no_value_of_the_device(make_model: MakeModel) -> None:
    """On the meta device tensors have no values: whatever reads one raises."""
    model = make_model().to("meta")
    runner = Runner(model)
    slots = Slots(model.config, model.dtype, torch.device("meta"), budget=1 << 30)
    slots.reserve(4, 64, used=0)
    ids, positions = (torch.zeros(4, 1, dtype=torch.long, device="meta") for _ in range(2))
    logits = runner.logits(runner.forward(slots, ids, positions, None, 33))
    assert logits.shape == (4, 1, model.config.vocab_size) and logits.dtype == torch.float32
    with pytest.raises(RuntimeError):
        logits.sum().item()


KINDS = [Sampling(6), Sampling(6, temperature=1.0), Sampling(6, temperature=0.8, top_k=50, top_p=0.9, min_p=0.01)]


@pytest.mark.parametrize("sampling", KINDS)
def test_generation_copies_once_a_step_from_the_device(
    sampling: Sampling, make_model: MakeModel, chat_format: ChatFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests of different lengths on a device that cannot be read, but for the tokens of each step."""
    monkeypatch.setitem(module.SLOTS, "meta", 4)
    monkeypatch.setitem(module.PREFILL_TOKENS, "meta", 64)
    reads: list[tuple[int, ...]] = []
    tolist = torch.Tensor.tolist

    def counted(tensor: torch.Tensor) -> Any:
        if tensor.device.type != "meta":
            return tolist(tensor)
        reads.append(tuple(tensor.shape))
        return torch.zeros(tensor.shape).add(9).tolist()

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    engine = Engine(make_model(context=100).to("meta"), chat_format, memory=1 << 24)
    made = engine.generate([[1, 2, 3], [4] * 98, [5] * 30, [1, 2, 3], [6] * 40], sampling)
    assert [len(one.ids) for one in made] == [6, 2, 6, 6, 6]
    assert all(len(shape) == 2 and shape[0] == 2 for shape in reads), "tokens and log probabilities together"
    tokens = sum(len(one.ids) for one in made)
    assert sum(shape[1] for shape in reads) == tokens and len(reads) < tokens


def test_without_a_device_to_read_a_read_raises() -> None:
    """What the test above relies on."""
    for read in (bool, int, float, torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu):
        with pytest.raises((RuntimeError, NotImplementedError)):
            read(torch.ones((), device="meta"))
