"""Model folders: config.json and model.safetensors, as transformers reads and writes them."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lanbot.core.errors import UserError
from lanbot.models.config import ModelConfig
from lanbot.models.transformer import Transformer

HEAD = "lm_head.weight"


def save_model(model: Transformer, folder: Path, token_ids: dict[str, int] | None = None) -> None:
    """Writes the fp32 masters and the config. token_ids: bos_token_id, eos_token_id for generation elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(to_hf_names(model), folder / "model.safetensors", metadata={"format": "pt"})
    config = {**model.config.to_hf(), "dtype": "float32", **(token_ids or {})}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_model(
    folder: Path, dtype: torch.dtype, device: torch.device, masters: torch.dtype = torch.float32
) -> Transformer:
    """The model of a folder, computing in `dtype`. masters: what its weights are kept in.

    Raises UserError if files are missing or the weights do not fit the config.
    """
    if (folder / "adapter").is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"{folder}: adapters of a phase that is not done", "Run the phase to its end: it merges them.")
    config = ModelConfig.from_hf(folder / "config.json")
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: not there", "Is the folder a model's?") from None
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error})", "Fetch or train it again.") from None
    with torch.device("meta"):
        model = Transformer(config, dtype).to(masters)
    model.to_empty(device=device)
    if config.tie_embeddings:  # to_empty gave the two names a tensor each
        model.lm_head.weight = model.embed_tokens.weight
    copy_weights(weights, to_hf_names(model), path)
    return model


@torch.no_grad()
def copy_weights(weights: dict[str, Tensor], targets: dict[str, Tensor], path: Path) -> None:
    """Copies weights to the targets of the same names; a head's weights without a target, of tied ones, are left out.
    path: where they are from, for messages.

    Raises UserError if one is missing, unknown or of another shape.
    """
    remedy = "The weights do not belong to the config beside them."
    missing, unknown = sorted(targets.keys() - weights.keys()), sorted(weights.keys() - targets.keys() - {HEAD})
    if missing or unknown:
        raise UserError(f"{path}: {f'lacks {missing[0]}' if missing else f'has an unknown {unknown[0]}'}", remedy)
    for name, target in targets.items():
        if target.shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)}, the config says {tuple(target.shape)}"
            raise UserError(f"{path}: {name} is {shapes}", remedy)
        target.copy_(weights[name])


def to_hf_names(model: Transformer) -> dict[str, Tensor]:
    """Our weights by transformers' names: all but the head live under `model.`; a tied head is not written."""
    weights = {}
    for name, parameter in model.named_parameters():  # a tied head is named once, as the embedding
        for ours, theirs in model.config.switches.names.items():
            name = name.replace(ours, theirs)
        weights[name if name == HEAD else f"model.{name}"] = parameter.detach()
    return weights
