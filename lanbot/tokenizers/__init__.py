from pathlib import Path

from lanbot.tokenizers.base import Tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder's tokenizer.json. Raises UserError if there is none or it cannot be read."""
    from lanbot.tokenizers.bpe import BPETokenizer

    return BPETokenizer.load(folder)
