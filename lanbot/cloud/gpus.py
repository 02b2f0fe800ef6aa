"""The kinds of GPU that can be rented: what they can do at most, and what share of it training reaches."""

import re
from dataclasses import dataclass

from lanbot.cloud.ranges import Range
from lanbot.core.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class GPU:
    """One kind. Peak, memory and bandwidth are the datasheet's, without sparsity."""

    name: str
    peak: float
    """FLOP/s of matrix products in bf16, accumulated in fp32."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes/s of its memory."""
    utilisation: Range
    """Share of `peak` in base training: 6 x matmul parameters and causal attention at half."""
    source: str
    """Where the three shares are from."""
    dollars: float | None = None
    """Price an hour of one GPU of a node of eight, as seen in 2026; None: none was noted."""


@dataclass(frozen=True)
class Reference:
    """The published run that plans are compared with: nanochat's d20 of 561M parameters on eight H100s."""

    steps: int = 21_400
    batch_tokens: int = 524_288
    sequence: int = 2_048
    layers: int = 20
    dim: int = 1_280
    vocab_size: int = 65_536
    hours: float = 4.0
    gpus: int = 8
    peak: float = 989e12

    @property
    def utilisation(self) -> float:
        """The share of the peak that its base run reached, everything in those hours included. A layer of this model
        has 12 dim^2 parameters, and attention counts at half."""
        matmul = 12 * self.layers * self.dim**2 + self.vocab_size * self.dim
        flops_per_token = 6 * matmul + 6 * self.layers * self.dim * self.sequence
        flops = self.steps * self.batch_tokens * flops_per_token
        return flops / (3_600 * self.hours * self.gpus * self.peak)


REFERENCE = Reference()
SCALING = "expected: the assumption of docs/scaling.md"
KINDS = {
    "H100": GPU(
        "H100 SXM", 989e12, 80e9, 3.35e12, Range(REFERENCE.utilisation, 0.45, 0.54),
        f"low: the reference's base run; {SCALING}; high: decoderstack-d24, 875K tokens/s on eight",
        3.0,
    ),
    "H100-PCIE": GPU(
        "H100 PCIe", 756e12, 80e9, 2.0e12, Range(0.28, 0.40, 0.50),
        "assumed: a little under the SXM card's, as its power limit is half as high", 3.0,
    ),
    "H200": GPU(
        "H200 SXM", 989e12, 141e9, 4.8e12, Range(REFERENCE.utilisation, 0.45, 0.54), "the H100's: the same processor"
    ),
    "B200": GPU(
        "B200", 2_250e12, 180e9, 8.0e12, Range(0.25, 0.38, 0.50),
        "assumed: under the H100's, as the same work fills less of it", 4.2,
    ),
    "A100": GPU(
        "A100 SXM 80 GB", 312e12, 80e9, 2.04e12, Range(0.40, 0.50, 0.67),
        "low and expected: assumed; high: nanochat's pull request 147, 529,882 tokens/s of a d20 on eight",
    ),
    "L40S": GPU(
        "L40S", 362e12, 48e9, 0.864e12, Range(0.25, 0.35, 0.50),
        "assumed: as the RTX 4090, but for its power limit, and no NVLink",
    ),
    "RTX4090": GPU(
        "RTX 4090", 165.2e12, 24e9, 1.008e12, Range(0.30, 0.40, 0.50),
        "low and expected: assumed (no NVLink); high: LLMQ (arXiv 2512.15306), about 50% on consumer GPUs",
    ),
}  # fmt: skip


def kind_of(name: str) -> str | None:
    """The kind that a cloud or a driver calls `name`, such as H100_sxm5, A100_80G, NVIDIA GeForce RTX 4090; None: none
    of the table. The A100 with half the memory is none."""
    words = set(re.split(r"[^A-Z0-9]+", name.upper()))
    if "H100" in words:
        return "H100-PCIE" if words & {"PCIE", "NVL"} else "H100"
    if "4090" in words:
        return "RTX4090"
    found = words & set(KINDS)
    return found.pop() if len(found) == 1 and not words & {"40G", "40GB"} else None


@dataclass(frozen=True)
class GPUs:
    """Several of one kind: 8xH100."""

    kind: str
    count: int

    @classmethod
    def parse(cls, text: str) -> "GPUs":
        """8xH100, or H100 for one. Raises UsageError."""
        found = re.fullmatch(r"(?:(\d{1,5})\s*[xX*]\s*)?(\S.*)", text.strip())
        kind = kind_of(found[2]) if found else None
        count = int(found[1] or 1) if found else 0
        if kind is None or count < 1:
            hint = did_you_mean(found[2].upper(), KINDS) if found else ""
            remedy = f"Write 8xH100, or one of {', '.join(KINDS)} for a single one."
            raise UsageError(f"--gpus {text}: no such GPUs.{hint}", remedy)
        return cls(kind, count)

    @property
    def gpu(self) -> GPU:
        return KINDS[self.kind]

    @property
    def peak(self) -> float:
        """FLOP/s of all together."""
        return self.count * self.gpu.peak

    @property
    def dollars(self) -> float | None:
        """The price an hour of all together, as seen in 2026."""
        return None if self.gpu.dollars is None else self.count * self.gpu.dollars

    def __str__(self) -> str:
        return f"{self.count}x{self.kind}"


DEFAULT = GPUs("H100", 8)
"""Planned for where no GPUs are named and this machine has none."""


def here() -> GPUs | None:
    """This machine's GPUs, if they are of a kind in the table."""
    import torch

    if not torch.cuda.is_available():
        return None
    kind = kind_of(torch.cuda.get_device_name(0))
    return GPUs(kind, torch.cuda.device_count()) if kind else None
