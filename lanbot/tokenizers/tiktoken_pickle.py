"""Reading a pickled tiktoken.Encoding, in which nanochat keeps its tokenizer, without running what a pickle may run."""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

from lanbot.core.errors import UserError
from lanbot.tokenizers.bpe import PATTERNS, BPETokenizer

MAX_BYTES = 200_000_000
"""A vocabulary of 262,144 tokens takes some 5 MB."""

ADMITTED = {
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_TUPLE", "NONE", "BININT", "BININT1", "BININT2"),
    *("SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "STACK_GLOBAL", "NEWOBJ", "BUILD"),
}
"""What protocols 4 and 5 make of a dictionary of bytes and numbers in an object. None of it takes more memory than the
file, or builds a key that is slow to hash."""


class _State:
    """Takes the place of tiktoken.core.Encoding: its state is kept and nothing is made of it."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _PlainUnpickler(pickle.Unpickler):
    """Admits tiktoken.core.Encoding and no other name, so that nothing in the file is imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("tiktoken.core", "Encoding"):
            return _State
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _plain(data: bytes) -> Any:
    """The object in a pickle of plain data. Raises an error of some kind for any other."""
    other = next((opcode.name for opcode, _, _ in pickletools.genops(data) if opcode.name not in ADMITTED), None)
    if other:
        raise pickle.UnpicklingError(f"it is not only data: {other}")
    return _PlainUnpickler(io.BytesIO(data)).load()


def read_pickle(path: Path) -> BPETokenizer:
    """The tokenizer of a pickled tiktoken.Encoding. Raises UserError for any other content, none of which is run."""
    again = "Name a tree whose tokenizer.pkl nanochat wrote."
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise pickle.UnpicklingError("it is too large")
        loaded = _plain(data)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", "Name a tree with tokenizer/tokenizer.pkl in it.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})", "Check its permissions.") from None
    except Exception as error:  # a damaged pickle raises errors of many kinds
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(f"{path}: not a pickled tokenizer, and nothing of it was run ({reason})", again) from None
    state: Any = loaded.state if isinstance(loaded, _State) else None
    if isinstance(state, str):
        problem = f"{path}: it holds only the name of tiktoken's registered encoding {state[:60]!r}, not a vocabulary"
        raise UserError(problem, "Save the encoding itself with its ranks.")
    try:
        ranks, special, pattern = dict(state["mergeable_ranks"]), dict(state["special_tokens"]), str(state["pat_str"])
        plain = all(isinstance(token, bytes) and token for token in ranks) and all(
            isinstance(name, str) for name in special
        )
        ids = sorted([*ranks.values(), *special.values()])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: not a tokenizer's state", again) from None
    names = sorted(special, key=lambda name: special[name])
    in_order = ids == list(range(len(ids))) and [special[name] for name in names] == ids[len(ranks) :]
    if not plain or not in_order or not all(bytes([byte]) in ranks for byte in range(256)):
        raise UserError(f"{path}: its ids are not those of bytes and merges, followed by special tokens", again)
    if pattern not in PATTERNS:
        known = "LanBot runs nanochat's, Llama 3's and Qwen 2's"
        raise UserError(f"{path}: its split pattern is not supported: {pattern[:60]!r}", f"{known}.")
    tokenizer = BPETokenizer(ranks, pattern, names)
    try:
        _ = tokenizer.merges
    except ValueError as error:
        raise UserError(f"{path}: not a vocabulary of merges ({error})", again) from None
    return tokenizer
