"""The shape of a model. One set of fields covers all families of models/families; Qwen3 is our default."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lanbot.config.recipe import Recipe, RopeScaling
from lanbot.core.errors import UserError
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

    def embeddings(self) -> int:
        """Parameters of embedding and head."""
        return self.vocab_size * self.dim * (1 if self.tie_embeddings else 2)

    def params(self) -> int:
        """All parameters, norms and biases left out (they are under a thousandth)."""
        return self.matmul_params() + (0 if self.tie_embeddings else self.vocab_size * self.dim)

    def flops_per_token(self, sequence: int, softmax: int | None = None) -> float:
        """Forward and backward: 6 x matmul parameters, and causal attention over `sequence` counted at half.
        softmax: over how many tokens, if not all."""
        left_out = 0 if softmax is None else (self.vocab_size - softmax) * self.dim
        return 6 * (self.matmul_params() - left_out) + 6 * self.n_layers * self.n_heads * self.head_dim * sequence

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> "ModelConfig":
        """The model of a resolved recipe. Raises UserError for a family that is not there."""
        m = recipe.model
        if m.family not in FAMILIES:
            raise UserError(f"model.family = {m.family!r} is not supported", f"Choose one of {', '.join(FAMILIES)}.")
        assert m.dim and m.n_heads and m.n_kv_heads and m.head_dim and m.mlp_dim, "the recipe is resolved"
        return cls(
            vocab_size=recipe.tokenizer.vocab_size,
            dim=m.dim,
            n_layers=m.depth,
            n_heads=m.n_heads,
            n_kv_heads=m.n_kv_heads,
            head_dim=m.head_dim,
            mlp_dim=m.mlp_dim,
            context=m.longest,
            rope_theta=m.rope_theta,
            rope_scaling=m.rope_scaling,
            norm_eps=m.norm_eps,
            tie_embeddings=m.tie_embeddings,
            family=m.family,
        )

    # -- Hugging Face's config.json ------------------------------------------------------------------------

    def to_hf(self) -> dict[str, Any]:
        """With the keys that transformers reads for the family."""
        return hf_config.write(self.switches, vars(self))

    @classmethod
    def from_hf(cls, path: Path) -> "ModelConfig":
        """The shape in a Hugging Face config.json. Raises UserError for what LanBot cannot run."""
        return cls(**hf_config.read(path))
