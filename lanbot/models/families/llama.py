"""Llama 3 without pictures, and what has its shape: SmolLM2."""

from lanbot.models.families.base import Family

FAMILY = Family(
    "llama",
    "LlamaForCausalLM",
    "Llama 3.2 1B and 3B, SmolLM2",
    fixed={"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"},
)
