"""What GGUF files call the weights and the shape of our families; read by gguf_read.py, written by gguf_write.py."""

import re
from typing import Any

import torch
from torch import Tensor

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""The families that llama.cpp runs, by their names there and here alike, and transformers' classes."""
PERMUTED = ("llama",)
"""Families whose queries and keys llama.cpp rotates in neighbouring pairs, not in halves: their rows are reordered."""

KEYS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
"""The keys of config.json, and those of GGUF after the family's name."""

_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
ROPE_FACTORS = "rope_freqs.weight"
"""By what Llama 3 divides each rotary frequency; no weight of ours."""


def to_gguf(name: str) -> str:
    """model.layers.3.self_attn.q_proj.weight -> blk.3.attn_q.weight."""
    part, _, kind = name.rpartition(".")
    if layer := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", part):
        return f"blk.{layer[1]}.{_IN_LAYER[layer[2]]}.{kind}"
    return f"{_OUTSIDE[part]}.{kind}"


def from_gguf(name: str) -> str | None:
    """The other way; None for a tensor that is no weight of our families."""
    part, _, kind = name.rpartition(".")
    theirs = {theirs: ours for ours, theirs in (_OUTSIDE | _IN_LAYER).items()}
    layer = re.fullmatch(r"blk\.(\d+)\.(.+)", part)
    ours = theirs.get(layer[2] if layer else part)
    if ours is None or (ours in _IN_LAYER) != bool(layer):
        return None
    return f"model.layers.{layer[1]}.{ours}.{kind}" if layer else f"{ours}.{kind}"


def heads_of(name: str, config: dict[str, Any]) -> int | None:
    """How many heads a weight has whose rows llama.cpp wants in another order; None: it has our order."""
    if config["model_type"] not in PERMUTED:
        return None
    projections = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    return next((config[key] for part, key in projections.items() if f".{part}." in name), None)


def permute(weight: Tensor, heads: int) -> Tensor:
    """Rows in halves of each head -> in neighbouring pairs."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(weight.shape)


def unpermute(weight: Tensor, heads: int) -> Tensor:
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(weight.shape)


def rope_factors(config: dict[str, Any]) -> Tensor | None:
    """ROPE_FACTORS of a config.json; None where the frequencies are not scaled.

    Llama 3's rule: short wavelengths stay, long ones are divided by `factor`, those between are interpolated.
    """
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "llama3":
        return None
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    exponents = torch.arange(0, config["head_dim"], 2, dtype=torch.float64) / config["head_dim"]
    turns = rope["original_max_position_embeddings"] * rope["rope_theta"] ** -exponents / (2 * torch.pi)
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).float()
