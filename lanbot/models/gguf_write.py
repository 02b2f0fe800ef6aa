"""Writing a model's folder as a GGUF file, llama.cpp's format, one weight in memory at a time."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lanbot.core.console import Progress
from lanbot.core.errors import UserError
from lanbot.core.files import beside, unwritable
from lanbot.models.config import ModelConfig
from lanbot.models.gguf_names import ARCHITECTURES, KEYS, ROPE_FACTORS, heads_of, permute, rope_factors, to_gguf
from lanbot.models.gguf_read import package
from lanbot.tokenizers import gguf_vocab

TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
"""The types that matrices can be written in, and their names in `gguf`."""


def write_gguf(folder: Path, target: Path, kind: str, name: str, notes: Mapping[str, str] | None = None) -> None:
    """Writes the model of a folder to `target`, complete or not at all. kind: of TYPES; vectors are fp32, and a matrix
    whose rows Q8_0 cannot divide is fp16. name: the model's, for people. notes: more string keys.

    Raises UserError for what llama.cpp cannot run.
    """
    gguf = package("A GGUF file")
    config = ModelConfig.from_hf(folder / "config.json")
    if config.family not in ARCHITECTURES:
        problem = f"{folder}: llama.cpp does not run the family {config.family}"
        raise UserError(problem, "Export it as a folder: --to hf.")
    shape = config.to_hf()
    texts = {file: (folder / file).read_text(encoding="utf-8") for file in ("tokenizer.json", "tokenizer_config.json")}
    tokenizer, chat = json.loads(texts["tokenizer.json"]), json.loads(texts["tokenizer_config.json"])
    fields = gguf_vocab.fields_of(tokenizer, chat, config.vocab_size)
    temporary = beside(target)
    writer = gguf.GGUFWriter(None, config.family)
    _add_metadata(writer, gguf, shape, kind, {"general.name": name, **(notes or {})})
    _add_tokenizer(writer, fields, chat.get("chat_template"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(writer, gguf, folder, temporary, shape, kind)
        temporary.replace(target)
    except OSError as error:
        raise unwritable(target, error) from None
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)


def _add_metadata(writer: Any, gguf: Any, shape: dict[str, Any], kind: str, notes: Mapping[str, str]) -> None:
    family = shape["model_type"]
    writer.add_type("model")
    for key, value in notes.items():
        writer.add_string(key, value)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{TYPES[kind]}" if kind != "f32" else "ALL_F32"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for ours, theirs in KEYS.items():
        add = writer.add_float32 if isinstance(shape[ours], float) else writer.add_uint32
        add(f"{family}.{theirs}", shape[ours])
    writer.add_uint32(f"{family}.attention.value_length", shape["head_dim"])
    writer.add_uint32(f"{family}.rope.dimension_count", shape["head_dim"])
    writer.add_float32(f"{family}.rope.freq_base", shape["rope_parameters"]["rope_theta"])
    writer.add_uint32(f"{family}.vocab_size", shape["vocab_size"])


def _add_tokenizer(writer: Any, fields: dict[str, Any], template: str | None) -> None:
    for key, value in fields.items():
        name = key if "." in key else f"tokenizer.ggml.{key}"
        adders = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string, list: writer.add_array}
        adders[type(value)](name, value)
    if template:
        writer.add_string("tokenizer.chat_template", template)


def _write(writer: Any, gguf: Any, folder: Path, path: Path, shape: dict[str, Any], kind: str) -> None:
    """The header, then one weight after the other."""
    sizes = {}
    for name, weight in _weights(folder, shape, only_shapes=True):
        stored = _stored_as(gguf, weight, kind)
        block, block_bytes = gguf.GGML_QUANT_SIZES[stored]
        sizes[name] = stored, weight.numel() // block * block_bytes
        writer.add_tensor_info(name, tuple(weight.shape), torch.empty(0).numpy().dtype, sizes[name][1], stored)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    done = 0
    with Progress(f"writing {path.name.strip('.').removesuffix('.tmp')}", sum(n for _, n in sizes.values()), "bytes") as progress:
        for name, weight in _weights(folder, shape):
            stored, count = sizes[name]
            writer.write_tensor_data(gguf.quantize(weight.float().contiguous().numpy(), stored))
            progress.show(done := done + count)


def _stored_as(gguf: Any, weight: Tensor, kind: str) -> Any:
    name = TYPES[kind] if weight.dim() > 1 else "F32"
    if name == "Q8_0" and weight.shape[-1] % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q8_0][0]:
        name = "F16"
    return gguf.GGMLQuantizationType[name]


def _weights(folder: Path, shape: dict[str, Any], only_shapes: bool = False) -> Iterator[tuple[str, Tensor]]:
    """The weights by llama.cpp's names, in its order of rows. only_shapes: without their values."""
    if (factors := rope_factors(shape)) is not None:
        yield ROPE_FACTORS, factors
    with safe_open(folder / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118  (it is no dictionary)
            if only_shapes:
                yield to_gguf(name), torch.empty(file.get_slice(name).get_shape(), device="meta")
                continue
            heads, weight = heads_of(name, shape), file.get_tensor(name)
            yield to_gguf(name), weight if heads is None else permute(weight, heads)
