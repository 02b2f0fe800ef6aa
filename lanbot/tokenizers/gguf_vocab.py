"""Vocabularies as GGUF files hold them (the keys `tokenizer.ggml.*`), from a tokenizer.json and to one.

Two of llama.cpp's kinds: "gpt2" is byte-level BPE, whose split pattern has a name (`pre`); "llama" is BPE in
SentencePiece's manner, which merges by scores and spells unknown characters in byte tokens.
"""

import json
from collections.abc import Mapping
from typing import Any

from lanbot.core.errors import UserError
from lanbot.tokenizers.bpe import LLAMA3_PATTERN, QWEN2_PATTERN, BPETokenizer, byte_letters

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens. Text never becomes a control token, but always a user-defined one."""
NORMALIZER = "lanbot.normalizer"
"""Our own key: "none" or "NFC", where a vocabulary is not normalised as the family is that its `pre` is named for."""


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
    letters = set(byte_letters().values())
    wrong = next(
        (t for t, kind in zip(tokens, types, strict=True) if kind == NORMAL and not letters.issuperset(t)), None
    )
    if wrong is not None:
        raise UserError(f"its vocabulary is damaged: {wrong[:30]!r} does not spell bytes", "Fetch the file again.")
    told = {"none": None, "NFC": {"type": "NFC"}}
    normalizer = told.get(fields.get(NORMALIZER) or "", NORMALISING.get(pre))
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


# -- To GGUF -----------------------------------------------------------------------------------------------


def fields_of(data: Mapping[str, Any], config: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The keys after `tokenizer.ggml.`, and NORMALIZER, for a tokenizer.json and its tokenizer_config.json.

    size: rows of the model's embedding; those without a token are filled with unused ones. Raises UserError where
    llama.cpp would make other ids of a text.
    """
    model = data["model"]
    if model.get("type") != "BPE" or model.get("dropout") or model.get("continuing_subword_prefix"):
        raise _refused(f"the tokenizer is {model.get('type')}, not plain BPE")
    if token := next((t for t in data["added_tokens"] if t["lstrip"] or t["rstrip"] or t["single_word"]), None):
        raise _refused(f"the token {token['content']} takes the space beside it")
    tokens, types = _listed(data, size)
    pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    kind = _by_pieces(data, tokens, types, pairs) if model.get("byte_fallback") else _by_bytes(data, pairs)
    ids = {token: i for i, token in enumerate(tokens)}
    bos = _token(config, "bos_token")
    named = {
        "bos": bos,
        "eos": _token(config, "eos_token"),
        "eot": _token(config, "eos_token") if config.get("chat_template") else None,
        "padding": _token(config, "pad_token"),
        "unknown": model.get("unk_token"),
    }
    special = {f"{name}_token_id": ids[token] for name, token in named.items() if token in ids}
    begins = begins_with(data.get("post_processor"), bos)
    return {**kind, "tokens": tokens, "token_type": types, **special, "add_bos_token": begins, "add_eos_token": False}


def _refused(reason: str) -> UserError:
    return UserError(f"{reason}, which llama.cpp cannot run alike", "Export it as a folder: --to hf.")


def _token(config: Mapping[str, Any], name: str) -> str | None:
    found = config.get(name)
    return found.get("content") if isinstance(found, dict) else found


def _listed(data: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Each id's token and type."""
    tokens, types = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    vocab, model = data["model"]["vocab"], data["model"]
    added = {token["id"]: token for token in data["added_tokens"]}
    highest = max([*vocab.values(), *added])
    if highest >= size:
        raise UserError(f"the tokenizer has {highest + 1:,} tokens, the model {size:,}", "They do not belong together.")
    for token, i in vocab.items():
        is_byte = model.get("byte_fallback") and len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        tokens[i], types[i] = token, BYTE if is_byte else NORMAL
    for i, token in added.items():
        plain = CONTROL if token["special"] else USER_DEFINED
        tokens[i], types[i] = token["content"], UNKNOWN if token["content"] == model.get("unk_token") else plain
    return tokens, types


def _by_bytes(data: Mapping[str, Any], pairs: list[list[str]]) -> dict[str, Any]:
    split = _bare(data["pre_tokenizer"])
    pre = next((name for name, known in PRE.items() if _bare(known) == split), None)
    if pre is None:
        raise _refused("the tokenizer has a split pattern of its own")
    normalizer = data.get("normalizer")
    if normalizer not in (None, {"type": "NFC"}):
        raise _refused(f"the tokenizer normalises text ({normalizer['type']})")
    if not data["model"].get("ignore_merges") and pre in WHOLE_WORDS and BPETokenizer.from_json(data) is None:
        raise _refused("the tokenizer merges words that are tokens")
    if data["model"].get("ignore_merges") and pre not in WHOLE_WORDS:
        raise _refused("the tokenizer takes words that are tokens whole")
    # llama.cpp never applies NFC; the key keeps it for other readers
    named = {} if NORMALISING.get(pre) == normalizer else {NORMALIZER: normalizer["type"] if normalizer else "none"}
    return {"model": "gpt2", "pre": pre, "merges": [" ".join(pair) for pair in pairs], **named}


def _bare(part: Any) -> Any:
    """A pre_tokenizer without what changes offsets only."""
    if isinstance(part, dict):
        return {key: _bare(value) for key, value in part.items() if key != "trim_offsets"}
    return [_bare(one) for one in part] if isinstance(part, list) else part


def _by_pieces(data: Mapping[str, Any], tokens: list[str], types: list[int], pairs: list[list[str]]) -> dict[str, Any]:
    steps = (data.get("normalizer") or {}).get("normalizers", [])
    prefix = bool(steps) and steps[0] == {"type": "Prepend", "prepend": SPACE}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if data.get("pre_tokenizer") or steps[prefix:] != [replace]:
        raise _refused("the tokenizer splits or normalises text in its own way")
    first = {"".join(pair): -float(i) for i, pair in reversed(list(enumerate(pairs)))}
    scores = [first.get(token, -float(len(pairs))) if types[i] == NORMAL else 0.0 for i, token in enumerate(tokens)]
    if {tuple(pair) for pair in pairs} != {tuple(pair) for pair in _merges_by_score(tokens, types, scores)}:
        raise _refused("the tokenizer's merges are not all that its tokens allow")
    return {"model": "llama", "pre": "default", "scores": scores, "add_space_prefix": prefix}


def begins_with(processor: Mapping[str, Any] | None, bos: str | None) -> bool:
    """Whether a post_processor puts the bos token before a text."""
    if not processor:
        return False
    if processor["type"] == "Sequence":
        return any(begins_with(one, bos) for one in processor["processors"])
    first = processor.get("single", [{}])[0]
    return bos is not None and first.get("SpecialToken", {}).get("id") == bos
