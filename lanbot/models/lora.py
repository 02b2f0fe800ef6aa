"""LoRA (Hu et al. 2021): frozen matrices with small trainable ones beside them, stored in PEFT's layout.

Not PEFT itself: it renames the weights that checkpoints, sharding and generation know by name, multiplies in the
adapters' fp32 instead of the compute dtype, and brings transformers and accelerate into every run. Its files are read
and written as it does.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lanbot.core.errors import UserError
from lanbot.models.config import ModelConfig
from lanbot.models.cpu_kernels import AdaptedMatMul, use_cpu_kernels
from lanbot.models.transformer import Linear, Transformer

FOLDER = "adapter"
"""In a checkpoint's folder. Not the folder itself: transformers would take a merged model there for an unmerged one."""
PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoRA:
    """targets: names of linear layers, such as q_proj. embeddings: whether embedding and head are trained too, whole.
    layers: how many of the last blocks have adapters; 0: all. base: the checkpoint that the adapters belong to, for
    their file."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    embeddings: bool = False
    layers: int = 0
    base: str = ""

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def blocks(self, config: ModelConfig) -> range:
        """The numbers of those that have adapters."""
        return range(max(0, config.n_layers - self.layers) if self.layers else 0, config.n_layers)

    def params(self, config: ModelConfig) -> int:
        """Of the adapters."""
        query, kv, C, M = (
            config.n_heads * config.head_dim,
            config.n_kv_heads * config.head_dim,
            config.dim,
            config.mlp_dim,
        )
        sides = {"q_proj": C + query, "k_proj": C + kv, "v_proj": C + kv, "o_proj": query + C, "up_proj": C + M}
        sides |= {"down_proj": C + M} | ({"gate_proj": C + M} if config.switches.mlp_matrices == 3 else {})
        return len(self.blocks(config)) * self.rank * sum(sides.get(name, 0) for name in self.targets)

    def trained(self, config: ModelConfig) -> int:
        """Parameters that change: the adapters, with the embeddings where those are trained."""
        return self.params(config) + (config.embeddings() if self.embeddings else 0)


class LoRALinear(Linear):
    """x W^T + scale (x A^T) B^T. W is frozen, A (rank, in) and B (out, rank) are fp32 masters."""

    scale: float
    lora_A: nn.Parameter  # noqa: N815  (as PEFT names it)
    lora_B: nn.Parameter  # noqa: N815

    @classmethod
    def of(cls, linear: Linear, lora: LoRA) -> "LoRALinear":
        """With the parameters of `linear` themselves, and adapters of zeros."""
        with torch.device("meta"):
            made = cls(linear.in_features, linear.out_features, bias=linear.bias is not None)
        made.weight, made.bias, made.scale = linear.weight, linear.bias, lora.scale
        device = linear.weight.device
        made.lora_A = nn.Parameter(torch.zeros(lora.rank, linear.in_features, device=device))
        made.lora_B = nn.Parameter(torch.zeros(linear.out_features, lora.rank, device=device))
        return made

    def forward(self, x: Tensor) -> Tensor:
        if use_cpu_kernels(x) and torch.is_grad_enabled():
            y = AdaptedMatMul.apply(x, self.weight, self.lora_A, self.lora_B, self.scale)
            return y if self.bias is None else y + self.bias.to(x.dtype)
        a, b = self.lora_A.to(x.dtype), (self.lora_B * self.scale).to(x.dtype)
        return super().forward(x) + nn.functional.linear(nn.functional.linear(x, a), b)

    @property
    def matrix(self) -> Tensor:
        return self.weight.float() + self.scale * (self.lora_B @ self.lora_A)


def attach(model: Transformer, lora: LoRA) -> None:
    """Freezes the model and gives its target layers adapters, whose values are `initial`'s to set. Raises UserError if
    it has none of the targets."""
    model.requires_grad_(False)
    if lora.embeddings:
        for parameter in {model.embed_tokens.weight, model.lm_head.weight}:  # one, if tied
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    found = False
    for name, module in list(model.named_modules()):
        parent, _, child = name.rpartition(".")
        block = int(parent.split(".")[1]) if parent.startswith("layers.") else -1
        if isinstance(module, Linear) and child in lora.targets and block in lora.blocks(model.config):
            setattr(model.get_submodule(parent), child, LoRALinear.of(module, lora))
            found = True
    if not found:
        raise UserError(f"lora_targets = {list(lora.targets)}: {model.config.family} has no such layer")
    model.lora = lora


def initial(model: Transformer, seed: int) -> dict[str, Tensor]:
    """The adapters' values before training, by name: A as PEFT draws it, B zero, so that nothing is added yet."""
    generator, values = torch.Generator().manual_seed(seed), {}
    for name, parameter in model.named_parameters():
        if name.endswith("lora_A"):
            bound = 1 / math.sqrt(parameter.shape[1])
            values[name] = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
        elif name.endswith("lora_B"):
            values[name] = torch.zeros(parameter.shape)
    return values


