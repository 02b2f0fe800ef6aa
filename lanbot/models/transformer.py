"""The transformer: Qwen3's by default, Qwen2's and Llama's by config. No training and no distributed code.

Names of modules and weights are those of transformers, so that a saved model opens there as it is.
Shapes: B rows, T tokens, H heads, D head_dim, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanbot.models import fp8
from lanbot.models.attention import Spans, attend, within_documents
from lanbot.models.config import ModelConfig
from lanbot.models.kv_cache import CacheView


def by_hand(x: Tensor) -> bool:
    """Whether to compute as suits a CPU without a compiler, by autograd functions of our own; a compiler sees the plain
    formulas, and fuses them."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


class Linear(nn.Linear):
    """A matrix that computes in its input's dtype: masters stay fp32, products run in bf16."""

    fp8 = False
    """Whether it trains in 8 bits: see fp8.enable."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if self.fp8 and fp8.suits(x):
            y = fp8.product(x, self.weight)
            return y if bias is None else y + bias
        if by_hand(x) and torch.is_grad_enabled():
            product = _Product.apply(x, self.weight)
            return product if bias is None else product + bias
        return F.linear(x, self.weight.to(x.dtype), bias)


class _Product(torch.autograd.Function):
    """x @ weight.T, the matrix laid out for forward and for backward as a CPU's product is a tenth faster with."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        weight = weight.to(x.dtype)
        ctx.save_for_backward(x, weight)
        return x @ weight.T.contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return grad @ weight, grad.flatten(0, -2).T @ x.flatten(0, -2)


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if by_hand(x):
            return _RMSNorm.apply(x, self.weight, self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class _RMSNorm(torch.autograd.Function):
    """The CPU has no fused kernel: autograd through F.rms_norm's pieces takes half as long again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact).square_()
        scale = square.div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        normed, weight = x * scale, weight.to(x.dtype)
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, scale, weight = ctx.saved_tensors
        product = (grad * normed).flatten(0, -2)
        grad_weight = product.new_ones(1, len(product)) @ product  # a product adds up in fp32, and ten times faster
        mean = (product @ weight).view_as(scale).div_(weight.shape[0])
        return torch.addcmul(grad * weight, normed, mean, value=-1).mul_(scale), grad_weight[0], None


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
    """Weights are fp32 masters; `dtype` is what it computes in (see training/parallel.py: compute_dtype)."""

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

        documents_BT: which document each token is of; a token sees only its own document. None: each row is one. Best
            left on the CPU: a GPU need not be waited for then.
        cache: where earlier tokens' keys and values are, and these go; it excludes documents_BT.
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


class _Rotate(torch.autograd.Function):
    """x turned by its positions' angles: the gradient is turned back, and nothing of x need be kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return torch.addcmul(grad * cos, grad.roll(grad.shape[-1] // 2, -1), sin, value=-1), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, T, H, D) turned by its positions' angles."""
    return _Rotate.apply(x, cos, sin) if by_hand(x) else x * cos + x.roll(x.shape[-1] // 2, -1) * sin
