"""The forward pass of generation: a model's weights laid out for it, over keys and values in slots.

The same mathematics as models/transformer.py with fewer and larger operations: queries, keys and values are one
product, gate and up projection another; the norms' weights of queries and keys are part of the rotation's table, which
one operation makes for all layers of a step.
Shapes: B rows, T tokens of each, C dim, H heads, K key heads, D head_dim, S tokens attended over, V vocabulary.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanbot.inference.slots import Slots
from lanbot.models.transformer import Transformer, rotation

MATRICES = frozenset(("qkv", "o", "up", "down", "head"))


class Runner:
    """Computes with a copy of the model's weights in its compute dtype; `refresh` takes new ones in place."""

    def __init__(self, model: Transformer) -> None:
        config = model.config
        self.config, self.dtype = config, model.dtype
        self.device = model.embed_tokens.weight.device
        self.eps, self.family, self.groups = config.norm_eps, config.switches, config.n_heads // config.n_kv_heads
        self.transposed = self.device.type == "cpu" and self.dtype == torch.float32
        """A CPU multiplies a few rows by a matrix laid out like this up to five times faster, in fp32 alone."""
        self.rotations = rotation(torch.arange(config.context, device=self.device), config, self.dtype)
        self.weights: dict[str, list[Tensor]] = {}
        self.refresh(model)

    @torch.no_grad()
    def refresh(self, model: Transformer) -> None:
        """Takes over the model's weights; their addresses stay, so that a captured graph reads the new ones."""
        layers: list[Any] = list(model.layers)
        attention, mlps = [layer.self_attn for layer in layers], [layer.mlp for layer in layers]
        fused: dict[str, list[Tensor]] = {
            "qkv": [_rows(a.q_proj.matrix, a.k_proj.matrix, a.v_proj.matrix) for a in attention],
            "o": [a.o_proj.matrix for a in attention],
            "up": [_rows(m.gate_proj.matrix, m.up_proj.matrix) if m.gated else m.up_proj.matrix for m in mlps],
            "down": [m.down_proj.matrix for m in mlps],
            "embed": [model.embed_tokens.weight],
        }
        if self.transposed or not self.config.tie_embeddings:
            fused["head"] = [model.lm_head.weight]
        if self.family.qkv_bias:
            fused["bias"] = [_rows(a.q_proj.bias, a.k_proj.bias, a.v_proj.bias) for a in attention]
        if self.family.norm_weights:
            norms = {"before_attention": "input_layernorm", "before_mlp": "post_attention_layernorm"}
            fused |= {ours: [getattr(layer, name).weight for layer in layers] for ours, name in norms.items()}
            fused["last"] = [cast(Tensor, model.norm.weight)]
        if self.family.qk_norm and self.family.norm_weights:
            H, K = self.config.n_heads, self.config.n_kv_heads
            each = [_rows(a.q_norm.weight.expand(H, -1), a.k_norm.weight.expand(K, -1)) for a in attention]
            fused["turn"] = [torch.stack(each).unsqueeze(1)]  # (layers, 1, H + K, D)
        for name, tensors in fused.items():
            for i, tensor in enumerate(tensors):
                if self.transposed and name in MATRICES:
                    tensor = tensor.T
                if name in self.weights and i < len(self.weights[name]):
                    self.weights[name][i].copy_(tensor)
                else:
                    taken = tensor.detach().to(self.dtype, copy=True, memory_format=torch.contiguous_format)
                    self.weights.setdefault(name, []).append(taken)

    def forward(
        self, slots: Slots, ids_BT: Tensor, positions_BT: Tensor, rows_B: Tensor | None, longest: int
    ) -> Tensor:
        """The last hidden states, (B, T, C). Writes the tokens' keys and values into their slots and attends over them.

        rows_B: the slot of each row; None: the first B, which saves a copy. longest: tokens attended over, at least the
        highest position and one. Nothing here waits for a value of the device.
        """
        (B, T), K, D = ids_BT.shape, self.config.n_kv_heads, self.config.head_dim
        H, w, x = self.config.n_heads, self.weights, F.embedding(ids_BT, self.weights["embed"][0])
        if self.family.norm_embedding:
            x = self._norm(x, None)
        turns = self._turns(positions_BT)
        unseen = torch.arange(longest, device=self.device) > positions_BT[..., None]
        mask = torch.zeros(unseen.shape, dtype=self.dtype, device=self.device).masked_fill_(unseen, -torch.inf)
        mask = mask.repeat(1, self.groups, 1).unsqueeze(1)  # (B, 1, groups * T, S)
        slot_B = torch.arange(B, device=self.device) if rows_B is None else rows_B
        heads = torch.arange(K, device=self.device)
        written = ((slot_B[:, None, None] * K + heads) * slots.capacity + positions_BT[..., None]).flatten()
        for i in range(self.config.n_layers):
            qkv = self._product(self._norm(x, self._of("before_attention", i)), "qkv", i)
            if self.family.qkv_bias:
                qkv = qkv + w["bias"][i]
            qkv = qkv.view(B, T, H + 2 * K, D)
            qk = qkv[:, :, : H + K]
            if self.family.qk_norm:  # before or after rotation is the same: norms do not change with it
                qk = F.rms_norm(qk, (D,), None, self.eps)
            qk = torch.addcmul(qk * turns[0][i], qk.roll(D // 2, -1), turns[1][i])
            keys, values = slots.keys[i], slots.values[i]
            keys.view(-1, D).index_copy_(0, written, qk[:, :, H:].reshape(-1, D))
            values.view(-1, D).index_copy_(0, written, qkv[:, :, H + K :].reshape(-1, D))
            keys, values = keys[:, :, :longest], values[:, :, :longest]
            keys, values = (held[:B] if rows_B is None else held[rows_B] for held in (keys, values))
            q = qk[:, :, :H].view(B, T, K, self.groups, D).permute(0, 2, 3, 1, 4).reshape(B, K, self.groups * T, D)
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
            y = y.view(B, K, self.groups, T, D).permute(0, 3, 1, 2, 4).reshape(B, T, H * D)
            x = x + self._product(y, "o", i)
            x = x + self._mlp(self._norm(x, self._of("before_mlp", i)), i)
        return self._norm(x, self._of("last", 0))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V) in fp32."""
        logits = self._product(hidden, "head" if "head" in self.weights else "embed", 0).float()
        softcap = self.family.softcap
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    def _of(self, name: str, i: int) -> Tensor | None:
        return self.weights[name][i] if name in self.weights else None

    def _norm(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return F.rms_norm(x, (self.config.dim,), weight, self.eps)

    def _turns(self, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines by which queries and keys are rotated, (layers or 1, B, T, H + K or 1, D) each."""
        cos, sin = (table[positions_BT] for table in self.rotations)
        if "turn" not in self.weights:
            n = self.config.n_layers
            return cos.expand(n, *cos.shape), sin.expand(n, *sin.shape)
        weight = self.weights["turn"][0].unsqueeze(1)
        return cos * weight, sin * weight.roll(self.config.head_dim // 2, -1)

    def _mlp(self, x: Tensor, i: int) -> Tensor:
        up = self._product(x, "up", i)
        if self.family.activation != "silu":
            return self._product(F.relu(up).square_(), "down", i)
        gate, up = up.split(self.config.mlp_dim, -1)
        return self._product(F.silu(gate) * up, "down", i)

    def _product(self, x: Tensor, name: str, i: int) -> Tensor:
        weight = self.weights[name][i]
        return x @ weight if self.transposed else F.linear(x, weight)


def _rows(*tensors: nn.Parameter | Tensor) -> Tensor:
    return torch.cat([tensor.detach() for tensor in tensors])
