"""The forward pass of generation: a model's weights laid out for it, over keys and values in slots.

The same mathematics as models/transformer.py with fewer and larger operations, because at a few rows an operation costs
more than what it computes: queries, keys and values are one product, gate and up projection another; the norms' weights
are part of the matrices that follow them, those of queries and keys of the rotation's table, which one operation makes
for all layers of a step; sums with the residual are part of the products.
Shapes: B rows, T tokens of each, C dim, H heads, K key heads, D head_dim, S tokens attended over, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanbot.inference import cpu_products
from lanbot.inference.slots import Slots
from lanbot.models.transformer import Transformer, rotation

MATRICES = frozenset(("qkv", "o", "up", "down", "head"))


class Runner:
    """Computes with a copy of the model's weights; `refresh` takes new ones in place.

    On a CPU keys, values and attention are fp32: it attends in bf16 five times slower. dtype is that of the products:
    the model's, or fp32 on a CPU that does not multiply in bf16.
    """

    def __init__(self, model: Transformer) -> None:
        config = model.config
        self.device = model.embed_tokens.weight.device
        self.on_cpu = self.device.type == "cpu"
        self.packed = self.on_cpu and model.dtype == torch.bfloat16 and cpu_products.supported()
        self.dtype = torch.float32 if self.on_cpu and not self.packed else model.dtype
        self.cache_dtype = torch.float32 if self.on_cpu else model.dtype
        self.config, self.eps, self.family = config, config.norm_eps, config.switches
        self.groups = config.n_heads // config.n_kv_heads
        self.tiny = torch.tensor(self.eps, device=self.device)
        self.seen, self.unseen = torch.tensor([0.0, -torch.inf], dtype=self.cache_dtype, device=self.device)
        self.places = torch.arange(config.context, device=self.device)
        self.rotations = torch.stack(rotation(self.places, config, self.cache_dtype))  # (2, context, 1, D)
        self.weights: dict[str, list[Tensor]] = {}
        self.refresh(model)

    @torch.no_grad()
    def refresh(self, model: Transformer) -> None:
        """Takes over the model's weights, a layer at a time; their addresses stay, so that a captured graph reads the
        new ones."""
        for name, i, tensor in self._laid_out(model):
            held = self.weights.setdefault(name, [])
            if self.packed and name in MATRICES:
                held[i : i + 1] = [cpu_products.packed(tensor.to(self.dtype))]
                continue
            dtype = self.dtype if name in MATRICES else self.cache_dtype
            # a CPU multiplies a few rows in fp32 up to five times faster if a matrix is (inputs, outputs)
            tensor = tensor.T if self.on_cpu and name in MATRICES else tensor
            if i < len(held):
                held[i].copy_(tensor)
            else:
                held.append(tensor.to(dtype, copy=True, memory_format=torch.contiguous_format))

    def _laid_out(self, model: Transformer) -> Iterator[tuple[str, int, Tensor]]:
        """(what it is for, its place among those, the tensor). Matrices are (outputs, inputs)."""
        layers: list[Any] = list(model.layers)
        for i, layer in enumerate(layers):
            a, m = layer.self_attn, layer.mlp
            qkv = _rows(a.q_proj.matrix, a.k_proj.matrix, a.v_proj.matrix)
            up = _rows(m.gate_proj.matrix, m.up_proj.matrix) if m.gated else m.up_proj.matrix
            if self.family.norm_weights:
                qkv, up = qkv * layer.input_layernorm.weight, up * layer.post_attention_layernorm.weight
            yield from (("qkv", i, qkv), ("o", i, a.o_proj.matrix), ("up", i, up), ("down", i, m.down_proj.matrix))
            if self.family.qkv_bias:
                yield "bias", i, _rows(a.q_proj.bias, a.k_proj.bias, a.v_proj.bias)
        yield "embed", 0, model.embed_tokens.weight
        head, last = model.lm_head.weight, cast(Tensor, model.norm.weight)
        if self.on_cpu or not self.config.tie_embeddings:
            yield "head", 0, head * last if self.family.norm_weights else head
        elif self.family.norm_weights:
            yield "last", 0, last
        if self.family.qk_norm and self.family.norm_weights:
            H, K = self.config.n_heads, self.config.n_kv_heads
            attention = [layer.self_attn for layer in layers]
            each = [_rows(a.q_norm.weight.expand(H, -1), a.k_norm.weight.expand(K, -1)) for a in attention]
            turn = torch.stack(each).unsqueeze(1)  # (layers, 1, H + K, D)
            yield "turn", 0, torch.stack((turn, turn.roll(self.config.head_dim // 2, -1)))

    def forward(
        self, slots: Slots, ids_BT: Tensor, positions_BT: Tensor, rows_B: Tensor | None, longest: int
    ) -> Tensor:
        """The last hidden states, (B, T, C). Writes the tokens' keys and values into their slots and attends over them.

        rows_B: the slot of each row; None: the first B, which saves a copy. longest: tokens attended over, at least the
        highest position and one. Nothing here waits for a value of the device.
        """
        (B, T), H, K, D = ids_BT.shape, self.config.n_heads, self.config.n_kv_heads, self.config.head_dim
        w, x = self.weights, F.embedding(ids_BT.flatten(), self.weights["embed"][0])  # (B * T, C)
        if self.family.norm_embedding:
            x = self._norm(x)
        cos, sin = self._turns(positions_BT.flatten())
        mask = torch.where(self.places[:longest] > positions_BT[..., None], self.unseen, self.seen)
        mask = (mask if T == 1 else mask.repeat(1, self.groups, 1)).unsqueeze(1)  # (B, 1, 1 or groups * T, S)
        starts = slots.starts[:B] if rows_B is None else slots.starts[rows_B]
        written = (starts + positions_BT[..., None]).flatten()
        seen = slots.held[..., :longest, :] if rows_B is not None else slots.held[:, :, :B, :, :longest]
        for i, (keys, values, tokens) in enumerate(zip(*seen.unbind(1), slots.tokens, strict=True)):
            qkv = self._product(self._norm(x).to(self.dtype), "qkv", i).to(x.dtype)
            if self.family.qkv_bias:
                qkv += w["bias"][i]
            qkv = qkv.view(B * T, H + 2 * K, D)
            qk = qkv[:, : H + K]
            normed = self._norm(qk) if self.family.qk_norm else qk  # before or after rotation is the same
            torch.addcmul(normed * cos[i], normed.roll(D // 2, -1), sin[i], out=qk)
            tokens.index_copy_(0, written, qkv[:, H:].reshape(-1, D))
            keys, values = (keys, values) if rows_B is None else (keys[rows_B], values[rows_B])
            x = self._plus(x, self._attend(qkv[:, :H], keys, values, mask, B).to(self.dtype), "o", i)
            up = self._product(self._norm(x).to(self.dtype), "up", i)
            x = self._plus(x, self._activation(up), "down", i)
        return self._norm(x, w["last"][0] if "last" in w else None).view(B, T, -1)

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, B: int) -> Tensor:
        """(B * T, H * D) of queries (B * T, H, D). The queries that share a key head are further tokens of it."""
        K, D = keys.shape[1], q.shape[-1]
        if len(q) == B:
            y = F.scaled_dot_product_attention(q.view(B, K, self.groups, D), keys, values, attn_mask=mask)
            return y.reshape(B, -1)
        q = q.view(B, -1, K, self.groups, D).permute(0, 2, 3, 1, 4)
        y = F.scaled_dot_product_attention(q.reshape(B, K, -1, D), keys, values, attn_mask=mask)
        return y.view(B, K, self.groups, -1, D).permute(0, 3, 1, 2, 4).reshape(-1, K * self.groups * D)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V) in fp32."""
        logits = self._product(hidden.to(self.dtype), "head" if "head" in self.weights else "embed", 0).float()
        softcap = self.family.softcap
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    def _product(self, x: Tensor, name: str, i: int) -> Tensor:
        weight = self.weights[name][i]
        if self.packed:
            return cpu_products.product(x, weight)
        return x @ weight if self.on_cpu else F.linear(x, weight)

    def _plus(self, x: Tensor, y: Tensor, name: str, i: int) -> Tensor:
        """x + the product of y, in place."""
        return (
            x.addmm_(y, self.weights[name][i]) if self.on_cpu and not self.packed else x.add_(self._product(y, name, i))
        )

    def _norm(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        n = x.shape[-1]
        if not self.on_cpu:
            return F.rms_norm(x, (n,), weight, self.eps)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # a CPU has no kernel for the whole
        return x * torch.addcmul(self.tiny, norm, norm, value=1 / n).rsqrt_()

    def _turns(self, positions: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """For each layer the cosines and sines by which queries and keys are rotated, (B * T, H + K or 1, D) each."""
        turns = self.rotations[:, positions]
        if "turn" not in self.weights:
            cos, sin = turns
            return [cos] * self.config.n_layers, [sin] * self.config.n_layers
        cos, sin = turns.unsqueeze(1) * self.weights["turn"][0]
        return cos.unbind(), sin.unbind()

    def _activation(self, up: Tensor) -> Tensor:
        if self.family.activation != "silu":
            return F.relu_(up).square_()
        gate, up = up.split(self.config.mlp_dim, -1)
        return F.silu(gate).mul_(up)


def _rows(*tensors: nn.Parameter | Tensor) -> Tensor:
    return torch.cat([tensor.detach() for tensor in tensors])
