"""nanochat's tokenizer.pkl: read without running what a pickle may run."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nanochat_tree
import pytest
import tiktoken

from lanbot.core.errors import UserError
from lanbot.tokenizers import load_tokenizer, tiktoken_pickle
from lanbot.tokenizers.bpe import BPETokenizer
from lanbot.tokenizers.tiktoken_pickle import read_pickle

TEXT = "It's 12345 o'clock, naïve 😀 -- and\r\n\n  <|bos|> the cat's 3.14"


def written(folder: Path, data: bytes) -> Path:
    (folder / "tokenizer.pkl").write_bytes(data)
    return folder / "tokenizer.pkl"


# -- what is read ------------------------------------------------------------------------------------------


def test_ids_are_nanochats(existing_checkpoint: Path) -> None:
    read = read_pickle(existing_checkpoint / "tokenizer" / "tokenizer.pkl")
    oracle = json.loads((existing_checkpoint / "oracle.json").read_text())
    assert read.encode(oracle["text"]) == oracle["text_ids"]
    assert read.encode_array(oracle["text"]).tolist() == oracle["text_ids"]
    assert read.decode(oracle["text_ids"]) == oracle["text"]
    assert read.special == oracle["special"]


def test_what_tiktoken_itself_pickles_is_read(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    state = nanochat_tree.state_of(tokenizer)
    encoding = tiktoken.Encoding(**state)
    for protocol in (4, 5):
        read = read_pickle(written(tmp_path, pickle.dumps(encoding, protocol=protocol)))
        assert (read.ranks, read.pattern, read.special) == tuple(
            state[key] for key in ("mergeable_ranks", "pat_str", "special_tokens")
        )
        assert read.encode(TEXT) == encoding.encode_ordinary(TEXT)


def test_it_becomes_an_ordinary_tokenizer_json(existing_checkpoint: Path, tmp_path: Path) -> None:
    import tokenizers

    read = read_pickle(existing_checkpoint / "tokenizer" / "tokenizer.pkl")
    read.save(tmp_path)
    again, theirs = load_tokenizer(tmp_path), tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    oracle = json.loads((existing_checkpoint / "oracle.json").read_text())
    for text in (oracle["text"], TEXT.replace("<|bos|>", "")):
        assert again.encode(text) == theirs.encode(text).ids == read.encode(text)
    assert again.special == read.special
    assert [theirs.token_to_id(name) for name in read.special] == list(read.special.values())


# -- what is refused ---------------------------------------------------------------------------------------


def refused(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_pickle(path)
    assert str(caught.value).count("\n") == 1, "a problem and a remedy"
    assert caught.value.problem.startswith(str(path)) and len(caught.value.problem) < 400
    assert all(word in caught.value.problem for word in words), caught.value.problem


Change = Callable[[dict[str, Any]], Any]


def without(key: str) -> Change:
    return lambda state: {name: value for name, value in state.items() if name != key}


def ranks(change: Callable[[dict[bytes, Any]], dict[Any, Any]]) -> Change:
    return lambda state: {**state, "mergeable_ranks": change(state["mergeable_ranks"])}


CHANGES: dict[str, tuple[Change, str]] = {
    "no ranks": (without("mergeable_ranks"), "state"),
    "no special tokens": (without("special_tokens"), "state"),
    "no pattern": (without("pat_str"), "state"),
    "another pattern": (lambda state: {**state, "pat_str": "a\nb|" * 50}, "split pattern"),
    "no state": (lambda _: None, "state"),
    "a list": (lambda _: {"mergeable_ranks": [], "special_tokens": {}, "pat_str": ""}, "not"),
    "ranks of text": (ranks(lambda of: {str(token): rank for token, rank in of.items()}), "bytes"),
    "ranks that are text": (ranks(lambda of: {token: str(rank) for token, rank in of.items()}), "state"),
    "a rank twice": (ranks(lambda of: {**of, b"zzzz": 300}), "ids"),
    "a gap": (ranks(lambda of: {**of, b"zzzz": 9_999}), "ids"),
    "no byte A": (ranks(lambda of: {b"zzzz" if token == b"A" else token: rank for token, rank in of.items()}), "bytes"),
    "a token of no merge": (
        ranks(lambda of: {b"\xff\xfe\xfd" if rank == 300 else token: rank for token, rank in of.items()}),
        "merge",
    ),
    "an empty token": (ranks(lambda of: {b"" if rank == 300 else token: rank for token, rank in of.items()}), "merge"),
    "special tokens first": (
        lambda state: {
            **state,
            "special_tokens": {"<|bos|>": 0},
            "mergeable_ranks": {token: rank + 1 for token, rank in state["mergeable_ranks"].items()},
        },
        "special",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_state_that_is_no_vocabulary_is_refused(case: str, tokenizer: BPETokenizer, tmp_path: Path) -> None:
    change, word = CHANGES[case]
    refused(written(tmp_path, nanochat_tree.pickled(change(nanochat_tree.state_of(tokenizer)))), word)


def test_the_name_of_a_registered_encoding_is_refused_with_a_word(tmp_path: Path) -> None:
    refused(written(tmp_path, nanochat_tree.pickled("cl100k_base")), "registered encoding 'cl100k_base'")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.9999])
def test_a_cut_pickle_is_refused(share: float, tokenizer: BPETokenizer, tmp_path: Path) -> None:
    data = nanochat_tree.pickled(nanochat_tree.state_of(tokenizer))
    refused(written(tmp_path, data[: int(share * len(data))]), "nothing of it was run")


def test_every_changed_byte_is_refused_or_harmless(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    data = nanochat_tree.pickled(nanochat_tree.state_of(tokenizer))
    outcomes = set()
    for at in range(0, len(data), 37):
        path = written(tmp_path, data[:at] + bytes([data[at] ^ 0x15]) + data[at + 1 :])
        try:
            outcomes.add(type(read_pickle(path)))
        except UserError as error:
            outcomes.add(str(error).count("\n"))
    assert outcomes == {BPETokenizer, 1}


@pytest.mark.parametrize("data", [b"text\n", b"\x80\x04}.", b"\x80\x04N.", b"\x80\x04K\x05.", b"{}", b"PK\x03\x04"])
def test_other_files_are_refused(data: bytes, tmp_path: Path) -> None:
    refused(written(tmp_path, data))


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "tokenizer.pkl", "no such file")
    (tmp_path / "tokenizer.pkl").mkdir()
    refused(tmp_path / "tokenizer.pkl", "cannot be read")


# -- hostile pickles ---------------------------------------------------------------------------------------


class Reduced:
    """Runs a shell command when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def attacks(mark: Path) -> dict[str, bytes]:
    """Each makes the file `mark` where it is run."""
    shell = f"echo > {mark}"
    code = f"open({str(mark)!r}, 'w')"
    good = nanochat_tree.pickled({})
    return {
        **{f"os.system, protocol {n}": pickle.dumps(Reduced(os.system, shell), protocol=n) for n in range(6)},
        **{f"eval, protocol {n}": pickle.dumps(Reduced(eval, code), protocol=n) for n in range(6)},
        "GLOBAL": b"cos\nsystem\n(" + text(shell) + b"tR.",
        "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + text(shell) + b"\x85R.",
        "STACK_GLOBAL, called in place": b"\x80\x04" + text("os") + text("system") + b"\x93" + text(shell) + b"\x85R.",
        "INST": b"(S" + repr(shell).encode() + b"\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + text(shell) + b"o.",
        "NEWOBJ": b"\x80\x02cbuiltins\neval\n" + text(code) + b"\x85\x81.",
        "a dotted name": b"\x80\x04" + text("tiktoken.core") + text("os.system") + b"\x93" + text(shell) + b"\x85R.",
        "getattr": b"cbuiltins\ngetattr\n(cos\n__dict__\n" + text("system") + b"tR(" + text(shell) + b"tR.",
        "EXT1": b"\x80\x02\x82\x01.",
        "PERSID": b"Psome\n.",
        "in the state": nanochat_tree.pickled({"mergeable_ranks": Reduced(os.system, shell)}),
        "after the good one": good[:-1] + pickle.dumps(Reduced(os.system, shell), protocol=2),
    }


