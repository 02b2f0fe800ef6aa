"""The shape of a model. One set of fields covers all families of models/families.py; Qwen3 is our default."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lanbot.core.errors import UserError
from lanbot.models.families import FAMILIES, Family

HF_KEYS = {
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
"""The fields of ModelConfig by their keys in a Hugging Face config.json."""


@dataclass(frozen=True)
class ModelConfig:
    vocab_size: int
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

    # -- Hugging Face's config.json ------------------------------------------------------------------------

    def to_hf(self) -> dict[str, Any]:
        family = self.switches
        softcap = {} if family.softcap is None else {"final_logit_softcapping": family.softcap}
        return {
            "architectures": [family.architecture],
            "model_type": self.family,
            **{theirs: getattr(self, ours) for ours, theirs in HF_KEYS.items()},
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "rope_theta": self.rope_theta,
            "attention_bias": False,
            "hidden_act": family.activation,
            **softcap,
        }

    @classmethod
    def from_hf(cls, path: Path) -> "ModelConfig":
        """The shape in a Hugging Face config.json. Raises UserError for what LanBot cannot run."""
        try:
            hf = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: not there", "Name a model folder in Hugging Face layout.") from None
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error})") from None
        if not isinstance(hf, dict):
            raise UserError(f"{path}: not a model's config")
        family = hf.get("model_type")
        if family not in FAMILIES:
            raise UserError(f"{path}: model_type {family!r} is not supported", f"Supported: {', '.join(FAMILIES)}.")
        softcap = hf.get("final_logit_softcapping", FAMILIES[family].softcap)
        if softcap != FAMILIES[family].softcap:
            raise UserError(f"{path}: final_logit_softcapping {softcap!r} is not supported for {family}")
        rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
        if rope.get("rope_type", "default") != "default":
            raise UserError(f"{path}: rope type {rope['rope_type']!r} is not supported yet")
        try:
            return cls._from_keys(hf, family, rope)
        except KeyError as error:
            raise UserError(f"{path}: lacks {error}", "Use the config.json that belongs to the model.") from None

    @classmethod
    def _from_keys(cls, hf: dict[str, Any], family: str, rope: dict[str, Any]) -> "ModelConfig":
        heads = hf["num_attention_heads"]
        kv_heads, head_dim = hf.get("num_key_value_heads") or heads, hf.get("head_dim") or hf["hidden_size"] // heads
        hf = {"tie_word_embeddings": False, **hf, "num_key_value_heads": kv_heads, "head_dim": head_dim}
        theta = rope.get("rope_theta") or hf.get("rope_theta") or 10_000.0
        return cls(**{ours: hf[theirs] for ours, theirs in HF_KEYS.items()}, rope_theta=theta, family=family)
