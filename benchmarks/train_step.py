"""Throughput and utilisation of a training step.

    python benchmarks/train_step.py [--vocab 8192 32768] [--steps 12] [--json]

Depth 4, width 256, 4 heads, sequence 512, 8 rows, an MLP with as many parameters as a plain one of 4 x the width.
Random tokens in documents of about 200. Utilisation is the model's FLOP/s (6 x matmul parameters, causal attention at
half, nothing for the optimiser) over the matmul ceiling, measured before and after in this process. Times are medians
over the steps.
"""

import argparse
import json
import statistics
import time

import numpy as np
import torch

from lanbot.core import hardware
from lanbot.core.console import size, table
from lanbot.data.packing import make_batch
from lanbot.distributed.runtime import Runtime
from lanbot.models.config import ModelConfig
from lanbot.models.init import init_weights
from lanbot.models.transformer import Transformer
from lanbot.training import memory
from lanbot.training.optim import MuonAdamW, Rates
from lanbot.training.step import training_step

RUNTIME = Runtime.single()

ROWS, T = 8, 512


def config(vocab_size: int) -> ModelConfig:
    """SwiGLU of 8/3 of the width has the parameters of a plain MLP of 4 x the width."""
    return ModelConfig(vocab_size, 256, 4, 4, 4, 64, 8 * 256 // 3 // 2 * 2, T)


def measure(vocab_size: int, steps: int) -> dict[str, float]:
    shape = config(vocab_size)
    model = Transformer(shape, RUNTIME.dtype)
    init_weights(model, torch.Generator().manual_seed(0))
    model.to(RUNTIME.device)
    optimizer = MuonAdamW(model, Rates(0.02, 0.2, 0.004, 0.005), RUNTIME.dtype)
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, vocab_size, (ROWS, T + 1))
    tokens[rng.random(tokens.shape) < 1 / 200] = 0
    batch = make_batch(tokens, np.full(tokens.shape, 1 / (ROWS * T), np.float32), bos=0)
    micro_batch = memory.micro_batch(shape, T, RUNTIME)
    hardware.reset_peak()
    before = ceiling()
    seconds = []
    for step in range(steps + 2):
        began = time.perf_counter()
        result = training_step(model, optimizer, batch, 1.0, 1.0, micro_batch, RUNTIME)
        assert result.loss.item() > 0
        if step >= 2:
            seconds.append(time.perf_counter() - began)
    after = ceiling()
    median = statistics.median(seconds)
    rate = ROWS * T / median
    return {
        "vocab": vocab_size,
        "tokens_per_second": rate,
        "step_ms": 1e3 * median,
        "utilisation": rate * shape.flops_per_token(T) / max(before, after),
        "ceiling_before": before / 1e9,
        "ceiling_after": after / 1e9,
        "peak_memory_bytes": hardware.peak(),
        "parameters": shape.params(),
    }


def ceiling() -> float:
    hardware._ceilings.clear()
    return hardware.matmul_ceiling(RUNTIME.device, RUNTIME.dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, nargs="+", default=[8_192, 32_768])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = [measure(vocab, arguments.steps) for vocab in arguments.vocab]
    columns = ("vocabulary", "tokens/s", "ms a step", "utilisation", "GFLOP/s before", "after", "peak memory")
    rows = [
        (f"{r['vocab']:,}", f"{r['tokens_per_second']:,.0f}", f"{r['step_ms']:.0f}", f"{r['utilisation']:.3f}",
         f"{r['ceiling_before']:.0f}", f"{r['ceiling_after']:.0f}", size(int(r["peak_memory_bytes"])))
        for r in results
    ]  # fmt: skip
    print(table(rows, columns))
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
