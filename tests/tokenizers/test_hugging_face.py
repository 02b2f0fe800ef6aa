"""Tokenizers of other models: the same ids as the library's, and no text that becomes a special token."""

import json
from pathlib import Path

import pytest
import tokenizers

from lanbot.core.errors import UserError
from lanbot.tokenizers import load_tokenizer
from lanbot.tokenizers.base import Tokenizer
from lanbot.tokenizers.bpe import BPETokenizer
from lanbot.tokenizers.hugging_face import HuggingFaceTokenizer

DATA = Path(__file__).parents[3] / "shared" / "data"
TEXTS = [
    "",
    "Hello,  you!\n",
    " It costs $1,299.99.\r\n\r\n",
    "héllo Привет 你好 👩‍🚀",
    "a\0b",
    "x" * 3_000,
    "\t\n  z  ",
]


def real(folder: str) -> Path:
    if not (DATA / folder / "tokenizer.json").is_file():
        pytest.skip(f"{folder} is not there")
    return DATA / folder


@pytest.fixture(scope="module", params=["tokenizers/qwen3", "open_weights/stories260k"])
def folder(request: pytest.FixtureRequest) -> Path:
    return real(request.param)


@pytest.fixture(scope="module")
def ours(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


def test_ids_are_the_librarys_and_texts_come_back(folder: Path, ours: Tokenizer) -> None:
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert isinstance(ours, HuggingFaceTokenizer)
    for text in TEXTS:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ours.encode_array(text).tolist() == ids
        assert ours.decode(ids) == text


def test_the_bytes_of_tokens_are_those_of_the_text(ours: Tokenizer) -> None:
    lengths = ours.byte_lengths()
    assert len(lengths) == ours.vocab_size
    for text in TEXTS:
        ids = ours.encode(text)
        joined = b"".join(ours.token_bytes(token) for token in ids)
        assert joined.decode().removeprefix(" " * joined.startswith(b" " + text.encode())) == text
        assert lengths[ids].sum() == len(joined)
    assert not any(ours.token_bytes(token) for token in ours.special.values())


def test_no_text_becomes_a_special_token(ours: Tokenizer) -> None:
    for name, token in ours.special.items():
        for text in (name, f"a{name}b", f" {name}\n"):
            ids = ours.encode(text)
            assert not set(ids) & set(ours.special.values()) and ours.decode(ids) == text
        assert ours.decode([token]) == name


def test_tokens_of_a_chat_format_are_special_even_if_not_marked_so(folder: Path, ours: Tokenizer) -> None:
    assert folder.name != "qwen3" or {"<think>", "<tool_call>", "<|im_end|>"} <= set(ours.special)


def test_a_saved_tokenizer_is_the_same_file(folder: Path, ours: Tokenizer, tmp_path: Path) -> None:
    ours.save(tmp_path / "new")
    assert (tmp_path / "new" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_our_own_tokenizer_is_the_same_by_the_library(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    by_library = HuggingFaceTokenizer(text)
    assert isinstance(load_tokenizer(tmp_path), BPETokenizer)
    assert by_library.special == tokenizer.special and by_library.vocab_size == tokenizer.vocab_size
    assert by_library.byte_lengths().tolist() == tokenizer.byte_lengths().tolist()
    assert all(by_library.token_bytes(i) == tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size + 3))
    for case in [*TEXTS, "".join(tokenizer.special)]:
        assert by_library.encode(case) == tokenizer.encode(case)
        assert by_library.decode(by_library.encode(case)) == case


def test_runs_of_spaces_that_were_added_stay_text(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    spaces = {**data["added_tokens"][0], "id": tokenizer.vocab_size, "content": " " * 8, "special": False}
    data["added_tokens"].append(spaces)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    ours = load_tokenizer(tmp_path)
    assert spaces["id"] in ours.encode("a" + " " * 8 + "b") and spaces["content"] not in ours.special
    assert ours.token_bytes(spaces["id"]) == b" " * 8


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {}}', '{"added_tokens": [], "model": {"type": "BPE"}}'])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer"):
        load_tokenizer(tmp_path)
