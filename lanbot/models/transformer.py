"""The transformer: Qwen3's by default, Qwen2's and Llama's by config. No training and no distributed code.

Names of modules and weights are those of transformers, so that a saved model opens there as it is.
Shapes: B rows, T tokens, H heads, D head_dim, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanbot.models.attention import Spans, attend, within_documents
from lanbot.models.config import ModelConfig
from lanbot.models.cpu_kernels import FusedRMSNorm, MatMul, Rotate, use_cpu_kernels
from lanbot.models.kv_cache import CacheView


class Linear(nn.Linear):
    """A linear layer that computes in its input's dtype: masters stay fp32, products run in bf16."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if use_cpu_kernels(x) and torch.is_grad_enabled():
            product = MatMul.apply(x, self.weight)
            return product if bias is None else product + bias
        return F.linear(x, self.weight.to(x.dtype), bias)


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if use_cpu_kernels(x):
            return FusedRMSNorm.apply(x, self.weight, self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        query, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.q_proj = Linear(config.dim, query, bias=config.qkv_bias)
        self.k_proj = Linear(config.dim, kv, bias=config.qkv_bias)
        self.v_proj = Linear(config.dim, kv, bias=config.qkv_bias)
        self.o_proj = Linear(query, config.dim, bias=False)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(self, x_BTC: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | Spans | None, cache) -> Tensor:  # type: ignore[no-untyped-def]
        B, T, _ = x_BTC.shape
        q = self.q_proj(x_BTC).view(B, T, -1, self.config.head_dim)
        k = self.k_proj(x_BTC).view(B, T, -1, self.config.head_dim)
        v = self.v_proj(x_BTC).view(B, T, -1, self.config.head_dim).transpose(1, 2)
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, *rope).transpose(1, 2), rotate(k, *rope).transpose(1, 2)
        if cache is not None:
            view, positions, layer = cache
            k, v = view.update(layer, k, v, positions)
        groups = self.config.n_heads // self.config.n_kv_heads
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        y = attend(q, k, v, mask)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.dim, config.mlp_dim, bias=False)
        self.up_proj = Linear(config.dim, config.mlp_dim, bias=False)
        self.down_proj = Linear(config.mlp_dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | Spans | None, cache) -> Tensor:  # type: ignore[no-untyped-def]
        x = x + self.self_attn(self.input_layernorm(x), rope, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """Weights are fp32 masters; `dtype` is what it computes in (see distributed/runtime.py: compute_dtype)."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.lm_head = Linear(config.dim, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(self, ids_BT: Tensor, documents_BT: Tensor | None = None, cache: CacheView | None = None) -> Tensor:
        """The last hidden states, (B, T, dim), ready for `logits`.

        documents_BT: which document each token belongs to; attention stays within documents. None: each row is one.
            Keep it on the CPU, so that a GPU need not be synchronised.
        cache: holds the keys and values of earlier tokens and takes those of these; not with documents_BT.
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
        rope = rotation(positions, self.config.head_dim, self.config.rope_theta, self.dtype)
        x = F.embedding(ids_BT, self.embed_tokens.weight).to(self.dtype)
        for i, layer in enumerate(self.layers):
            x = layer(x, rope, mask, None if cache is None else (cache, positions, i))
        if cache is not None:
            cache.commit()
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., dim) -> (..., V) in fp32."""
        return self.lm_head(hidden).float()


def rotation(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """RoPE's cosines and signed sines (Su et al. 2021, halves layout), (..., T, 1, D) for positions (..., T)."""
    frequencies = theta ** -(torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim)
    angles = (positions.float()[..., None] * frequencies).unsqueeze(-2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, T, H, D) rotated by its positions' angles."""
    return Rotate.apply(x, cos, sin) if use_cpu_kernels(x) else x * cos + x.roll(x.shape[-1] // 2, -1) * sin
