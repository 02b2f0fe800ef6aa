"""Decoding steps as captured CUDA graphs: the host launches one graph instead of some hundred kernels for each token.

A graph has fixed shapes and addresses, so rows and lengths are rounded up, and each pair is captured when it is first
needed. Rows beyond those asked for read token 0 at position 0 of slots that nobody uses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lanbot.inference.runner import Runner
from lanbot.inference.slots import GRAIN, Slots

Step = Callable[[], Tensor]
WIDE = 1_024
"""Lengths are multiples of GRAIN up to here; above they double."""


@dataclass
class Graph:
    """ids, positions: (rows, 1), read by `replay`, which returns the logits (rows, V)."""

    ids: Tensor
    positions: Tensor
    replay: Step | None = None


def captured(step: Step) -> Step:
    """Captures a step on the current device; what is returned replays it and returns the same tensor each time."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries choose their kernels and workspaces before the capture
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # threads of checkpoints and of NCCL call CUDA meanwhile
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        logits = step()

    def replay() -> Tensor:
        graph.replay()
        return logits

    return replay


class Graphs:
    """The graphs of a runner over its slots. They read the runner's weights where they are, also after a refresh."""

    def __init__(self, runner: Runner, slots: Slots, capture: Callable[[Step], Step] = captured) -> None:
        self.runner, self.slots, self.capture = runner, slots, capture
        self.graphs: dict[tuple[int, int], Graph] = {}
        self._address: int | None = None

    def logits(self, ids: Tensor, positions: Tensor, longest: int) -> Tensor:
        """The logits (B, V) after one more token in each of the first B slots, valid until the next call. ids,
        positions: (B, 1). longest: see Runner.forward. There must be `row_count(B)` slots."""
        if self.slots.held.data_ptr() != self._address:  # the slots have grown
            self.graphs.clear()
            self._address = self.slots.held.data_ptr()
        shape = row_count(len(ids)), min(length(longest), self.slots.capacity)
        graph = self.graphs.get(shape)
        if graph is None:
            empty = torch.zeros(shape[0], 1, dtype=torch.long, device=self.runner.device)
            graph = self.graphs[shape] = Graph(empty, empty.clone())
        for held, new in ((graph.ids, ids), (graph.positions, positions)):
            held[: len(ids)].copy_(new, non_blocking=True)
            held[len(ids) :].zero_()
        if graph.replay is None:  # only now: the steps before a capture do write into the slots
            graph.replay = self.capture(partial(self._step, graph.ids, graph.positions, shape[1]))
        return graph.replay()[: len(ids)]

    def _step(self, ids: Tensor, positions: Tensor, longest: int) -> Tensor:
        return self.runner.logits(self.runner.forward(self.slots, ids, positions, None, longest)[:, 0])


def row_count(rows: int) -> int:
    """Rows of a graph that serves so many: the next power of two."""
    return 1 << (rows - 1).bit_length()


def length(tokens: int) -> int:
    """Tokens that a graph attends over which serves so many."""
    return -(-tokens // GRAIN) * GRAIN if tokens <= WIDE else 1 << (tokens - 1).bit_length()
