"""Encoding by `fastokens`, where it is installed: many times as fast, to the same ids."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

PROBES = (
    "It's 1234567 ≠ 12.5,\r\n\n\t  naïve  你好 👩‍🚀",
    " <|end|>\0 ",
    "e\u0301 ﬁ Å \u00a0  x\u2028y\ufeff  \n  {\"a\": [1, -2.5e3]} I'LL they've  __init__(self)->None;\n\n\n",
)


def fast_encoder(interchange: str, encode: Callable[[str], list[int]], special: Iterable[str]) -> Any:
    """A fastokens.Tokenizer of this tokenizer.json; None if it is not installed, or if its ids are not those of
    `encode` for the probes and the special tokens' names."""
    try:
        import fastokens

        fast = fastokens.Tokenizer.from_json_str(interchange)
        probes = (*PROBES, "".join(special))
        same = all(flat_ids(fast, text).tolist() == encode(text) for text in probes)
    except (ImportError, AttributeError, TypeError, ValueError):
        return None
    return fast if same else None


def flat_ids(fast: Any, text: str) -> np.ndarray:
    """Raises UnicodeEncodeError for half of a surrogate pair."""
    return np.frombuffer(fast.encode_batch_flat([text], split_special_tokens=True)[0], dtype=np.uint32)
