"""A folder that transformers, vLLM and others open without custom code."""

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from lanbot.core.console import Progress
from lanbot.export.source import Source
from lanbot.models.stored import StoredWeights

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
SHARD = 4 << 30
"""Bytes of weights in a file, and so in memory."""


def write(source: Source, out: Path, kind: str) -> None:
    """config.json, generation_config.json, the tokenizer with its chat template, and the weights in this type."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source.folder / name, out / name)
    config = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    _json(out / "config.json", {**config, "dtype": DTYPES[kind]})
    chat = source.chat_format
    ids = {"bos_token_id": chat.bos, "eos_token_id": [chat.end_of_turn, *sorted(chat.stop_tokens - {chat.end_of_turn})]}
    pad = chat.tokenizer.special[chat.pad_token]
    _json(out / "generation_config.json", {"do_sample": False, **ids, "pad_token_id": pad})
    _weights(source.folder, out, kind)


def _weights(folder: Path, out: Path, kind: str) -> None:
    import torch

    dtype = getattr(torch, DTYPES[kind])
    stored = StoredWeights(folder)
    shards: list[dict[str, Tensor]] = []
    names: dict[str, int] = {}
    total = sum(torch.Size(stored.shape(name)).numel() for name in stored.files) * dtype.itemsize
    size = done = 0
    with Progress(f"writing {kind}", total, "bytes") as progress:
        for name in stored.files:
            weight = stored.read(name).to(dtype)
            if not shards or (size and size + weight.nbytes > SHARD):
                _flush(out, shards)
                shards.append({})
                size = 0
            shards[-1][name], names[name] = weight, len(shards)
            size, done = size + weight.nbytes, done + weight.nbytes
            progress.show(done)
    _flush(out, shards)
    if len(shards) == 1:
        _shard(out, 1).rename(out / "model.safetensors")
        return
    for number in range(1, len(shards) + 1):
        _shard(out, number).rename(out / _name(number, len(shards)))
    placed = {name: _name(number, len(shards)) for name, number in names.items()}
    _json(out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": placed})


def _flush(out: Path, shards: list[dict[str, Tensor]]) -> None:
    """Writes the last shard and forgets its weights."""
    if shards:
        save_file(shards[-1], _shard(out, len(shards)), metadata={"format": "pt"})
        shards[-1].clear()


def _shard(out: Path, number: int) -> Path:
    return out / f"shard-{number:05d}"


def _name(number: int, of: int) -> str:
    return f"model-{number:05d}-of-{of:05d}.safetensors"


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
