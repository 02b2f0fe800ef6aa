"""The chat formats by name. A module of this package that defines a subclass of ChatFormat registers it."""

import importlib
import inspect
import json
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

from lanbot.chat.formats.base import TOOL_TOKENS, ChatFormat
from lanbot.chat.formats.templates import format_of
from lanbot.core.errors import UserError
from lanbot.core.plugins import load_object
from lanbot.tokenizers import load_tokenizer
from lanbot.tokenizers.base import Tokenizer

DEFAULT = "lanbot"


class NoFormatError(UserError):
    """A folder with a tokenizer that is of no chat format."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        remedy = (
            'Set "chat_format" in its tokenizer_config.json, or import the model into a run, which adds the tokens.'
        )
        super().__init__(f"{folder}: no chat template, and no special tokens of a chat format", remedy)
        self.tokenizer = tokenizer


@cache
def registry() -> dict[str, type[ChatFormat]]:
    """The formats of this package by their names."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name != "base"]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    classes = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    return {value.name: value for value in classes if issubclass(value, ChatFormat) and not inspect.isabstract(value)}


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


def special_tokens(kind: type[ChatFormat], tool_tokens: bool) -> tuple[str, ...]:
    """The special tokens of a vocabulary for this format. tool_tokens: with LanBot's tool tokens."""
    return tuple(dict.fromkeys((*kind.special_tokens, *(TOOL_TOKENS if tool_tokens else ()))))


def special_names() -> tuple[str, ...]:
    """Names of special tokens, of these formats and of common others: in a text they are likely a mistake."""
    known = dict.fromkeys(token for found in registry().values() for token in found.special_tokens)
    return (*known, "<|im_start|>", "<|endoftext|>", "<|eot_id|>")


def load_format(folder: Path) -> ChatFormat:
    """The chat format, with its tokenizer, of a tokenizer's or model's folder.

    It is `chat_format` of tokenizer_config.json; if that says none, the one whose chat template or special tokens the
    folder has. Raises UserError.
    """
    tokenizer = load_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        template = _template(folder, config)
        name = config.get("chat_format") or format_of(template)
        default = config.get("default_system")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a tokenizer's configuration ({error})", "Copy the folder again.") from None
    made = (get_format(name) if name else recognised(template, tokenizer, folder))(tokenizer)
    return made if default is None else made.with_default(default)


def recognised(template: str, tokenizer: Tokenizer, folder: Path) -> type[ChatFormat]:
    """The format with this chat template, "" if there is none, and these special tokens. Raises UserError."""
    for found in registry().values():
        if found.recognises(template, tokenizer.special):
            return found
    if not template:
        raise NoFormatError(folder, tokenizer)
    remedy = f'Set "chat_format" in its tokenizer_config.json to one of {", ".join(registry())}, or module:Class.'
    raise UserError(f"{folder}: its chat template is none that LanBot knows", remedy)


def _template(folder: Path, config: dict[str, Any]) -> str:
    """The chat template of a folder; "" if it has none. Of several by name it is the default one."""
    path = folder / "chat_template.jinja"
    found = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template") or ""
    if isinstance(found, list):
        return str({one["name"]: one["template"] for one in found}["default"])
    return str(found)
