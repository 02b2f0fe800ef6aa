"""Writing a model's folder as a GGUF file, llama.cpp's format, one weight in memory at a time."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lanbot.core.console import Progress
from lanbot.core.errors import UserError
from lanbot.core.files import beside, unwritable
from lanbot.models.config import ModelConfig
from lanbot.models.gguf_names import ARCHITECTURES, KEYS, ROPE_FACTORS, heads_of, permute, rope_factors, to_gguf
from lanbot.models.gguf_read import package
from lanbot.models.stored import Stored
from lanbot.models.weights import HEAD, skeleton
from lanbot.tokenizers import gguf_vocab

TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
"""The types that matrices can be written in, and their names in `gguf`."""
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def write_gguf(
    folder: Path,
    target: Path,
    kind: str,
    name: str,
    notes: Mapping[str, str] | None = None,
    tokenizer: Path | None = None,
) -> None:
    """Writes the model of a folder to `target`, complete or not at all. kind: of TYPES; vectors are fp32, and a matrix
    whose rows Q8_0 cannot divide is fp16. name: the model's, for people. notes: more string keys. tokenizer: the folder
    of its files, if not the same.

    Raises UserError for what llama.cpp cannot run.
    """
    gguf = package("A GGUF file")
    model, stored = skeleton(folder, torch.float32)
    config = model.config
    if config.family not in ARCHITECTURES:
        problem = f"{folder}: llama.cpp does not run the family {config.family}"
        raise UserError(problem, "Export it as a folder: --to hf.")
    data, chat = (json.loads(((tokenizer or folder) / file).read_text(encoding="utf-8")) for file in TOKENIZER)
    fields = gguf_vocab.fields_of(data, chat, config.vocab_size)
    temporary = beside(target)
    writer = gguf.GGUFWriter(None, config.family)
    _add_metadata(writer, gguf, config.to_hf(), kind, {"general.name": name, **(notes or {})})
    _add_tokenizer(writer, fields, chat.get("chat_template"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(writer, gguf, stored, temporary, config, kind)
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


def _write(writer: Any, gguf: Any, stored: Stored, path: Path, config: ModelConfig, kind: str) -> None:
    """The header, then one weight after the other."""
    shape = config.to_hf()
    factors = rope_factors(shape)
    shapes = {} if factors is None else {ROPE_FACTORS: tuple(factors.shape)}
    shapes |= {name: entry.shape for name, entry in stored.entries.items()}
    if config.tie_embeddings:
        shapes.pop(HEAD, None)
    types = {name: _type_of(gguf, of, kind) for name, of in shapes.items()}
    sizes = {name: _bytes(gguf, shapes[name], types[name]) for name in shapes}
    for name, of in shapes.items():
        theirs = name if name == ROPE_FACTORS else to_gguf(name)
        writer.add_tensor_info(theirs, of, np.dtype(np.float32), sizes[name], types[name])
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    done = 0
    with Progress(f"writing {kind}", sum(sizes.values()), "bytes") as progress:

        def put(name: str, weight: Tensor) -> None:
            nonlocal done
            heads = heads_of(name, shape)
            weight = weight if heads is None else permute(weight, heads)
            writer.write_tensor_data(gguf.quantize(weight.float().contiguous().numpy(), types[name]))
            progress.show(done := done + sizes[name])

        if factors is not None:
            put(ROPE_FACTORS, factors)
        stored.each(lambda name, rows: put(name, rows.read()) if name in shapes else None)


def _type_of(gguf: Any, shape: tuple[int, ...], kind: str) -> Any:
    name = TYPES[kind] if len(shape) > 1 else "F32"
    if name == "Q8_0" and shape[-1] % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q8_0][0]:
        name = "F16"
    return gguf.GGMLQuantizationType[name]


def _bytes(gguf: Any, shape: tuple[int, ...], kind: Any) -> int:
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    return math.prod(shape) // block * block_bytes
