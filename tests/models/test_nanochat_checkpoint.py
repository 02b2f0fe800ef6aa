"""nanochat's checkpoints: what its own code computes of one, what transformers does, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from lanbot.chat.formats import get_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.core.errors import UserError
from lanbot.inference.engine import Engine
from lanbot.inference.sampling import Sampling
from lanbot.models import nanochat_checkpoint
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model, save_model
from lanbot.tokenizers.tiktoken_pickle import read_pickle

MakeModel = Callable[..., Transformer]
CPU = torch.device("cpu")


class Existing(NamedTuple):
    model: Transformer
    chat_format: ChatFormat
    oracle: dict[str, Any]


def load(root: Path) -> Transformer:
    """The newest model of a tree."""
    path = max(root.glob("*_checkpoints/*/model_*.pt"))
    meta = path.with_name(path.name.replace("model_", "meta_")).with_suffix(".json")
    config = nanochat_checkpoint.model_config(nanochat_checkpoint.read_meta(meta), meta)
    return nanochat_checkpoint.load(path, config)


@pytest.fixture
def existing(existing_checkpoint: Path) -> Existing:
    chat_format = get_format("nanochat")(read_pickle(existing_checkpoint / "tokenizer" / "tokenizer.pkl"))
    oracle = json.loads((existing_checkpoint / "oracle.json").read_text())
    return Existing(load(existing_checkpoint), chat_format, oracle)


def logits(model: Transformer, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model.logits(model(ids))


def greedy(model: Transformer, chat_format: ChatFormat, prompt: list[int], tokens: int) -> list[int]:
    """By the engine: a prompt, then token by token with a cache."""
    return Engine(model, chat_format).generate([prompt], Sampling(max_tokens=tokens))[0].ids


# -- what nanochat's own code computed ---------------------------------------------------------------------


@pytest.mark.parametrize(("key", "close"), [("nll_fp32_rope", 1e-4), ("nll", 3e-3)])
def test_likelihoods_are_nanochats(existing: Existing, key: str, close: float) -> None:
    """Its tables of cosines and sines are bf16; nll_fp32_rope is the same model with fp32 ones."""
    for case in existing.oracle["conversations"]:
        ids = torch.tensor([case["ids"]])
        found = F.cross_entropy(logits(existing.model, ids)[0, :-1], ids[0, 1:], reduction="none")
        assert len(found) == len(case[key]) > 20 and found.std() > 0.5
        assert_close(found, torch.tensor(case[key]), atol=close, rtol=0)


def test_greedy_answers_are_nanochats(existing: Existing) -> None:
    for case in existing.oracle["conversations"]:
        expected = case["greedy_after_prompt"]
        assert greedy(existing.model, existing.chat_format, case["prompt"], len(expected)) == expected


def test_weights_are_stored_as_they_are_and_masters_are_fp32(existing: Existing, existing_checkpoint: Path) -> None:
    (path,) = existing_checkpoint.glob("*_checkpoints/*/model_*.pt")
    stored = torch.load(path, weights_only=True)
    ours = dict(existing.model.named_parameters())
    assert {parameter.dtype for parameter in ours.values()} == {torch.float32}
    assert sum(p.numel() for p in ours.values()) == sum(p.numel() for p in stored.values())
    assert torch.equal(ours["layers.1.self_attn.k_proj.weight"], stored["transformer.h.1.attn.c_k.weight"].float())
    assert torch.equal(ours["layers.2.mlp.down_proj.weight"], stored["transformer.h.2.mlp.c_proj.weight"].float())


# -- transformers' class of the same family ----------------------------------------------------------------


def test_transformers_opens_it_and_computes_the_same(existing: Existing, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    save_model(existing.model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "NanoChatForCausalLM"
    for case in existing.oracle["conversations"]:
        ids, ours = torch.tensor([case["ids"]]), logits(existing.model, torch.tensor([case["ids"]]))
        with torch.no_grad():
            assert_close(theirs(ids).logits, ours, atol=1e-4, rtol=1e-4)
            prompt = torch.tensor([case["prompt"]])
            expected = case["greedy_after_prompt"]
            answer = theirs.generate(prompt, max_new_tokens=len(expected), do_sample=False, eos_token_id=None)
        assert ours.abs().max() < 15
        assert answer[0, prompt.shape[1] :].tolist() == expected


def test_what_transformers_saved_is_the_same_here(existing: Existing, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    save_model(existing.model, tmp_path / "ours")
    AutoModelForCausalLM.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again = load_model(tmp_path / "theirs", torch.float32, CPU)
    assert again.config == existing.model.config
    before = existing.model.state_dict()
    assert again.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in again.state_dict().items())


# -- grouped queries, names of a compiled model ------------------------------------------------------------


def plain_forward(weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """The formulas of nanochat's gpt.py, written down once more."""

    def norm(x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],))

    def rotate(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        angles = torch.arange(x.shape[1]).float()[:, None] * 10_000.0 ** -(torch.arange(half).float() / half)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos + b * sin, -a * sin + b * cos], -1)

    def weight(name: str) -> Tensor:
        return weights[f"{name}.weight"].float()

    rows, T = ids.shape
    x = norm(F.embedding(ids, weight("transformer.wte")))
    for at in ("transformer.h.0", "transformer.h.1"):
        q, k, v = ((norm(x) @ weight(f"{at}.attn.c_{part}").T).view(rows, T, -1, 16) for part in "qkv")
        q, k, v = (part.transpose(1, 2) for part in (norm(rotate(q)), norm(rotate(k)), v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + y.transpose(1, 2).reshape(rows, T, -1) @ weight(f"{at}.attn.c_proj").T
        x = x + F.relu(norm(x) @ weight(f"{at}.mlp.c_fc").T).square() @ weight(f"{at}.mlp.c_proj").T
    return 15 * torch.tanh(norm(x) @ weight("lm_head").T / 15)


def test_grouped_queries_and_names_of_a_compiled_model(tree: Path) -> None:
    (path,) = tree.glob("*/*/model_*.pt")
    weights = torch.load(path, weights_only=True)
    assert all(name.startswith("_orig_mod.") for name in weights)
    model = load(tree)
    assert model.config.n_kv_heads < model.config.n_heads
    ids = torch.randint(model.config.vocab_size, (2, 30), generator=torch.Generator().manual_seed(0))
    expected = plain_forward({name.removeprefix("_orig_mod."): value for name, value in weights.items()}, ids)
    assert expected.std() > 0.3
    assert_close(logits(model, ids), expected, atol=1e-4, rtol=1e-4)


def test_packed_documents_are_as_if_alone_in_this_family(tree: Path) -> None:
    model = load(tree)
    ids = torch.randint(model.config.vocab_size, (1, 12), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        packed = model(ids, torch.tensor([[0] * 5 + [1] * 7]))
        assert_close(packed[:, 5:], model(ids[:, 5:]), atol=1e-4, rtol=1e-4)


# -- what is refused ---------------------------------------------------------------------------------------


def refused(root: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        load(root)
    assert str(caught.value).count("\n") == 1, "a problem and a remedy"
    assert all(word in caught.value.problem for word in words), caught.value.problem


@pytest.fixture
def model_path(tree: Path) -> Path:
    return next(tree.glob("*/*/model_*.pt"))


@pytest.fixture
def meta_path(tree: Path) -> Path:
    return next(tree.glob("*/*/meta_*.json"))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_cut_model_is_refused(tree: Path, model_path: Path, share: float) -> None:
    content = model_path.read_bytes()
    model_path.write_bytes(content[: int(share * len(content))])
    refused(tree, str(model_path), "damaged")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"step": 3}', '{"model_config": []}', "\xff"])
def test_metadata_that_are_none_are_refused(tree: Path, meta_path: Path, text: str) -> None:
    meta_path.write_bytes(text.encode("latin-1"))
    refused(tree, str(meta_path), "not the metadata")


@pytest.mark.parametrize("key", ["sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd"])
@pytest.mark.parametrize("wrong", [None, 0, -1, "12", 1.5, True])
def test_a_shape_that_is_none_is_refused(tree: Path, meta_path: Path, key: str, wrong: object) -> None:
    meta = json.loads(meta_path.read_text())
    shape = {**meta["model_config"], key: wrong}
    meta_path.write_text(json.dumps({"model_config": shape}))
    refused(tree, str(meta_path), key)
    del shape[key]
    meta_path.write_text(json.dumps({"model_config": shape}))
    refused(tree, str(meta_path), key)


@pytest.mark.parametrize(("key", "wrong"), [("n_head", 3), ("n_kv_head", 3), ("n_embd", 33)])
def test_heads_that_do_not_divide_are_refused(tree: Path, meta_path: Path, key: str, wrong: int) -> None:
    meta = json.loads(meta_path.read_text())
    meta_path.write_text(json.dumps({"model_config": {**meta["model_config"], key: wrong}}))
    refused(tree, str(meta_path), "heads")


def test_metadata_of_another_model_are_refused(tree: Path, meta_path: Path, model_path: Path) -> None:
    meta = json.loads(meta_path.read_text())
    for key, wrong, word in (("vocab_size", 500, "lm_head"), ("n_layer", 3, "lacks"), ("n_layer", 1, "unknown")):
        meta_path.write_text(json.dumps({"model_config": {**meta["model_config"], key: wrong}}))
        if key == "vocab_size":
            refused(tree, str(model_path), "446", "500")
        else:
            refused(tree, str(model_path), word)


@pytest.mark.parametrize(
    "name",
    [
        *("resid_lambdas", "x0_lambdas", "value_embeds.1.weight", "transformer.h.1.attn.ve_gate.weight"),
        *("smear_gate.weight", "backout_lambda"),
    ],
)
def test_the_tensors_of_a_later_nanochat_are_refused_by_name(tree: Path, model_path: Path, name: str) -> None:
    weights = torch.load(model_path, weights_only=True)
    torch.save({**weights, f"_orig_mod.{name}": torch.ones(2)}, model_path)
    word = next(part for part in nanochat_checkpoint.NEWER if part in name)
    refused(tree, str(model_path), "later nanochat", word)


def test_the_config_of_a_later_nanochat_is_refused_by_name(tree: Path, meta_path: Path) -> None:
    meta = json.loads(meta_path.read_text())
    meta_path.write_text(json.dumps({"model_config": {**meta["model_config"], "window_pattern": "SSSL"}}))
    refused(tree, str(meta_path), "later nanochat", "window_pattern")


@pytest.mark.parametrize("stored", [[1, 2], {"a": 1}, {}, {1: torch.ones(1)}, torch.ones(3)], ids=str)
def test_tensors_that_are_no_models_are_refused(tree: Path, model_path: Path, stored: object) -> None:
    torch.save(stored, model_path)
    refused(tree, str(model_path))


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.mark)!r}, 'w')",)


