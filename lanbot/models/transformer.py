"""The transformer of all families (models/families); Qwen3's by default. No training and no distributed code.

Names of modules and weights are those of transformers, so that a saved model opens there as it is.
Shapes: B rows, T tokens, H heads, D head_dim, V vocabulary.
"""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lanbot.models.attention import Spans, attend, within_documents
from lanbot.models.config import ModelConfig
from lanbot.models.cpu_kernels import FusedRMSNorm, MatMul, Rotate, use_cpu_kernels
from lanbot.models.shared_prefix import CacheView

if TYPE_CHECKING:
    from lanbot.models.lora import LoRA


class Linear(nn.Linear):
    """A linear layer that computes in its input's dtype: masters stay fp32, products run in bf16."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if use_cpu_kernels(x) and torch.is_grad_enabled():
            product = MatMul.apply(x, self.weight)
            return product if bias is None else product + bias
        return F.linear(x, self.weight.to(x.dtype), bias)

    @property
    def matrix(self) -> Tensor:
        """What the input is multiplied by; with adapters, merged."""
        return self.weight


class RMSNorm(nn.Module):
    def __init__(self, dim: int, config: ModelConfig) -> None:
        super().__init__()
        self.dim, self.eps = dim, config.norm_eps
        self.weight = nn.Parameter(torch.ones(dim)) if config.switches.norm_weights else None

    def forward(self, x: Tensor) -> Tensor:
        if use_cpu_kernels(x):
            return FusedRMSNorm.apply(x, x.new_ones(self.dim) if self.weight is None else self.weight, self.eps)
        return F.rms_norm(x, (self.dim,), None if self.weight is None else self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, family = config, config.switches
        query, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.q_proj = Linear(config.dim, query, bias=family.qkv_bias)
        self.k_proj = Linear(config.dim, kv, bias=family.qkv_bias)
        self.v_proj = Linear(config.dim, kv, bias=family.qkv_bias)
        self.o_proj = Linear(query, config.dim, bias=False)
        if family.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config)
            self.k_norm = RMSNorm(config.head_dim, config)

    def forward(self, x_BTC: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | Spans | None, cache) -> Tensor:  # type: ignore[no-untyped-def]
        B, T, _ = x_BTC.shape
        q = self.turned(self.q_proj(x_BTC), "q_norm", rope)
        k, v = self.keys_values(x_BTC, rope)
        if cache is not None:
            view, positions, layer = cache
            k, v = view.update(layer, k, v, positions)
        y = attend(q, k, v, mask)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))

    def keys_values(self, x_BTC: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(B, n_kv_heads, T, D) each."""
        v = self.v_proj(x_BTC).unflatten(-1, (-1, self.config.head_dim))
        return self.turned(self.k_proj(x_BTC), "k_norm", rope), v.transpose(1, 2)

    def turned(self, x: Tensor, norm: str, rope: tuple[Tensor, Tensor]) -> Tensor:
        """Queries or keys (B, T, H * D), rotated by their positions and normed where the family does: (B, H, T, D)."""
        where = self.config.switches.qk_norm
        x = x.unflatten(-1, (-1, self.config.head_dim))
        x = getattr(self, norm)(x) if where == "before" else x
        x = rotate(x, *rope)
        x = getattr(self, norm)(x) if where == "after" else x
        return x.transpose(1, 2)


class MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated = config.switches.activation == "silu"
        if self.gated:
            self.gate_proj = Linear(config.dim, config.mlp_dim, bias=False)
        self.up_proj = Linear(config.dim, config.mlp_dim, bias=False)
        self.down_proj = Linear(config.mlp_dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.gated:
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return self.down_proj(F.relu(self.up_proj(x)).square())


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.dim, config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | Spans | None, cache) -> Tensor:  # type: ignore[no-untyped-def]
        x = x + self.self_attn(self.input_layernorm(x), rope, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """Weights are fp32 masters; `dtype` is what it computes in (see distributed/runtime.py: compute_dtype)."""

    lora: "LoRA | None" = None
    """The adapters that it has: see models/lora.py. What is not trained then is kept in `dtype`."""
    checkpointing = False
    """Whether training keeps only each block's input, and computes the rest again in the backward pass."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config)
        self.lm_head = Linear(config.dim, config.vocab_size, bias=False)
        self.tie()

    def tie(self) -> None:
        """Makes head and embedding one tensor where they are tied: `to_empty`, and `load_state_dict` with assign=True,
        give each a tensor of its own."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(self, ids_BT: Tensor, documents_BT: Tensor | None = None, cache: CacheView | None = None) -> Tensor:
        """The last hidden states, (B, T, dim), ready for `logits`.

        documents_BT: which document each token belongs to; attention stays within documents. None: each row is one.
            Keep it on the CPU, so that a GPU need not be synchronised.
        cache: what the tokens attend over besides each other; not with documents_BT. Generation has its own forward
            pass, inference/runner.py.
        """
        T = ids_BT.shape[1]
        if cache is not None:
            positions = cache.positions(T)
            mask: Tensor | Spans | None = cache.mask(positions, self.dtype)
        else:
            positions = torch.arange(T, device=ids_BT.device)
            mask = None
            if documents_BT is not None:
                mask = within_documents(documents_BT, ids_BT.device, self.dtype, self.config.head_dim)
        rope = rotation(positions, self.config, self.dtype)
        x = F.embedding(ids_BT, self.embed_tokens.weight).to(self.dtype)
        if self.config.switches.norm_embedding:
            x = F.rms_norm(x, x.shape[-1:], None, self.config.norm_eps)
        for i, layer in enumerate(self.layers):
            seen = None if cache is None else (cache, positions, i)
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, rope, mask, seen, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(x, rope, mask, seen)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., dim) -> (..., V) in fp32."""
        logits, softcap = self.lm_head(hidden).float(), self.config.switches.softcap
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def rotation(positions: Tensor, config: ModelConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """RoPE's cosines and signed sines (Su et al. 2021, halves layout), (..., T, 1, D) for positions (..., T)."""
    angles = (positions.float()[..., None] * frequencies(config, positions.device)).unsqueeze(-2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    sin = -sin if config.switches.reverse_rotary else sin
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def frequencies(config: ModelConfig, device: torch.device) -> Tensor:
    """Radians a position, (D / 2,), rounded as transformers does: 2,000 positions later a rounding is 2,000 times as
    large."""
    exponents = torch.arange(0, config.head_dim, 2, device=device).float() / config.head_dim
    plain, scaling = 1.0 / config.rope_theta**exponents, config.rope_scaling
    if scaling is None:
        return plain
    turns = scaling.original_context / (2 * math.pi / plain)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * plain / scaling.factor + kept * plain


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, T, H, D) rotated by its positions' angles."""
    return Rotate.apply(x, cos, sin) if use_cpu_kernels(x) else x * cos + x.roll(x.shape[-1] // 2, -1) * sin
