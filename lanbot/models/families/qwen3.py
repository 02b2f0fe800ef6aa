"""Qwen 3 without experts: Llama with norms of queries and keys. Our own models are of this family."""

from lanbot.models.families.base import Family

FAMILY = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    "Qwen 3 without experts",
    qk_norm="before",
    fixed={"attention_bias": False, "hidden_act": "silu"},
    head_dim=128,
)
