"""Made-up checkpoints of nanochat, in the layout that its own code writes."""

import json
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from lanbot.chat.formats.nanochat import NanoChatFormat
from lanbot.tokenizers.bpe import NANOCHAT_PATTERN, BPETokenizer

HEADS, KV_HEADS, DIM, CONTEXT = 2, 1, 32, 256


class Encoding:
    """Pickled as tiktoken's class of this name is: a name and a state."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __getstate__(self) -> Any:
        return self.state


Encoding.__module__ = "tiktoken.core"


def pickled(state: Any) -> bytes:
    """A tokenizer.pkl with this state."""
    module = ModuleType("tiktoken.core")
    module.Encoding = Encoding  # type: ignore[attr-defined]
    with patch.dict(sys.modules, {"tiktoken.core": module}):
        return pickle.dumps(Encoding(state), protocol=4)


def state_of(tokenizer: BPETokenizer) -> dict[str, Any]:
    """What is pickled of a tokenizer with these ranks, and nanochat's pattern and special tokens."""
    special = {name: len(tokenizer.ranks) + i for i, name in enumerate(NanoChatFormat.special_tokens)}
    ranks = dict(tokenizer.ranks)
    return {"name": "rustbpe", "pat_str": NANOCHAT_PATTERN, "mergeable_ranks": ranks, "special_tokens": special}


def weights_of(vocab: int, seed: int) -> dict[str, Tensor]:
    """Two layers with grouped queries; none of their parts is zero."""
    kv = KV_HEADS * DIM // HEADS
    shapes = {"transformer.wte": (vocab, DIM), "lm_head": (vocab, DIM)}
    for at in ("transformer.h.0", "transformer.h.1"):
        shapes |= {f"{at}.attn.c_q": (DIM, DIM), f"{at}.attn.c_k": (kv, DIM), f"{at}.attn.c_v": (kv, DIM)}
        shapes |= {
            f"{at}.attn.c_proj": (DIM, DIM),
            f"{at}.mlp.c_fc": (4 * DIM, DIM),
            f"{at}.mlp.c_proj": (DIM, 4 * DIM),
        }
    generator = torch.Generator().manual_seed(seed)
    weights = {f"{name}.weight": 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return weights | {"transformer.wte.weight": weights["transformer.wte.weight"].bfloat16()}


def write(
    root: Path,
    tokenizer: BPETokenizer,
    folder: str = "mid_checkpoints/d2",
    step: int = 7,
    prefix: str = "",
    seed: int = 0,
    meta: dict[str, Any] | None = None,
) -> Path:
    """A tokenizer and one checkpoint below `root`. prefix: of the tensors' names. meta: what its metadata has besides
    the shape."""
    state = state_of(tokenizer)
    vocab = len(state["mergeable_ranks"]) + len(state["special_tokens"])
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tokenizer").mkdir(exist_ok=True)
    (root / "tokenizer" / "tokenizer.pkl").write_bytes(pickled(state))
    weights = {prefix + name: value for name, value in weights_of(vocab, seed).items()}
    torch.save(weights, root / folder / f"model_{step:06d}.pt")
    shape = {"sequence_len": CONTEXT, "vocab_size": vocab, "n_layer": 2, "n_head": HEADS, "n_kv_head": KV_HEADS}
    said = {"step": step, "val_bpb": 0.45, "user_config": {"run": "dummy"}} if meta is None else meta
    text = json.dumps({**said, "model_config": {**shape, "n_embd": DIM}})
    (root / folder / f"meta_{step:06d}.json").write_text(text, encoding="utf-8")
    return root
