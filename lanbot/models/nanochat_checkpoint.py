"""Checkpoints of nanochat as it was before value embeddings: model_STEP.pt and meta_STEP.json."""

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lanbot.core.errors import UserError
from lanbot.models.config import ModelConfig
from lanbot.models.stored import check_fit
from lanbot.models.transformer import Transformer

NAMES = {
    "embed_tokens": "transformer.wte",
    "layers.": "transformer.h.",
    "self_attn.q_proj": "attn.c_q",
    "self_attn.k_proj": "attn.c_k",
    "self_attn.v_proj": "attn.c_v",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
"""Parts of our parameters' names, and theirs."""
SHAPE = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")
"""The keys of a model_config."""
NEWER = ("resid_lambdas", "x0_lambdas", "value_embeds", "ve_gate", "smear_gate", "backout_lambda")
"""Tensors of later versions, which are another architecture."""
OLDER = "Import a checkpoint of an earlier nanochat."
FETCH = "Fetch the file again, or import another step."
THETA = 10_000.0
EPS = torch.finfo(torch.float32).eps  # F.rms_norm's default


def read_meta(path: Path) -> dict[str, Any]:
    """A meta_STEP.json. Raises UserError if it is not one."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(meta["model_config"], dict)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "Fetch the checkpoint again.") from None
    except (ValueError, KeyError, TypeError, AssertionError):
        raise UserError(f"{path}: not the metadata of a nanochat checkpoint", "Fetch the file again.") from None
    return dict(meta)


def model_config(meta: dict[str, Any], path: Path) -> ModelConfig:
    """The shape in a checkpoint's metadata. Raises UserError for that of a later version."""
    shape = meta["model_config"]
    if "window_pattern" in shape:
        raise UserError(f"{path}: of a later nanochat (window_pattern), which LanBot does not support", OLDER)
    wrong = next((key for key in SHAPE if type(shape.get(key)) is not int or shape[key] < 1), None)
    if wrong:
        raise UserError(f"{path}: its model_config has {wrong} = {shape.get(wrong)!r}", "Fetch the file again.")
    context, vocab_size, layers, heads, kv_heads, dim = (shape[key] for key in SHAPE)
    if dim % (2 * heads) or heads % kv_heads:
        problem = f"{path}: n_embd {dim:,} cannot be shared by {heads:,} heads, or these by {kv_heads:,} of keys"
        raise UserError(problem, "Fetch the file again.")
    return ModelConfig(
        vocab_size=vocab_size,
        dim=dim,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=dim // heads,
        mlp_dim=4 * dim,
        context=context,
        rope_theta=THETA,
        norm_eps=EPS,
        family="nanochat",
    )


def load(path: Path, config: ModelConfig) -> Transformer:
    """The model of a model_STEP.pt with fp32 masters. Reads tensors only: nothing that a pickle may run.

    Raises UserError if the file is missing, damaged, of a later version, or does not fit the shape.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", "Fetch the checkpoint again.") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise UserError(f"{path}: damaged or not tensors, and nothing of it was run ({reason})", FETCH) from None
    if not isinstance(stored, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in stored.items()
    ):
        raise UserError(f"{path}: not a model's tensors", FETCH)
    weights = {name.removeprefix("_orig_mod."): value for name, value in stored.items()}
    newer = next((part for name in weights for part in NEWER if part in name), None)
    if newer:
        raise UserError(f"{path}: of a later nanochat ({newer}), which LanBot does not support", OLDER)
    broken = next((name for name, weight in weights.items() if not weight.isfinite().all()), None)
    if broken:
        raise UserError(f"{path}: {broken} is not finite: this model is broken", "Import an earlier step.")
    with torch.device("meta"):
        model = Transformer(config)
    wanted = {name: tuple(weight.shape) for name, weight in _by_their_names(model).items()}
    check_fit({name: tuple(weight.shape) for name, weight in weights.items()}, wanted, path)
    model.to_empty(device="cpu")  # only now: memory of a wrong shape is never taken
    with torch.no_grad():
        for name, target in _by_their_names(model).items():
            target.copy_(weights[name])
    return model


def _by_their_names(model: Transformer) -> dict[str, Tensor]:
    return {_their_name(name): weight for name, weight in model.named_parameters()}


def _their_name(name: str) -> str:
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name
