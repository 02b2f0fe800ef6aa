"""Cache views for prompts that share a prefix: each trunk is read once, then all its branches on top of it.

Shapes: B trunks, P their tokens (padded on the right), T tokens of all branches of one trunk.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lanbot.models.attention import PLAIN_ATTENTION


class CacheView(ABC):
    """What a forward pass of the model attends over beyond its own tokens, and where those are."""

    @abstractmethod
    def positions(self, T: int) -> Tensor:
        """(T,) or (B, T): the positions of the new tokens."""

    @abstractmethod
    def mask(self, positions: Tensor, dtype: torch.dtype) -> Tensor | None:
        """(1 or B, 1, T, S), added to scores; None: causal."""

    @abstractmethod
    def update(self, layer: int, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Takes (B, n_kv_heads, T, head_dim) of a layer and returns all that its tokens may attend over."""


class Trunks(CacheView):
    """Keeps the keys and values of rows that start at their first token, per layer (B, n_kv_heads, P, head_dim)."""

    def __init__(self, tokens: int, device: torch.device) -> None:
        self.tokens, self.device = tokens, device
        self.held: list[tuple[Tensor, Tensor]] = []

    def positions(self, T: int) -> Tensor:
        return torch.arange(T, device=self.device)

    def mask(self, positions: Tensor, dtype: torch.dtype) -> Tensor | None:
        if self.tokens > PLAIN_ATTENTION:
            return None  # causal; up to this length a CPU is faster with a mask
        unseen = positions > positions[:, None]
        return torch.zeros(unseen.shape, dtype=dtype, device=self.device).masked_fill_(unseen, -torch.inf)[None, None]

    def update(self, layer: int, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        self.held.append((keys, values))
        return keys, values


class Branches(CacheView):
    """Rows of one trunk's branches, end to end. A token attends to its trunk and to earlier tokens of its own branch.

    rows: (B,) each row's trunk. branch, steps: (B, T) each token's branch and its place in it.
    """

    def __init__(self, trunks: Trunks, rows: Tensor, trunk_lengths: Tensor, branch: Tensor, steps: Tensor) -> None:
        self.trunks, self.rows, self.trunk_lengths, self.branch, self.steps = trunks, rows, trunk_lengths, branch, steps

    def positions(self, T: int) -> Tensor:
        return self.trunk_lengths[:, None] + self.steps

    def mask(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, 1, T, P + T), added to scores."""
        B, T = self.branch.shape
        trunk = torch.arange(self.trunks.tokens, device=positions.device) < self.trunk_lengths[:, None]
        before = torch.ones(T, T, dtype=torch.bool, device=positions.device).tril()
        own = (self.branch[:, :, None] == self.branch[:, None, :]) & before
        seen = torch.cat((trunk[:, None, :].expand(B, T, -1), own), dim=2)
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf).unsqueeze(1)

    def update(self, layer: int, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        trunk_keys, trunk_values = self.trunks.held[layer]
        return torch.cat((trunk_keys[self.rows], keys), dim=2), torch.cat((trunk_values[self.rows], values), dim=2)


BRANCHES = 1 << 20
"""The trunk of tree n is document n * BRANCHES of its row, its branches are the next ones."""


class Trees(CacheView):
    """Rows of trees, each a trunk and then its branches, for training. A token attends to what is before it in its
    trunk and in its own branch.

    documents: (B, T), see BRANCHES.
    """

    def __init__(self, documents: Tensor) -> None:
        self.documents, self.trunk = documents, documents % BRANCHES == 0
        tree = documents // BRANCHES
        self.of_trunk = (tree[:, :, None] == tree[:, None, :]) & self.trunk[:, None, :]
        """(B, T, T): whether the second token is of the first one's trunk."""

    def positions(self, T: int) -> Tensor:
        place = torch.arange(T, device=self.documents.device)
        begins = torch.ones_like(self.trunk)
        begins[:, 1:] = self.documents[:, 1:] != self.documents[:, :-1]
        start = (place * begins).cummax(dim=1).values
        return place - start + self.of_trunk.sum(dim=2) * ~self.trunk

    def mask(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, 1, T, T), added to scores."""
        before = torch.ones(self.of_trunk.shape[1:], dtype=torch.bool, device=positions.device).tril()
        seen = (self.of_trunk | (self.documents[:, :, None] == self.documents[:, None, :])) & before
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf).unsqueeze(1)

    def update(self, layer: int, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return keys, values
