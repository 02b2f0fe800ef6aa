"""How throughput scales from 8 to 64 H100s: a calculation, not a measurement (docs/scaling.md discusses it).

    python benchmarks/scaling.py [--json]

The FLOPs and bytes of a step follow from the code: ModelConfig.flops_per_token, and the distribution of gradients,
optimiser state and updates in lanbot/distributed/zero2.py and fsdp.py. The speed of the hardware is assumed, below.
"""

import argparse
import json
from dataclasses import asdict, dataclass

import torch

from lanbot.config.recipe import ModelSettings, Recipe, TokenizerSettings
from lanbot.core.console import table
from lanbot.models.config import ModelConfig
from lanbot.models.transformer import Transformer
from lanbot.training.memory import cuda_activation_bytes
from lanbot.training.optim import MuonAdamW, Rates

PEAK = 989e12
"""bf16 FLOP/s of an H100 SXM without sparsity (NVIDIA H100 datasheet)."""
UTILISATION = 0.45
"""Share of PEAK in forward and backward; 0.6 of the 700 to 750 TFLOP/s that a large matmul reaches."""
NEWTON_SCHULZ_UTILISATION = 0.5
MEMORY = 0.8 * 3.35e12
"""Bytes/s of HBM3: 3.35 TB/s (same datasheet), at 0.8."""
NODE = 8
IN_NODE = 0.75 * 450e9
"""Bus bandwidth of a collective on NVLink: 900 GB/s in both directions together (same datasheet), 450 each way."""
BETWEEN_NODES = 0.8 * NODE * 50e9
"""Bus bandwidth of a flat collective over nodes: each of NCCL's rings leaves a node once, through a different one of
its eight 400 Gb/s NICs. 46 to 48 GB/s of 50 per NIC have been measured (nccl-tests issue 290)."""
ALL_TO_ALL = 0.6 * 50e9
"""Bytes/s that a GPU sends in an all-to-all over nodes, nearly all through its own NIC in small messages."""
LATENCY = 20e-6
"""Fixed seconds of a collective in a node; between nodes it is 3 times that."""
LAUNCH = 5e-3
"""Fixed seconds of a step: kernel launches, transfer of the batch, waiting for a scalar."""
CAPACITY = 78e9
"""Usable bytes of an 80 GB card."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of one step, and what follows from them. exposed: communication that is not overlapped."""

    model: str
    scheme: str
    gpus: int
    batch_tokens: int
    tokens_per_gpu: int
    micro_batch_tokens: int
    compute: float
    newton_schulz: float
    memory: float
    communication: float
    exposed: float
    step: float
    tokens_per_second: float
    efficiency: float
    """Tokens/s per GPU, relative to one GPU with enough memory for the whole batch."""
    mfu: float
    state_gigabytes: float
    """Masters, gradients, optimiser state and gathered weights of one GPU."""


def groups(config: ModelConfig) -> list[tuple[int, int, int, int]]:
    """(count, rows, columns, rows of one matrix to orthogonalise) of each group that MuonAdamW updates together."""
    with torch.device("meta"):
        optimizer = MuonAdamW(Transformer(config), Rates(0.0, 0.0, 0.0, 0.0), torch.bfloat16)
    return [(len(names), *shape, rows) for (shape, rows), names in optimizer.matrices.items()]


def newton_schulz_flops(rows: int, columns: int, together: int) -> float:
    """Five iterations of x x^T, its square, and their sum times x, on the short side m: 4 m^2 n + 2 m^3 each."""
    m, n = sorted((together, columns))
    return rows / together * 5 * (4 * m * m * n + 2 * m**3)


def collective(payload: float, gpus: int) -> float:
    """Seconds of a reduce-scatter or an all-gather of `payload` bytes (the whole tensor); an all-reduce is both.

    As nccl-tests defines it (doc/PERFORMANCE.md): payload x (n - 1) / n at the bus bandwidth.
    """
    bandwidth, latency = (IN_NODE, LATENCY) if gpus <= NODE else (min(IN_NODE, BETWEEN_NODES), 3 * LATENCY)
    return 0.0 if gpus == 1 else payload * (gpus - 1) / gpus / bandwidth + latency


def micro_batch(config: ModelConfig, sequence: int, tokens: float, state: float) -> int:
    """Tokens of one forward pass: the largest power of two of rows that fits in addition to the state."""
    rows = int(tokens) // sequence
    while rows > 1 and state + cuda_activation_bytes(config, rows, sequence) > CAPACITY:
        rows //= 2
    return rows * sequence


