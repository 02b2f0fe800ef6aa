"""Qwen 2.5: Llama with biases on queries, keys and values."""

from lanbot.models.families.base import Family

FAMILY = Family("qwen2", "Qwen2ForCausalLM", "Qwen 2.5", qkv_bias=True, fixed={"hidden_act": "silu"})
