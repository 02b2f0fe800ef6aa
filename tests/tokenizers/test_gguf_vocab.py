"""Vocabularies in GGUF's keys: the real Qwen tokenizer there and back, with llama.cpp's ids; types, bos, refusals."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hostile import HOSTILE
from llama_cpp import ask, needs_llama_cpp

from lanbot.core.errors import UserError
from lanbot.models.gguf_write import write_gguf
from lanbot.models.weights import save_model
from lanbot.tokenizers import gguf_vocab, load_tokenizer
from lanbot.tokenizers.bpe import BPETokenizer
from lanbot.tokenizers.hugging_face import HuggingFaceTokenizer

ROWS = 151_936


@pytest.fixture(scope="module")
def fields(qwen_tokenizer: Path) -> dict[str, Any]:
    data, config = (json.loads((qwen_tokenizer / f"tokenizer{name}.json").read_text()) for name in ("", "_config"))
    return gguf_vocab.fields_of(data, config, ROWS)


def test_the_keys_of_qwen_are_those_of_its_own_gguf_files(fields: dict[str, Any]) -> None:
    types = dict(zip(fields["tokens"], fields["token_type"], strict=True))
    assert (fields["model"], fields["pre"], len(fields["tokens"])) == ("gpt2", "qwen2", ROWS)
    assert types["Ġthe"] == gguf_vocab.NORMAL
    assert types["<|im_end|>"] == gguf_vocab.CONTROL
    assert types["<tool_call>"] == gguf_vocab.USER_DEFINED
    assert types["[PAD151700]"] == gguf_vocab.UNUSED
    assert (fields["eos_token_id"], fields["padding_token_id"]) == (151_645, 151_643)
    assert "bos_token_id" not in fields and not fields["add_bos_token"]
    assert fields["merges"][0] == "Ġ Ġ"
    assert gguf_vocab.NORMALIZER not in fields


def test_qwen_comes_back_with_its_ids(qwen_tokenizer: Path, fields: dict[str, Any]) -> None:
    before, after = load_tokenizer(qwen_tokenizer), HuggingFaceTokenizer(gguf_vocab.tokenizer_json(fields))
    assert after.vocab_size == before.vocab_size
    assert [after.encode(text) for text in HOSTILE.values()] == [before.encode(text) for text in HOSTILE.values()]


@needs_llama_cpp
def test_llama_cpp_makes_the_same_ids_of_normal_text(qwen_tokenizer: Path, make_model, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    save_model(make_model(vocab_size=ROWS, n_layers=1, tie_embeddings=True), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((qwen_tokenizer / name).read_bytes())
    write_gguf(tmp_path, tmp_path / "q.gguf", "f16", "q")
    tokenizer, texts = load_tokenizer(qwen_tokenizer), [unicodedata.normalize("NFC", text) for text in HOSTILE.values()]
    assert ask(tmp_path / "q.gguf", tokenize=texts)["tokenize"] == [tokenizer.encode(text) for text in texts]


# -- Small ones --------------------------------------------------------------------------------------------


def data_of(tokenizer: BPETokenizer, tmp_path: Path) -> dict[str, Any]:
    tokenizer.save(tmp_path)
    return dict(json.loads((tmp_path / "tokenizer.json").read_text()))


def test_a_bos_token_before_each_text_is_kept(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    data, config = data_of(tokenizer, tmp_path), {"bos_token": "<|bos|>", "eos_token": {"content": "<|user_end|>"}}
    assert not gguf_vocab.fields_of(data, config, tokenizer.vocab_size)["add_bos_token"]
    bos = tokenizer.special["<|bos|>"]
    first = {"SpecialToken": {"id": "<|bos|>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    named = {"<|bos|>": {"id": "<|bos|>", "ids": [bos], "tokens": ["<|bos|>"]}}
    single = {"type": "TemplateProcessing", "single": [first, text], "pair": [first, text], "special_tokens": named}
    data["post_processor"] = {"type": "Sequence", "processors": [single]}
    fields = gguf_vocab.fields_of(data, config, tokenizer.vocab_size)
    assert fields["add_bos_token"] and fields["eos_token_id"] == tokenizer.special["<|user_end|>"]
    again = HuggingFaceTokenizer(gguf_vocab.tokenizer_json(fields)).tokenizer
    assert again.encode("Hello").ids == [bos, *tokenizer.encode("Hello")]


def test_a_text_without_bos_in_llama_cpps_default_for_llama_3(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    assert gguf_vocab.adds_bos({"model": "gpt2", "pre": "llama-bpe", "bos_token_id": 1})
    assert not gguf_vocab.adds_bos({"model": "gpt2", "pre": "llama-bpe", "bos_token_id": 1, "add_bos_token": False})
    assert not gguf_vocab.adds_bos({"model": "gpt2", "pre": "qwen2", "bos_token_id": 1})
    assert gguf_vocab.adds_bos({"model": "llama", "bos_token_id": 1})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": "Unigram"}, "not plain BPE"),
        ({"dropout": 0.1}, "not plain BPE"),
        ({"ignore_merges": True}, "takes words that are tokens whole"),
        ({"byte_fallback": True}, "splits or normalises text in its own way"),
    ],
)
def test_a_model_that_llama_cpp_lacks_is_refused(
    tokenizer: BPETokenizer, change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    data = data_of(tokenizer, tmp_path)
    data["model"] |= change
    with pytest.raises(UserError, match=said):
        gguf_vocab.fields_of(data, {}, tokenizer.vocab_size)


def test_a_vocabulary_larger_than_the_model_is_refused(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"the tokenizer has {tokenizer.vocab_size} tokens, the model"):
        gguf_vocab.fields_of(data_of(tokenizer, tmp_path), {}, tokenizer.vocab_size - 1)


def test_a_token_that_takes_spaces_is_refused(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    data = data_of(tokenizer, tmp_path)
    data["added_tokens"][3]["lstrip"] = True
    with pytest.raises(UserError, match="takes the space beside it"):
        gguf_vocab.fields_of(data, {}, tokenizer.vocab_size)
