"""Reading with a Transformer what continuations are judged by: trunks once, then branches on top of them.

Transformer.forward would do, but computes all of every token. Here the last layer does so only where a hidden state is
wanted, and a CPU's MLP takes some hundred tokens at a time, whose numbers stay in the cache.
Shapes: B trunks, P their tokens (padded), Q wanted tokens of each (padded), T tokens of all branches of one, H heads,
D head_dim, C width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lanbot.models.attention import PLAIN_ATTENTION, attend
from lanbot.models.kv_cache import CacheView
from lanbot.models.transformer import Transformer, rotate, rotation

PIECE = {"cpu": 512}
"""Tokens of all rows that go through a layer's MLP together; elsewhere all of them."""


class Trunks(CacheView):
    """The keys and values of rows that all begin at their first token: of each layer (B, H, P, D)."""

    def __init__(self, tokens: int, device: torch.device) -> None:
        self.tokens, self.device = tokens, device
        self.held: list[tuple[Tensor, Tensor]] = []

    def positions(self, T: int) -> Tensor:
        return torch.arange(T, device=self.device)

    def mask(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """(..., T, P) for positions (..., T), added to scores: 0 up to the position, else -inf."""
        unseen = torch.arange(self.tokens, device=self.device) > positions[..., None]
        return torch.zeros(unseen.shape, dtype=dtype, device=self.device).masked_fill_(unseen, -torch.inf)

    def update(self, layer: int, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        self.held.append((keys, values))
        return keys, values

    def commit(self) -> None:
        pass


class Branches(CacheView):
    """Rows that go on from trunks: each holds one trunk's branches end to end, and a token sees its trunk and what
    stands before it in its own branch."""

    def __init__(self, trunks: Trunks, rows: Tensor, trunk_lengths: Tensor, branch: Tensor, steps: Tensor) -> None:
        """rows: (B,) of the trunks. branch, steps: (B, T), the number of each token's branch and its place in it."""
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

    def commit(self) -> None:
        pass


def read_trunks(model: Transformer, ids: Tensor, wanted: Tensor) -> tuple[Tensor, Trunks]:
    """The last hidden states (B, Q, C) of the wanted tokens, and what branches need. ids: (B, P). wanted: (B, Q)."""
    B, P = ids.shape
    trunks, config = Trunks(P, ids.device), model.config
    layers: list[Any] = list(model.layers)
    last = layers.pop()
    positions = trunks.positions(P)
    rope = rotation(positions, config.head_dim, config.rope_theta, model.dtype)
    mask = None  # causal
    if P <= PLAIN_ATTENTION:  # a CPU is faster with a mask there
        mask = trunks.mask(positions, model.dtype).expand(B, 1, P, P)
    x = F.embedding(ids, model.embed_tokens.weight).to(model.dtype)
    for i, layer in enumerate(layers):
        x = x + layer.self_attn(layer.input_layernorm(x), rope, mask, (trunks, positions, i))
        for piece in x.split(max(1, PIECE.get(ids.device.type, B * P) // B), dim=1):
            piece += layer.mlp(layer.post_attention_layernorm(piece))
    trunks.held.append(_keys_and_values(last, x, rope))
    rope = rotation(wanted, config.head_dim, config.rope_theta, model.dtype)
    x = x[torch.arange(B, device=ids.device)[:, None], wanted]
    x = _last_layer(last, x, rope, trunks.mask(wanted, model.dtype).unsqueeze(1), *trunks.held[-1])
    return model.norm(x), trunks


def _keys_and_values(layer: Any, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    attention, (B, T, _) = layer.self_attn, x.shape
    x = layer.input_layernorm(x)
    k = attention.k_proj(x).view(B, T, -1, attention.config.head_dim)
    v = attention.v_proj(x).view(B, T, -1, attention.config.head_dim)
    if attention.config.qk_norm:
        k = attention.k_norm(k)
    return rotate(k, *rope).transpose(1, 2), v.transpose(1, 2)


def _last_layer(
    layer: Any, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Block.forward of some tokens (B, Q, C), over keys and values that are there."""
    attention, (B, Q, _) = layer.self_attn, x.shape
    q = attention.q_proj(layer.input_layernorm(x)).view(B, Q, -1, attention.config.head_dim)
    if attention.config.qk_norm:
        q = attention.q_norm(q)
    groups = attention.config.n_heads // attention.config.n_kv_heads
    k, v = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
    y = attend(rotate(q, *rope).transpose(1, 2), k, v, mask)
    x = x + attention.o_proj(y.transpose(1, 2).reshape(B, Q, -1))
    return x + layer.mlp(layer.post_attention_layernorm(x))
