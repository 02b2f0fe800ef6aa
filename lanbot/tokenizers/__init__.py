import json
from pathlib import Path

from lanbot.core.errors import UserError
from lanbot.tokenizers.base import Tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder's tokenizer.json. Raises UserError if there is none or it cannot be read."""
    from lanbot.tokenizers.bpe import BPETokenizer
    from lanbot.tokenizers.hugging_face import HuggingFaceTokenizer

    path = folder / "tokenizer.json"
    try:
        text = path.read_text(encoding="utf-8")
        return BPETokenizer.from_json(json.loads(text)) or HuggingFaceTokenizer(text)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", "Train a tokenizer first: lanbot run RECIPE.") from None
    except (ValueError, UserError) as error:
        reason = error.problem if isinstance(error, UserError) else error
        raise UserError(f"{path}: not a tokenizer ({reason})", "Copy or download the file again.") from None
