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
    """The keys and values, (n_layers, n_kv_heads, length, head_dim) each, of a token sequence outside the slots."""

    ids: list[int]
    keys: Tensor
    values: Tensor

    @property
    def bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()


class Slots:
    """keys, values: (n_layers, slots, n_kv_heads, capacity, head_dim). Lengths are the engine's business.

    They begin empty and grow to what is asked for, within `budget` bytes.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device, budget: int) -> None:
        self.config, self.dtype, self.device, self.budget = config, dtype, device, budget
        self.token_bytes = 2 * config.n_layers * config.n_kv_heads * config.head_dim * dtype.itemsize
        self.keys = self._zeros(0, 0)
        self.values = self._zeros(0, 0)

    def _zeros(self, slots: int, capacity: int) -> Tensor:
        shape = (self.config.n_layers, slots, self.config.n_kv_heads, capacity, self.config.head_dim)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)  # masked values must be finite

    @property
    def count(self) -> int:
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

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
        self.keys, self.values = (self._grown(held, slots, capacity, used) for held in (self.keys, self.values))

    def _grown(self, old: Tensor, slots: int, capacity: int, used: int) -> Tensor:
        new = self._zeros(slots, capacity)
        if used:
            new[:, :used, :, : old.shape[3]] = old[:, :used]
        return new

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies a slot's first tokens to another slot."""
        for held in (self.keys, self.values):
            held[:, target, :, :length] = held[:, source, :, :length]

    def hold(self, slot: int, ids: list[int]) -> Held:
        """A copy of a slot's first tokens, to be kept outside."""
        kept = (held[:, slot, :, : len(ids)].clone() for held in (self.keys, self.values))
        return Held(ids, *kept)

    def restore(self, held: Held, target: int, length: int) -> None:
        """Copies the first tokens of what was held into a slot."""
        self.keys[:, target, :, :length] = held.keys[:, :, :length]
        self.values[:, target, :, :length] = held.values[:, :, :length]


def rounded(tokens: int) -> int:
    return max(1, -(-tokens // GRAIN)) * GRAIN
