"""What a model family is: the switches of its forward pass, and transformers' names for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SHAPE = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "mlp_dim": "intermediate_size",
    "context": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
}
"""The fields of ModelConfig by their keys in config.json."""


@dataclass(frozen=True)
class Family:
    """The defaults are Llama's."""

    model_type: str
    """Its name, here and in config.json."""
    architecture: str
    """The class in transformers."""
    models: str
    """Models of it, in words."""
    qkv_bias: bool = False
    qk_norm: str = ""
    """Where queries and keys are normed: "before" or "after" the rotary embedding; "" nowhere."""
    norm_weights: bool = True
    norm_embedding: bool = False
    activation: str = "silu"
    """"silu": a gated MLP (SwiGLU); "relu2": two matrices with a squared ReLU between them."""
    reverse_rotary: bool = False
    """Rotates by the negative angles."""
    softcap: float | None = None
    """Logits are softcap * tanh(logits / softcap)."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Parts of our parameters' names that transformers names otherwise."""
    keys: Mapping[str, str] = field(default_factory=lambda: SHAPE)
    """The fields of ModelConfig by their keys in its config.json."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Further keys that change the forward pass, with the one value that LanBot computes: what transformers takes if
    the key is missing."""
    head_dim: int | None = None
    """Where config.json has none; None: the width shared by the heads."""

    @property
    def mlp_matrices(self) -> int:
        return 3 if self.activation == "silu" else 2