def merge(weights: Mapping[str, Tensor], lora: LoRA | None) -> dict[str, Tensor]:
    """A model's weights by name, with the adapters among them added to their matrices, in fp32; without adapters, the
    weights as they are."""
    if lora is None:
        return dict(weights)
    merged = {}
    for name, weight in weights.items():
        if ".lora_" in name:
            continue
        stem = name.removesuffix(".weight")
        a, b = weights.get(f"{stem}.lora_A"), weights.get(f"{stem}.lora_B")
        merged[name] = weight if a is None or b is None else weight.float() + lora.scale * (b.float() @ a.float())
    return merged


# -- PEFT's files --------------------------------------------------------------------------------------------


def stored_names(model: Transformer) -> dict[str, str]:
    """PEFT's names of the trained parameters, by ours."""
    from lanbot.models.weights import to_hf_names

    pairs = zip(model.named_parameters(), to_hf_names(model), strict=True)
    return {
        ours: f"{PREFIX}{theirs}{'.weight' if '.lora_' in ours else ''}"
        for (ours, parameter), theirs in pairs
        if parameter.requires_grad
    }


def save_adapter(model: Transformer, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Writes adapter_config.json and adapter_model.safetensors. weights: the trained ones of `model`, by our names, on
    the CPU and not sharded."""
    from safetensors.torch import save_file  # benchmarks train where there is none

    folder.mkdir(parents=True, exist_ok=True)
    stored = {theirs: weights[ours].contiguous() for ours, theirs in stored_names(model).items()}
    if model.config.tie_embeddings and "embed_tokens.weight" in weights:  # PEFT asks for both
        stored[f"{PREFIX}lm_head.weight"] = weights["embed_tokens.weight"].clone()
    save_file(stored, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    content = json.dumps(_peft_config(model), indent=2) + "\n"
    (folder / "adapter_config.json").write_text(content, encoding="utf-8")


def _peft_config(model: Transformer) -> dict[str, Any]:
    lora, tied = model.lora, model.config.tie_embeddings
    assert lora is not None
    whole = (["embed_tokens"] if tied else ["embed_tokens", "lm_head"]) if lora.embeddings else None
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name in stored_names(model).values() if ".lora_" in name}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": lora.base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(adapted),
        "layers_to_transform": list(lora.blocks(model.config)) if lora.layers else None,
        "layers_pattern": "layers" if lora.layers else None,
        "modules_to_save": whole,
        "ensure_weight_tying": bool(whole) and tied,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }


def load_adapter(model: Transformer, folder: Path) -> dict[str, Tensor]:
    """The trained weights of a folder by our names. Raises UserError if they are not those of `model`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "adapter_model.safetensors"
    try:
        stored = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: not there", "The phase was begun without LoRA: choose another --name.") from None
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error})", "Delete the folder: the checkpoint before it is used.") from None
    names, parameters = stored_names(model), dict(model.named_parameters())
    for ours, theirs in names.items():
        if theirs not in stored or stored[theirs].shape != parameters[ours].shape:
            raise UserError(f"{path}: {theirs} is missing or of another shape", "The adapters are of another recipe.")
    return {ours: stored[theirs] for ours, theirs in names.items()}
