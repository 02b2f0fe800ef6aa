"""Shared fixtures: a small tokenizer, and tiny models none of whose parts is zero."""

import os
from collections.abc import Callable
from pathlib import Path

import nanochat_tree
import pytest
import torch

from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.core.options import Options
from lanbot.data.smollm2 import place
from lanbot.models.config import ModelConfig
from lanbot.models.init import init_weights
from lanbot.models.transformer import Transformer
from lanbot.synthetic import world
from lanbot.tokenizers.bpe import BPETokenizer
from lanbot.tokenizers.bpe_training import train

os.environ["LANBOT_OFFLINE"] = "1"  # no test waits for a network; those of downloads bring their own hub
REAL = Path(os.environ.get("LANBOT_MIRROR") or Path(__file__).parents[2] / "shared" / "data")
VOCAB = 448
TINY = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "mlp_dim": 48, "context": 64}

MakeModel = Callable[..., Transformer]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With pytest-xdist a file stays on one process, and so do the sandbox's tests: a user's threads are counted."""
    for item in items:
        sandboxed = item.path.parent.name == "sandbox" or item.path.name == "test_code_grading.py"
        item.add_marker(pytest.mark.xdist_group("sandbox" if sandboxed else str(item.path)))


@pytest.fixture
def real_mirror(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of real data, set as the mirror."""
    if not REAL.is_dir():
        pytest.skip(f"no mirror of real data at {REAL}")
    monkeypatch.setenv("LANBOT_MIRROR", str(REAL))
    return REAL


@pytest.fixture(scope="session")
def tokenizer() -> BPETokenizer:
    return train((world.document("train", i) for i in range(300)), VOCAB, LanBotFormat.special_tokens)


@pytest.fixture(scope="session")
def chat_format(tokenizer: BPETokenizer) -> LanBotFormat:
    return LanBotFormat(tokenizer)


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """make_model(seed, dtype, **fields of ModelConfig): the same seed and fields give the same weights."""
    torch.set_num_threads(1)

    def make(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: object) -> Transformer:
        config = ModelConfig(**{"vocab_size": VOCAB, **TINY, **changes})  # type: ignore[arg-type]
        model = Transformer(config, dtype)
        generator = torch.Generator().manual_seed(seed)
        init_weights(model, generator)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter.uniform_(0.5, 1.5, generator=generator)
                elif name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight", "bias")) or (
                    config.tie_embeddings and "embed" in name
                ):
                    parameter.normal_(0.0, 0.2, generator=generator)
        return model

    return make


@pytest.fixture(scope="session")
def stories() -> Path:
    """stories260k: a Llama that writes stories."""
    return _real("open_weights/stories260k")


@pytest.fixture(scope="session")
def qwen_tokenizer() -> Path:
    return _real("tokenizers/qwen3")


def _real(name: str) -> Path:
    folder = REAL / name
    if not folder.is_dir():
        pytest.skip(f"not there: {folder}")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, real weights in 4 bits, where the cache has them."""
    path = place(Options.from_environment())
    if not path.is_file():
        pytest.skip(f"no SmolLM2 at {path}")
    return path


@pytest.fixture
def existing_checkpoint() -> Path:
    """A small tree that nanochat's own code wrote, with an oracle of what that code computes."""
    folder = REAL / "existing_checkpoint"
    if not folder.is_dir():
        pytest.skip(f"no checkpoint of nanochat at {folder}")
    return folder


@pytest.fixture
def tree(tokenizer: BPETokenizer, tmp_path: Path) -> Path:
    """A made-up tree with mid/d2/7, whose tensors have the prefix of a compiled model."""
    return nanochat_tree.write(tmp_path / "tree", tokenizer, prefix="_orig_mod.")
