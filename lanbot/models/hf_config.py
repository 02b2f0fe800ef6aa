"""Hugging Face's config.json, read and written by the tables of the families; old and new spellings of keys alike."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lanbot.config.recipe import RopeScaling
from lanbot.core.errors import UserError
from lanbot.models.families import FAMILIES, Family
from lanbot.models.families.refused import PARTS, REFUSED

ANOTHER = "Take a model that has none of it: LanBot would compute something else."
OWN = "Use the config.json that belongs to the model."
THETA = 10_000.0
"""Transformers' default."""


def write(family: Family, shape: Mapping[str, Any]) -> dict[str, Any]:
    """shape: the fields of ModelConfig. rope_theta and rope_scaling are what older readers look for."""
    scaling: RopeScaling | None = shape["rope_scaling"]
    theta: dict[str, Any] = {"rope_theta": shape["rope_theta"]}
    rope = theta | {"rope_type": "default"} if scaling is None else theta | _scaling_keys(scaling)
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **{theirs: shape[ours] for ours, theirs in family.keys.items()},
        "rope_parameters": rope,
        **theta,
        **({} if scaling is None else {"rope_scaling": _scaling_keys(scaling)}),
        **family.fixed,
    }


def read(path: Path) -> dict[str, Any]:
    """The fields of ModelConfig. Raises UserError for what LanBot cannot run, and for what is no shape."""
    try:
        hf = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not there", "Name a model folder in Hugging Face layout.") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})", "Fetch the file again.") from None
    if not isinstance(hf, dict):
        raise UserError(f"{path}: not a model's config", OWN)
    family = _family(hf, path)
    _check_supported(hf, family, path)
    shape = _shape(hf, family, path)
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    theta = rope.get("rope_theta") or hf.get("rope_theta") or THETA
    _require(_is_positive(theta), path, f"rope_theta = {theta!r}; it must be a number above 0")
    return {**shape, "rope_theta": float(theta), "rope_scaling": _scaling(rope, path), "family": family.model_type}


def _require(good: bool, path: Path, problem: str, remedy: str = OWN) -> None:
    if not good:
        raise UserError(f"{path}: {problem}", remedy)


def _family(hf: dict[str, Any], path: Path) -> Family:
    name = hf.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        reason = f" ({REFUSED[name]})" if isinstance(name, str) and name in REFUSED else ""
        supported = "; ".join(f"{family.model_type} ({family.models})" for family in FAMILIES.values())
        raise UserError(f"{path}: model_type {name!r} is not supported{reason}", f"Supported: {supported}.")
    return FAMILIES[name]


def _check_supported(hf: dict[str, Any], family: Family, path: Path) -> None:
    """Raises UserError if a key says that the forward pass is another one than ours."""
    classes = hf.get("architectures") or [family.architecture]
    _require(family.architecture in classes, path, f"architectures {classes} are not {family.architecture}", ANOTHER)
    for key, reason in PARTS.items():
        _require(not hf.get(key), path, f"{key} is not supported ({reason})", ANOTHER)
    for key, value in family.fixed.items():
        found = hf.get(key, value)
        problem = f"{key} = {json.dumps(found)} is not supported, only {json.dumps(value)}"
        _require(found == value, path, problem, ANOTHER)
    layers = hf.get("layer_types")
    if layers is None and hf.get("use_sliding_window") and hf.get("sliding_window", True):
        first = hf.get("max_window_layers", 0)  # the layers from it on have the window
        layers = ["sliding_attention"] if first < hf.get("num_hidden_layers", 0) else []
    other = next((kind for kind in layers or [] if kind != "full_attention"), None)
    _require(other is None, path, f"layers with {other} are not supported, only full_attention", ANOTHER)


def _shape(hf: dict[str, Any], family: Family, path: Path) -> dict[str, Any]:
    """The sizes, checked: they decide how much memory is taken."""
    hf = {"tie_word_embeddings": False, **hf}
    hf["num_key_value_heads"] = hf.get("num_key_value_heads") or hf.get("num_attention_heads")
    for key in ("hidden_size", "num_attention_heads"):
        _check_size(hf, key, path)
    hf["head_dim"] = hf.get("head_dim") or family.head_dim or hf["hidden_size"] // hf["num_attention_heads"]
    for ours, theirs in family.keys.items():
        if ours == "norm_eps":
            _require(theirs in hf, path, f"lacks {theirs}")
            _require(_is_positive(hf[theirs]), path, f"{theirs} = {hf[theirs]!r}; it must be a number above 0")
        elif ours == "tie_embeddings":
            _require(isinstance(hf[theirs], bool), path, f"{theirs} = {hf[theirs]!r}; it must be true or false")
        else:
            _check_size(hf, theirs, path)
    shape = {ours: hf[theirs] for ours, theirs in family.keys.items()}
    heads, kv_heads = shape["n_heads"], shape["n_kv_heads"]
    _require(heads % kv_heads == 0, path, f"{heads} query heads cannot share {kv_heads} heads of keys")
    _require(shape["head_dim"] % 2 == 0, path, f"head_dim = {shape['head_dim']}; it must be even")
    return shape


def _check_size(hf: dict[str, Any], key: str, path: Path) -> None:
    _require(hf.get(key) is not None, path, f"lacks {key}")
    _require(type(hf[key]) is int and hf[key] > 0, path, f"{key} = {hf[key]!r}; it must be a whole number above 0")


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _scaling(rope: Any, path: Path) -> RopeScaling | None:
    by_layer = not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values())
    _require(not by_layer, path, "rotary embeddings that differ by layer are not supported", ANOTHER)
    part = rope.get("partial_rotary_factor") or 1.0
    _require(part == 1.0, path, f"partial_rotary_factor = {part} is not supported, only 1", ANOTHER)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    _require(kind == "llama3", path, f"rope type {kind!r} is not supported, only default and llama3", ANOTHER)
    values = {ours: rope.get(theirs) for ours, theirs in SCALING.items()}
    wrong = next((SCALING[ours] for ours, value in values.items() if not _is_positive(value)), None)
    _require(wrong is None, path, f"{wrong} of its rope type llama3 is not a number above 0")
    ordered = values["high_freq_factor"] > values["low_freq_factor"]
    _require(ordered, path, "high_freq_factor of its rope type llama3 is not above low_freq_factor")
    values = {ours: float(value) for ours, value in values.items()}
    return RopeScaling(**{**values, "original_context": int(values["original_context"])})


SCALING = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_context": "original_max_position_embeddings",
}
"""The fields of RopeScaling by their keys in config.json."""


def _scaling_keys(scaling: RopeScaling) -> dict[str, Any]:
    return {"rope_type": "llama3", **{theirs: getattr(scaling, ours) for ours, theirs in SCALING.items()}}
