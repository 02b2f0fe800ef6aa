"""The keys and values of the tokens already seen, one slot a conversation, filled at each one's own length."""

import torch
from torch import Tensor

from lanbot.models.config import ModelConfig


class KVCache:
    """keys, values: (n_layers, slots, n_kv_heads, capacity, head_dim). lengths: (slots,) tokens held."""

    def __init__(
        self, config: ModelConfig, slots: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.n_layers, slots, config.n_kv_heads, capacity, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(slots, dtype=torch.long, device=device)

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    def view(self, slots: Tensor, new_lengths: Tensor) -> "CacheView":
        """What a forward pass writes into and attends over, when it brings `slots` to `new_lengths` tokens."""
        return CacheView(self, slots, new_lengths)

    def keep(self, slots: Tensor) -> None:
        """Drops all slots but these, in this order."""
        self.keys, self.values = self.keys[:, slots], self.values[:, slots]
        self.lengths = self.lengths[slots]


class CacheView:
    """One forward pass over some slots. Row b's T tokens are at lengths[b] .. lengths[b] + T - 1.

    Rows shorter than T are padded on the right: padding is written beyond the row's new length, where
    nothing reads it and the next token overwrites it.
    """

    def __init__(self, cache: KVCache, slots: Tensor, new_lengths: Tensor) -> None:
        self.cache, self.slots, self.new_lengths = cache, slots, new_lengths
        self.start = cache.lengths[slots]
        self.all_slots = len(slots) == len(cache.lengths)
        self.longest = 0

    def positions(self, T: int) -> Tensor:
        """(rows, T): the positions of the new tokens."""
        self.longest = min(int(self.start.max()) + T, self.cache.capacity)
        steps = torch.arange(T, device=self.start.device)
        return (self.start[:, None] + steps).clamp(max=self.cache.capacity - 1)

    def mask(self, positions: Tensor, dtype: torch.dtype) -> Tensor | None:
        """(rows, 1, T, longest), added to scores: 0 for the token itself and the ones before it, otherwise -inf."""
        unseen = torch.arange(self.longest, device=positions.device) > positions[:, :, None]
        return (
            torch.zeros(unseen.shape, dtype=dtype, device=unseen.device).masked_fill_(unseen, -torch.inf).unsqueeze(1)
        )

    def update(self, layer: int, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Writes (rows, n_kv_heads, T, head_dim) and returns all that the rows may attend over."""
        rows = self.slots[:, None]
        self.cache.keys[layer][rows, :, positions] = keys.transpose(1, 2)
        self.cache.values[layer][rows, :, positions] = values.transpose(1, 2)
        held_keys, held_values = self.cache.keys[layer], self.cache.values[layer]
        if not self.all_slots:
            held_keys, held_values = held_keys[self.slots], held_values[self.slots]
        return held_keys[:, :, : self.longest], held_values[:, :, : self.longest]

    def commit(self) -> None:
        self.cache.lengths[self.slots] = self.new_lengths
