"""The same seed gives the same losses: bit by bit on one machine, within 1e-4 on any.

After a change of model, loss or optimiser that is meant, record anew: python tests/training/test_golden.py
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lanbot.data.packing import make_batch
from lanbot.distributed.runtime import Runtime
from lanbot.models.config import ModelConfig
from lanbot.models.init import init_weights
from lanbot.models.transformer import Transformer
from lanbot.training.optim import MuonAdamW, Rates
from lanbot.training.schedule import wsd
from lanbot.training.step import training_step

RUNTIME = Runtime.single()

GOLDEN = Path(__file__).with_name("golden_losses.json")
STEPS, EVERY, ROWS, T, VOCAB = 200, 10, 4, 48, 97


def train() -> tuple[list[float], Transformer]:
    """The loss of each step, and the model: depth 2 in fp32 on one thread, on numbers that follow each other.

    The rates are a quarter of the usual: then rounding stays rounding (3e-7 between instruction sets after 200 steps;
    at the usual rates it grows to 1e-4).
    """
    torch.set_num_threads(1)
    model = Transformer(ModelConfig(VOCAB, 64, 2, 2, 1, 32, 96, T), torch.float32)
    init_weights(model, torch.Generator().manual_seed(0))
    optimizer = MuonAdamW(model, Rates(0.005, 0.025, 0.0025, 0.00125, 0.01), torch.float32)
    draw, losses = np.random.default_rng(0), []
    for step in range(STEPS):
        starts, strides = draw.integers(0, VOCAB, (ROWS, 1)), draw.integers(1, 12, (ROWS, 1))
        tokens = (starts + strides * np.arange(T + 1)) % VOCAB
        weights = np.full(tokens.shape, 1 / (ROWS * T), np.float32)
        batch = make_batch(tokens, weights, bos=0)
        result = training_step(
            model, optimizer, batch, wsd(step / STEPS, 0.1, 0.3), 1.0, micro_batch=2, runtime=RUNTIME
        )
        losses.append(result.loss.item())
    return losses, model


@pytest.fixture(scope="module")
def trained() -> tuple[list[float], Transformer]:
    return train()


def test_the_same_seed_gives_the_same_losses_and_weights(trained: tuple[list[float], Transformer]) -> None:
    losses, model = train()
    assert losses == trained[0]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained[1].parameters(), strict=True))


def test_losses_are_those_recorded(trained: tuple[list[float], Transformer]) -> None:
    """On any CPU and version of torch: only the order of sums differs between them."""
    assert trained[0][::EVERY] == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-4)


def test_the_task_is_one_that_can_be_learnt(trained: tuple[list[float], Transformer]) -> None:
    assert trained[0][-1] < 0.4 * trained[0][0]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps([float(f"{loss:.7g}") for loss in train()[0][::EVERY]]) + "\n")
