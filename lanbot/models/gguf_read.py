"""Reading GGUF files, llama.cpp's: the shape, the tokenizer, and weights of any type that `gguf` dequantises.

The file is mapped into memory, so at most one tensor is in memory beside the model.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lanbot.core.console import track
from lanbot.core.errors import UserError
from lanbot.models.config import ModelConfig
from lanbot.models.gguf_names import (
    ARCHITECTURES,
    KEYS,
    ROPE_FACTORS,
    from_gguf,
    heads_of,
    rope_factors,
    to_gguf,
    unpermute,
)
from lanbot.models.transformer import Transformer
from lanbot.models.weights import to_hf_names
from lanbot.tokenizers import gguf_vocab

LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What Llama 3.1 and later have; GGUF files hold the resulting factors only."""
CPU = torch.device("cpu")
WHOLE = "It is not a whole model of the family that it names."
AGAIN = "Fetch or convert the file again."


class GGUFFile:
    """A model in one GGUF file. Raises UserError for a damaged file, and for what LanBot does not run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        gguf = package(str(path))
        try:
            self._reader = gguf.GGUFReader(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})", "Check its permissions.") from None
        except Exception as error:  # the package raises whatever its arithmetic raises
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            raise UserError(f"{path}: damaged, or not a GGUF file ({reason})", AGAIN) from None
        family = self.field("general.architecture")
        if family not in ARCHITECTURES:
            remedy = f"LanBot reads GGUF files of {', '.join(ARCHITECTURES)}."
            raise UserError(f"{path}: its architecture {family!r} is not supported", remedy)
        if self.field("split.count", 1) > 1:
            raise UserError(f"{path}: one of several files", "Join them by llama.cpp's llama-gguf-split --merge.")
        self.family: str = family

    def field(self, key: str, default: Any = None) -> Any:
        found = self._reader.get_field(key)
        try:
            return default if found is None else found.contents()
        except ValueError:  # no text
            raise UserError(f"{self.path}: damaged, {key} cannot be read", AGAIN) from None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The shape, as config.json says it."""
        keys = {ours: self.field(f"{self.family}.{theirs}") for ours, theirs in KEYS.items()}
        if keys["head_dim"] is None and keys["hidden_size"] and keys["num_attention_heads"]:
            keys["head_dim"] = keys["hidden_size"] // keys["num_attention_heads"]
        keys["num_key_value_heads"] = keys["num_key_value_heads"] or keys["num_attention_heads"]
        for ours, value in keys.items():
            if not isinstance(value, int | float):  # some families have a list, a value for each layer
                said = "lacks" if value is None else "has an unsupported"
                raise UserError(f"{self.path}: {said} {self.family}.{KEYS[ours]}", AGAIN)
        keys["rms_norm_eps"] = _short(keys["rms_norm_eps"])
        theta = _short(self.field(f"{self.family}.rope.freq_base", 10_000.0))
        config = {
            "architectures": [ARCHITECTURES[self.family]],
            "model_type": self.family,
            **keys,
            "vocab_size": self._rows("token_embd.weight"),
            "tie_word_embeddings": "output.weight" not in self._tensors,
            "attention_bias": "blk.0.attn_q.bias" in self._tensors and self.family != "qwen2",
            "hidden_act": "silu",
        }
        return {**config, "rope_parameters": self._rope(config, theta)}

    def _rope(self, config: dict[str, Any], theta: float) -> dict[str, Any]:
        kind = self.field(f"{self.family}.rope.scaling.type", "none")
        turned = self.field(f"{self.family}.rope.dimension_count", config["head_dim"])
        if kind != "none" or turned != config["head_dim"]:
            what = f"rope scaling {kind!r}" if kind != "none" else f"rotary embedding of {turned} dimensions"
            raise UserError(f"{self.path}: its {what} is not supported", "LanBot runs Llama 3's and none.")
        if ROPE_FACTORS not in self._tensors:
            return {"rope_type": "default", "rope_theta": theta}
        stored = self._dequantised(ROPE_FACTORS)
        rope = {"rope_type": "llama3", "rope_theta": theta, "factor": round(float(stored.max()), 3), **LLAMA3_ROPE}
        expected = rope_factors({**config, "rope_parameters": rope})
        if expected is None or stored.shape != expected.shape or not torch.allclose(stored, expected, rtol=1e-4):
            raise UserError(f"{self.path}: its rope factors are not Llama 3's", "Import the original model.")
        return rope

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the weights, by transformers' names."""
        listed = ((name, tensor.shape) for name, tensor in self._tensors.items() if name != ROPE_FACTORS)
        return {self._ours(name): tuple(int(n) for n in reversed(shape)) for name, shape in listed}

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each weight by transformers' name, in fp32; one at a time."""
        for name in self._tensors:
            if name != ROPE_FACTORS:
                ours = self._ours(name)
                heads, weight = heads_of(ours, self.config), self._dequantised(name)
                yield ours, weight if heads is None else unpermute(weight, heads)

    def tokenizer(self) -> tuple[str, dict[str, Any]]:
        """tokenizer.json, and what tokenizer_config.json says, with the chat template."""
        prefix = "tokenizer.ggml."
        names = [name for name in self._reader.fields if name.startswith(prefix)]
        fields = {name.removeprefix(prefix): self.field(name) for name in names}
        fields[gguf_vocab.NORMALIZER] = self.field(gguf_vocab.NORMALIZER)
        try:
            text = gguf_vocab.tokenizer_json(fields)
        except UserError as error:
            raise UserError(f"{self.path}: {error.problem}", error.remedy) from None
        return text, gguf_vocab.tokenizer_config(fields, self.field("tokenizer.chat_template"))

    @cached_property
    def _tensors(self) -> dict[str, Any]:
        return {tensor.name: tensor for tensor in self._reader.tensors}

    def _rows(self, name: str) -> int:
        if name not in self._tensors:
            raise UserError(f"{self.path}: lacks {name}", AGAIN)
        return int(self._tensors[name].shape[-1])

    def _ours(self, name: str) -> str:
        ours = from_gguf(name)
        if ours is None:
            raise UserError(f"{self.path}: has an unknown tensor {name}", "Import the original model.")
        return ours

    def _dequantised(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        try:
            values = package(str(self.path)).dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            problem = f"{self.path}: {name} is of the type {tensor.tensor_type.name}, which cannot be read"
            raise UserError(problem, "Use a file of another type, such as Q8_0 or F16.") from None
        return torch.from_numpy(values.copy() if not values.flags.writeable else values)


@torch.no_grad()
def load(file: GGUFFile, config: ModelConfig, device: torch.device = CPU) -> Transformer:
    """The model with fp32 masters. Raises UserError if the weights are not those of the shape."""
    layers = len({name.split(".")[2] for name in file.shapes if name.startswith("model.layers.")})
    if layers != config.n_layers:  # a made-up number of layers would take long to make
        raise UserError(f"{file.path}: has {layers} layers, its shape says {config.n_layers:,}", WHOLE)
    with torch.device("meta"):
        model = Transformer(config)
    wanted = {name: tuple(weight.shape) for name, weight in to_hf_names(model).items()}
    missing, unknown = sorted(wanted.keys() - file.shapes.keys()), sorted(file.shapes.keys() - wanted.keys())
    if missing or unknown:
        what = f"lacks {to_gguf(missing[0])}" if missing else f"has an unsupported {to_gguf(unknown[0])}"
        raise UserError(f"{file.path}: {what}", WHOLE)
    for name, shape in file.shapes.items():
        if shape != wanted[name]:
            raise UserError(f"{file.path}: {to_gguf(name)} is {shape}, its shape says {wanted[name]}", WHOLE)
    model.to_empty(device=device)
    model.tie()
    targets = to_hf_names(model)
    for name, weight in track(file.weights(), f"reading {file.path.name}", len(wanted), "tensors"):
        targets[name].copy_(weight)
    return model


def _short(value: float) -> float:
    """A float32 as it was written: 1e-05, not 9.999999747378752e-06."""
    return float(f"{value:.7g}")


def package(what: str) -> Any:
    """The `gguf` package. Raises UserError if it is not installed. what: needs it."""
    try:
        import gguf
    except ImportError:
        raise UserError(f"{what} needs the package gguf", "Install it: pip install 'lanbot[export]'") from None
    return gguf
