"""A folder that transformers, vLLM and others open without custom code."""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lanbot.core.console import Progress
from lanbot.export.source import Source
from lanbot.models.stored import INDEX, WHOLE, Rows, Stored
from lanbot.models.weights import HEAD, skeleton

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
SHARD = 4 << 30
"""Bytes of weights in a file, and so in memory."""


def write(source: Source, out: Path, kind: str) -> None:
    """config.json, generation_config.json, the tokenizer with its chat template, and the weights in this type."""
    chat = source.chat_format
    chat.save(out)
    config = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    _json(out / "config.json", {**config, "dtype": DTYPES[kind]})
    ids = {"bos_token_id": chat.bos, "eos_token_id": [chat.end_of_turn, *sorted(chat.stop_tokens - {chat.end_of_turn})]}
    pad = chat.tokenizer.special[chat.pad_token]
    _json(out / "generation_config.json", {"do_sample": False, **ids, "pad_token_id": pad})
    _, stored = skeleton(source.folder, torch.float32)
    _Shards(out, getattr(torch, DTYPES[kind])).write(stored, without=HEAD if source.config.tie_embeddings else "")


class _Shards:
    """Writes weights, SHARD bytes in memory at a time."""

    def __init__(self, out: Path, dtype: torch.dtype) -> None:
        self.out, self.dtype = out, dtype
        self.held: dict[str, Tensor] = {}
        self.number_of: dict[str, int] = {}
        self.number = 1

    def write(self, stored: Stored, without: str) -> None:
        shapes = {name: entry.shape for name, entry in stored.entries.items() if name != without}
        total = sum(math.prod(shape) for shape in shapes.values()) * self.dtype.itemsize
        done = 0
        with Progress(f"writing {str(self.dtype).removeprefix('torch.')}", total, "bytes") as progress:

            def put(name: str, rows: Rows) -> None:
                nonlocal done
                if name in shapes:
                    done += self._add(name, rows.read().to(self.dtype))
                    progress.show(done)

            stored.each(put)
        self._flush()
        names = {n: _name(n, self.number) for n in self.number_of.values()}
        for n, name in names.items():
            _part(self.out, n).rename(self.out / name)
        if self.number > 1:
            placed = {name: names[n] for name, n in self.number_of.items()}
            _json(self.out / INDEX, {"metadata": {"total_size": total}, "weight_map": placed})

    def _add(self, name: str, weight: Tensor) -> int:
        if self.held and sum(held.nbytes for held in self.held.values()) + weight.nbytes > SHARD:
            self._flush()
            self.number += 1
        self.held[name], self.number_of[name] = weight, self.number
        return weight.nbytes

    def _flush(self) -> None:
        save_file(self.held, _part(self.out, self.number), metadata={"format": "pt"})
        self.held = {}


def _part(out: Path, number: int) -> Path:
    return out / f"part-{number:05d}"


def _name(number: int, of: int) -> str:
    return WHOLE if of == 1 else f"model-{number:05d}-of-{of:05d}.safetensors"


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
