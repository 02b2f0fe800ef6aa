"""Vocabularies as GGUF files hold them (the keys `tokenizer.ggml.*`), from a tokenizer.json and to one.

Two of llama.cpp's kinds: "gpt2" is byte-level BPE, whose split pattern is told by a name (`pre`); "llama" is BPE in
SentencePiece's manner, which merges by scores and spells unknown characters in byte tokens.
"""

import json
from collections.abc import Mapping
from typing import Any

from lanbot.core.errors import UserError
from lanbot.tokenizers.bpe import LLAMA3_PATTERN, QWEN2_PATTERN

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens. Text never becomes a control token, but always a user-defined one."""
NORMALIZER = "lanbot.normalizer"
"""Our own key: "" where a vocabulary with the `pre` of a family that normalises does not."""


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(use_regex=False)]}


_DIGITS = {"type": "Digits", "individual_digits": True}
PRE: dict[str, dict[str, Any]] = {
    "llama-bpe": _split(LLAMA3_PATTERN),
    "qwen2": _split(QWEN2_PATTERN),
    "smollm": {"type": "Sequence", "pretokenizers": [_DIGITS, _byte_level(use_regex=True)]},
    "gpt-2": _byte_level(use_regex=True),
}
"""llama.cpp's names of split patterns, and the pre_tokenizer of tokenizer.json that is the same."""
WHOLE_WORDS = ("llama-bpe",)
"""Where a word that is a token is not merged (ignore_merges)."""
NORMALISING = {"qwen2": {"type": "NFC"}}
"""The normaliser of the family that a `pre` was named for; llama.cpp itself normalises nothing."""
SPACE = "▁"


# -- From GGUF ---------------------------------------------------------------------------------------------


def tokenizer_json(fields: Mapping[str, Any]) -> str:
    """A tokenizer.json with the vocabulary of a GGUF file. fields: by the keys after `tokenizer.ggml.`, and NORMALIZER.

    Raises UserError for kinds that LanBot does not read.
    """
    kind = fields.get("model")
    tokens, types = fields.get("tokens") or [], fields.get("token_type")
    types = types or [NORMAL] * len(tokens)
    if kind not in ("gpt2", "llama") or len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        what = f"its tokenizer is {kind!r}" if kind not in ("gpt2", "llama") else "its vocabulary is damaged"
        raise UserError(what, "LanBot reads byte-level BPE (gpt2) and SentencePiece's BPE (llama).")
    data = _of_bytes(fields, tokens, types) if kind == "gpt2" else _of_pieces(fields, tokens, types)
    return json.dumps(data, ensure_ascii=False)


def tokenizer_config(fields: Mapping[str, Any], template: str | None) -> dict[str, Any]:
    """The tokenizer_config.json that belongs to it."""
    tokens = fields["tokens"]
    names = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    ids = {ours: fields.get(f"{theirs}_token_id") for ours, theirs in names.items()}
    named = {f"{name}_token": tokens[i] for name, i in ids.items() if i is not None and 0 <= i < len(tokens)}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    return config if template is None else {**config, "chat_template": template}


def adds_bos(fields: Mapping[str, Any]) -> bool:
    """Whether a text begins with the bos token; llama.cpp has a default for each kind."""
    default = fields.get("model") == "llama" or fields.get("pre") in WHOLE_WORDS
    return bool(fields.get("add_bos_token", default)) and fields.get("bos_token_id") is not None


def _of_bytes(fields: Mapping[str, Any], tokens: list[str], types: list[int]) -> dict[str, Any]:
    pre = fields.get("pre", "gpt-2")
    if pre not in PRE:
        raise UserError(f"its split pattern is {pre!r}", f"LanBot knows {', '.join(PRE)}.")
    normalizer = NORMALISING.get(pre) if fields.get(NORMALIZER) != "" else None
    merges = [merge.split(" ") for merge in fields.get("merges") or []]
    return {
        **_outline(fields, tokens, types),
        "normalizer": normalizer,
        "pre_tokenizer": PRE[pre],
        "decoder": _byte_level(use_regex=False),
        "model": _bpe(_ranked(tokens, types), merges, ignore_merges=pre in WHOLE_WORDS),
    }


def _of_pieces(fields: Mapping[str, Any], tokens: list[str], types: list[int]) -> dict[str, Any]:
    prefix = [{"type": "Prepend", "prepend": SPACE}] if fields.get("add_space_prefix", True) else []
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    vocab = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    merges = _merges_by_score(tokens, types, fields.get("scores") or [])
    return {
        **_outline(fields, tokens, types),
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": _bpe(vocab, merges, byte_fallback=BYTE in types, fuse_unk=True, unk_token=unknown),
    }


def _bpe(vocab: dict[str, int], merges: list[list[str]], **other: Any) -> dict[str, Any]:
    plain = {"unk_token": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    affixes = {"dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    return {"type": "BPE", **affixes, **plain, **other, "vocab": vocab, "merges": merges}


def _ranked(tokens: list[str], types: list[int]) -> dict[str, int]:
    """The vocabulary without the added tokens that follow it, as tokenizer.json keeps them."""
    end = len(tokens)
    while end and types[end - 1] in (CONTROL, USER_DEFINED, UNUSED):
        end -= 1
    return {token: i for i, token in enumerate(tokens[:end])}


def _outline(fields: Mapping[str, Any], tokens: list[str], types: list[int]) -> dict[str, Any]:
    """The parts that both kinds have alike: added tokens, and bos before a text."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": i, "content": tokens[i], **plain, "special": kind != USER_DEFINED}
        for i, kind in enumerate(types)
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    after = None
    if adds_bos(fields):
        bos = tokens[fields["bos_token_id"]]
        texts = [{"Sequence": {"id": part, "type_id": 0}} for part in "AB"]
        after = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, texts[0]],
            "pair": [{"SpecialToken": {"id": bos, "type_id": 0}}, *texts],
            "special_tokens": {bos: {"id": bos, "ids": [fields["bos_token_id"]], "tokens": [bos]}},
        }
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "post_processor": after}


def _merges_by_score(tokens: list[str], types: list[int], scores: list[float]) -> list[list[str]]:
    """Every pair of tokens that makes a token, the best score first: the order in which llama.cpp merges."""
    if len(scores) != len(tokens):
        raise UserError("its vocabulary has no scores", "Convert the model again.")
    mergeable = {token: i for i, token in enumerate(tokens) if types[i] in (NORMAL, USER_DEFINED)}
    found = []
    for token, i in mergeable.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in mergeable and right in mergeable:
                found.append((-scores[i], i, mergeable[left], [left, right]))
    return [pair for *_, pair in sorted(found)]
