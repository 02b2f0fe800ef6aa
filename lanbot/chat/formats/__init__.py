"""The chat formats by name. A module of this package that defines a subclass of ChatFormat registers it."""

import importlib
import json
import pkgutil
from functools import cache
from pathlib import Path

from lanbot.chat.formats.base import ChatFormat
from lanbot.core.errors import UserError
from lanbot.core.plugins import load_object
from lanbot.tokenizers import load_tokenizer

DEFAULT = "lanbot"


@cache
def registry() -> dict[str, type[ChatFormat]]:
    """The formats of this package by their names."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name != "base"]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    classes = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    return {value.name: value for value in classes if issubclass(value, ChatFormat) and value is not ChatFormat}


def get_format(name: str) -> type[ChatFormat]:
    """A format by its name, or by module:Class from outside of LanBot. Raises UserError if there is none."""
    if name in registry():
        return registry()[name]
    remedy = f"Choose one of {', '.join(registry())}, or module:Class of a ChatFormat of yours."
    if ":" not in name:
        raise UserError(f"no chat format {name!r}", remedy)
    found = load_object(name, "chat format")
    if not (isinstance(found, type) and issubclass(found, ChatFormat)):
        raise UserError(f"chat format {name!r}: not a subclass of ChatFormat", remedy)
    return found


def special_names() -> tuple[str, ...]:
    """Names of special tokens, of these formats and of common others: in a text they are likely a mistake."""
    known = dict.fromkeys(token for found in registry().values() for token in found.special_tokens)
    return (*known, "<|im_start|>", "<|endoftext|>", "<|eot_id|>")


def load_format(folder: Path) -> ChatFormat:
    """The chat format, with its tokenizer, that a tokenizer's or model's folder names in tokenizer_config.json.

    Folders that name none are LanBot's own. Raises UserError.
    """
    tokenizer = load_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        name = config.get("chat_format", DEFAULT)
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a tokenizer's configuration ({error})", "Copy the folder again.") from None
    return get_format(name)(tokenizer)