@pytest.mark.parametrize("name", attacks(Path("x")))
def test_nothing_in_a_pickle_is_run(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = written(tmp_path, attacks(mark)[name])
    refused(path, "nothing of it was run")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["os.system, protocol 4", "eval, protocol 0", "GLOBAL", "INST", "OBJ"])
def test_the_attacks_are_attacks(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pickle.loads(attacks(mark)[name])
    assert mark.exists()


BOMBS = {
    "a string of 2^60 bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
    "a text of 2^31 bytes": b"\x80\x04X" + struct.pack("<I", (1 << 31) - 1) + b"x.",
    "a frame of 2^62 bytes": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
    "a memo of 2^32 places": b"\x80\x04Nr" + struct.pack("<I", (1 << 32) - 1) + b".",
    "a number of 2^31 bytes": b"\x80\x04\x8b" + struct.pack("<I", (1 << 31) - 1) + b"x.",
    "a bytearray of 2^62 bytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b"x.",
    "a key that takes 2^60 steps to hash": b"\x80\x04})" + b"2\x86" * 60 + b"Ns.",
    "a million lists in each other": b"\x80\x04" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_does_not_go_off(name: str, tmp_path: Path) -> None:
    refused(written(tmp_path, BOMBS[name]), "nothing of it was run")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiktoken_pickle, "MAX_BYTES", 100)
    refused(written(tmp_path, b"\x80\x04" + b"N0" * 60 + b"N."), "too large")
