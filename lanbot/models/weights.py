"""Model folders: config.json and safetensors, as transformers reads and writes them."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lanbot.core import hardware
from lanbot.core.console import size
from lanbot.core.errors import UserError
from lanbot.models.config import ModelConfig
from lanbot.models.stored import OTHER, Rows, Stored, check_fit
from lanbot.models.transformer import Transformer

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
LAYER = re.compile(r"model\.layers\.(\d+)\.")


def save_model(model: Transformer, folder: Path, token_ids: dict[str, int] | None = None) -> None:
    """Writes the fp32 masters and the config. token_ids: bos_token_id, eos_token_id for generation elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(to_hf_names(model), folder / "model.safetensors", metadata={"format": "pt"})
    config = {**model.config.to_hf(), "dtype": "float32", **(token_ids or {})}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_model(folder: Path, dtype: torch.dtype, device: torch.device, masters: bool = True) -> Transformer:
    """The model of a folder with fp32 masters, computing in `dtype`. Beside it one tensor at a time is in memory.
    masters: if not, its weights are in `dtype` too.

    Raises UserError if files are missing or damaged, the weights do not fit the config, or there is no room for them.
    """
    model, stored = skeleton(folder, dtype)
    if not masters:
        model = model.to(dtype)
    need, have = (4 if masters else dtype.itemsize) * model.config.params(), hardware.available()
    if device.type == "cpu" and need > have:
        problem = f"{folder}: {model.config.params():,} parameters take {size(need)} of memory, {size(have)} are free"
        raise UserError(problem, "Use a machine with more memory, or a smaller model.")
    model.to_empty(device=device)
    model.tie()
    fill(model, stored)
    return model


def skeleton(folder: Path, dtype: torch.dtype) -> tuple[Transformer, Stored]:
    """The model of a folder without memory, on the meta device, and the weights for it, of which only the names and
    shapes are read. Raises UserError as `load_model`."""
    if (folder / "adapter").is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"{folder}: adapters of a phase that is not done", "Run the phase to its end: it merges them.")
    config, stored = ModelConfig.from_hf(folder / "config.json"), Stored(folder)
    shapes = {name: entry.shape for name, entry in stored.entries.items()}
    layers = 1 + max((int(found[1]) for name in shapes if (found := LAYER.match(name))), default=-1)
    if config.n_layers != layers:  # a made-up number of layers would take long to make
        raise UserError(f"{stored.where}: {layers:,} layers, the config says {config.n_layers:,}", OTHER)
    try:
        with torch.device("meta"):
            model = Transformer(config, dtype)
    except (RuntimeError, OverflowError):  # more bytes than a number holds
        raise UserError(f"{folder / 'config.json'}: sizes that no model has", OTHER) from None
    tied = config.tie_embeddings and shapes.pop(HEAD, None) is not None
    check_fit(shapes, {name: tuple(weight.shape) for name, weight in to_hf_names(model).items()}, stored.where)
    if tied and not (stored.entries[HEAD].shape == shapes[EMBEDDING] and stored.same(HEAD, EMBEDDING)):
        remedy = 'If the head is its own, set "tie_word_embeddings": false in config.json.'
        raise UserError(f"{stored.where}: {HEAD} is not the embedding, to which the config ties it", remedy)
    return model, stored


@torch.no_grad()
def fill(model: Transformer, stored: Stored, put: Callable[[Tensor, Rows], None] | None = None) -> None:
    """Copies the stored weights into a model of their shape. put(parameter, stored tensor): how it is copied."""
    targets = to_hf_names(model)
    stored.each(lambda name, rows: (put or _put)(targets[name], rows) if name in targets else None)


def _put(parameter: Tensor, rows: Rows) -> None:
    parameter.copy_(rows.read())


def to_hf_names(model: Transformer) -> dict[str, Tensor]:
    """Our weights by transformers' names: all but the head live under `model.`; a tied head is not written."""
    weights = {}
    for name, parameter in model.named_parameters():  # a tied head is named once, as the embedding
        for ours, theirs in model.config.switches.names.items():
            name = name.replace(ours, theirs)
        weights[name if name == HEAD else f"model.{name}"] = parameter.detach()
    return weights
