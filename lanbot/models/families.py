"""Model families: what distinguishes their forward passes, and transformers' names for them."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Family:
    """Switches of models/transformer.py. The defaults are Llama's."""

    architecture: str
    """The class in transformers."""
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
    names: dict[str, str] = field(default_factory=dict)
    """Parts of our parameters' names that transformers names otherwise."""

    @property
    def mlp_matrices(self) -> int:
        return 3 if self.activation == "silu" else 2


FAMILIES = {
    "qwen3": Family("Qwen3ForCausalLM", qk_norm="before"),
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True),
    "llama": Family("LlamaForCausalLM"),
    "nanochat": Family(
        "NanoChatForCausalLM",
        qk_norm="after",
        norm_weights=False,
        norm_embedding=True,
        activation="relu2",
        reverse_rotary=True,
        softcap=15.0,
        names={"mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2"},
    ),
}
"""By model_type in config.json."""
