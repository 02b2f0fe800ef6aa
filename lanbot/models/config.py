"""The shape of a model. One set of fields covers all families of models/families; Qwen3 is our default."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lanbot.config.recipe import RopeScaling
from lanbot.models import hf_config
from lanbot.models.families import FAMILIES, Family


@dataclass(frozen=True)
class ModelConfig:
    vocab_size: int
    """Rows of the embedding and the head: at least the tokenizer's ids."""
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    mlp_dim: int
    context: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = False
    family: str = "qwen3"
    """Which of FAMILIES the weights are."""
    rope_scaling: RopeScaling | None = None

    @property
    def switches(self) -> Family:
        return FAMILIES[self.family]

    def matmul_params(self) -> int:
        """Parameters that a token meets in a matrix product: the head counts, the embedding does not."""
        attention = self.dim * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        return (
            self.n_layers * (attention + self.switches.mlp_matrices * self.dim * self.mlp_dim)
            + self.vocab_size * self.dim
        )

    def params(self) -> int:
        """All parameters, norms and biases left out (they are under a thousandth)."""
        return self.matmul_params() + (0 if self.tie_embeddings else self.vocab_size * self.dim)

    def flops_per_token(self, sequence: int, softmax: int | None = None) -> float:
        """Forward and backward: 6 x matmul parameters, and causal attention over `sequence` counted at half.
        softmax: over how many tokens, if not all."""
        left_out = 0 if softmax is None else (self.vocab_size - softmax) * self.dim
        return 6 * (self.matmul_params() - left_out) + 6 * self.n_layers * self.n_heads * self.head_dim * sequence

    # -- Hugging Face's config.json ------------------------------------------------------------------------

    def to_hf(self) -> dict[str, Any]:
        """With the keys that transformers reads for the family."""
        return hf_config.write(self.switches, vars(self))

    @classmethod
    def from_hf(cls, path: Path) -> "ModelConfig":
        """The shape in a Hugging Face config.json. Raises UserError for what LanBot cannot run."""
        return cls(**hf_config.read(path))