def estimate(name: str, config: ModelConfig, sequence: int, batch_tokens: int, gpus: int, scheme: str) -> Estimate:
    tokens = batch_tokens / gpus
    compute = tokens * config.flops_per_token(sequence) / (UTILISATION * PEAK)
    muon = groups(config)
    rounds = [(-(-count // gpus), rows, columns) for count, rows, columns, _ in muon]  # matrices per rank
    newton_schulz = sum(-(-count // gpus) * newton_schulz_flops(r, c, t) for count, r, c, t in muon)
    newton_schulz /= NEWTON_SCHULZ_UTILISATION * PEAK
    layers = sum(count * rows * columns for count, rows, columns, _ in muon)
    dealt = gpus * sum(n * r * c for n, r, c in rounds)  # including the padding of each shape's last round
    rows = config.params() - layers  # embedding and head
    a_block = layers / config.n_layers
    if scheme == "zero":
        state = 8 * config.params() + (4 * dealt + 8 * rows) / gpus
    else:
        state = (12 * layers + 16 * rows) / gpus + 2 * 2 * a_block + 8 * rows
    micro = micro_batch(config, sequence, tokens, state)
    if scheme == "zero":
        # Reduce-scatter fp32 gradients during the backward pass of the last micro-batch; the embedding's follow at its
        # end. Then gather Muon's updates in bf16, while the next shape is orthogonalised, and AdamW's rows in fp32.
        last = micro / tokens * compute * 2 / 3
        reduce = sum(collective(4 * gpus * r * c, gpus) for n, r, c in rounds for _ in range(n))
        reduce += collective(4 * rows / 2, gpus)
        tail = collective(4 * rows / 2, gpus)
        updates = sum(collective(2 * gpus * n * r * c, gpus) for n, r, c in rounds)
        gather = updates + collective(4 * rows, gpus)
        communication = reduce + tail + gather
        hidden = min(reduce, last) + min(updates, newton_schulz) * (1 - 1 / len(rounds))
        # Each rank reads and writes its share of masters and gradients, and adds the whole update.
        memory = (layers * (2 + 8 + 8) + rows * (8 + 8) + (dealt * 12 + rows * 28) / gpus) / MEMORY
    else:
        # FSDP2, each micro-batch: blocks gathered in bf16 for forward and again for backward, the root (embedding
        # and head) in fp32 once; gradients reduced in fp32. All but the first gather and the last reduce is hidden
        # behind the blocks' compute, as far as that suffices.
        passes, blocks = tokens / micro, config.n_layers
        gather = passes * (2 * blocks * collective(2 * a_block, gpus) + collective(4 * rows, gpus))
        reduce = passes * (blocks * collective(4 * a_block, gpus) + collective(4 * rows, gpus))
        ends = passes * (2 * collective(4 * rows, gpus) + collective(2 * a_block, gpus) + collective(4 * a_block, gpus))
        share = 2 * dealt / gpus * (gpus - 1) / gpus  # bytes of updates that a rank sends, and receives back
        exchange = 2 * share / (IN_NODE if gpus <= NODE else ALL_TO_ALL) + 2 * len(rounds) * 3 * LATENCY
        communication = gather + reduce + exchange
        hidden = min(gather + reduce - ends, compute)
        memory = (layers * 24 + rows * 32) / gpus / MEMORY + passes * 2 * 2 * config.params() / MEMORY
    exposed = communication - hidden
    step = compute + newton_schulz + memory + exposed + LAUNCH
    alone = step if gpus == 1 else estimate(name, config, sequence, batch_tokens, 1, "zero").step
    return Estimate(
        model=name,
        scheme=scheme,
        gpus=gpus,
        batch_tokens=batch_tokens,
        tokens_per_gpu=int(tokens),
        micro_batch_tokens=micro,
        compute=compute,
        newton_schulz=newton_schulz,
        memory=memory,
        communication=communication,
        exposed=exposed,
        step=step,
        tokens_per_second=batch_tokens / step,
        efficiency=alone / gpus / step,
        mfu=batch_tokens * config.flops_per_token(sequence) / step / gpus / PEAK,
        state_gigabytes=state / 1e9,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    arguments = parser.parse_args()
    estimates = []
    for depth in (20, 32):
        recipe = Recipe(
            model=ModelSettings(depth=depth, context=2_048), tokenizer=TokenizerSettings(vocab_size=65_536)
        ).resolve()
        config, batch = ModelConfig.of_recipe(recipe), recipe.base.batch_tokens or 0
        flops = config.flops_per_token(2_048)
        muon = sum(count * newton_schulz_flops(r, c, t) for count, r, c, t in groups(config))
        print(
            f"\nd{depth}: {config.params() / 1e6:,.0f}M parameters, {flops / 1e9:.2f} GFLOPs a token, "
            f"{batch:,} tokens a step = {batch * flops / 1e15:.2f} PFLOPs; Newton-Schulz {muon / 1e12:.1f} TFLOPs"
        )
        rows = []
        for scheme in ("zero", "fsdp"):
            for gpus in (8, 16, 32, 64):
                e = estimate(f"d{depth}", config, 2_048, batch, gpus, scheme)
                estimates.append(e)
                rows.append((
                    e.scheme, f"{e.gpus}", f"{e.tokens_per_gpu:,}", f"{e.micro_batch_tokens:,}",
                    f"{e.compute * 1e3:.1f}",
                    f"{e.newton_schulz * 1e3:.1f}", f"{e.memory * 1e3:.1f}", f"{e.communication * 1e3:.1f}",
                    f"{e.exposed * 1e3:.1f}", f"{e.step * 1e3:.1f}", f"{e.tokens_per_second / 1e6:.2f}",
                    f"{e.efficiency:.2f}", f"{e.mfu:.3f}", f"{e.state_gigabytes:.1f}",
                ))  # fmt: skip
        print(table(rows, (
            "scheme", "GPUs", "tokens/GPU", "at a time", "compute ms", "NS ms", "memory ms", "comm ms", "exposed ms",
            "step ms", "M tok/s", "efficiency", "MFU", "state GB",
        )))  # fmt: skip
    if arguments.json:
        print(json.dumps({"estimates": [asdict(e) for e in estimates]}))


if __name__ == "__main__":
    main()