def test_nothing_in_a_model_file_is_run(tree: Path, model_path: Path, tmp_path: Path) -> None:
    weights = torch.load(model_path, weights_only=True)
    torch.save({**weights, "more": Hostile(tmp_path / "mark")}, model_path)
    torch.load(model_path, weights_only=False)
    assert (tmp_path / "mark").exists(), "the file is not hostile at all"
    (tmp_path / "mark").unlink()
    refused(tree, str(model_path), "nothing of it was run")
    assert not (tmp_path / "mark").exists()


def test_a_missing_file_is_named(tree: Path, model_path: Path, meta_path: Path) -> None:
    config = nanochat_checkpoint.model_config(nanochat_checkpoint.read_meta(meta_path), meta_path)
    model_path.unlink()
    with pytest.raises(UserError, match="no such file"):
        nanochat_checkpoint.load(model_path, config)
    meta_path.unlink()
    with pytest.raises(UserError, match="No such file"):
        nanochat_checkpoint.read_meta(meta_path)


def test_weights_that_are_not_finite_are_refused(tree: Path, model_path: Path) -> None:
    weights = torch.load(model_path, weights_only=True)
    weights["_orig_mod.transformer.h.1.mlp.c_fc.weight"][3, 4] = float("nan")
    torch.save(weights, model_path)
    refused(tree, str(model_path), "h.1.mlp.c_fc", "not finite")
