"""The keys and values of the conversations that are generated, one contiguous slot each.

Contiguous slots, not pages: what a fork of a prompt copies is small (a depth-20 model holds 102 KB a token, so 150
tokens are 15 MB, 10 us of a GPU's bandwidth), and attention reads plain tensors on every device. docs/engine.md has
the figures.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lanbot.models.config import ModelConfig

GRAIN = 128
"""Capacities are multiples of this many tokens."""


@dataclass(frozen=True)
class Held:
    """The keys and values, (n_layers, 2, n_kv_heads, length, head_dim), of a token sequence outside the slots."""

    ids: list[int]
    held: Tensor

    @property
    def bytes(self) -> int:
        return self.held.numel() * self.held.element_size()


class Slots:
    """held: keys and values, (n_layers, 2, slots, n_kv_heads, capacity, head_dim). Lengths are the engine's business.

    tokens: the same of each layer as one list of tokens. starts: (slots, 1, 2 * n_kv_heads), where in it the keys and
    the values of each slot begin. The slots begin empty and grow to what is asked for, within `budget` bytes.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device, budget: int) -> None:
        self.config, self.dtype, self.device, self.budget = config, dtype, device, budget
        self.token_bytes = 2 * config.n_layers * config.n_kv_heads * config.head_dim * dtype.itemsize
        self._take(self._zeros(0, 0))

    def _zeros(self, slots: int, capacity: int) -> Tensor:
        shape = (self.config.n_layers, 2, slots, self.config.n_kv_heads, capacity, self.config.head_dim)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)  # masked values must be finite

    def _take(self, held: Tensor) -> None:
        self.held = held
        self.tokens = held.view(held.shape[0], -1, held.shape[-1]).unbind()
        two, slots, heads = held.shape[1:4]
        starts = torch.arange(two * slots * heads, device=self.device).mul_(self.capacity).view(two, slots, heads)
        self.starts = starts.permute(1, 0, 2).reshape(slots, 1, two * heads)

    @property
    def count(self) -> int:
        return self.held.shape[2]

    @property
    def capacity(self) -> int:
        return self.held.shape[4]

    @property
    def bytes(self) -> int:
        return self.count * self.capacity * self.token_bytes

    def room(self, tokens: int) -> int:
        """How many slots of this many tokens the budget allows, at least one."""
        return max(1, self.budget // (self.token_bytes * rounded(tokens)))

    def reserve(self, slots: int, tokens: int, used: int) -> None:
        """Makes room for at least so many slots of so many tokens; keeps the first `used` slots."""
        if slots <= self.count and tokens <= self.capacity:
            return
        capacity = max(rounded(tokens), self.capacity)
        slots = max(slots, used, min(self.count, self.room(capacity)))
        grown = self._zeros(slots, capacity)
        grown[:, :, :used, :, : self.capacity] = self.held[:, :, :used]
        self._take(grown)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies a slot's first tokens to another slot."""
        self.held[:, :, target, :, :length] = self.held[:, :, source, :, :length]

    def hold(self, slot: int, ids: list[int]) -> Held:
        """A copy of a slot's first tokens, to be kept outside."""
        return Held(ids, self.held[:, :, slot, :, : len(ids)].clone())

    def restore(self, held: Held, target: int, length: int) -> None:
        """Copies the first tokens of what was held into a slot."""
        self.held[:, :, target, :, :length] = held.held[:, :, :, :length]


def rounded(tokens: int) -> int:
    return max(1, -(-tokens // GRAIN)) * GRAIN
