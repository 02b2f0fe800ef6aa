"""The chat format of a model from elsewhere as a run uses it: with the bot's name, and with tokens that it lacks."""

from collections.abc import Callable
from typing import NamedTuple

from lanbot.chat.formats import NoFormatError, get_format, load_format, special_tokens
from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import Recipe
from lanbot.config.run import Run


def run_format(run: Run) -> ChatFormat:
    """A run's chat format. The default system message is that of its recipe, which an import may not have known."""
    return load_format(run.phase("tokenizer")).with_default(run.recipe.identity.system_message)


class Fitted(NamedTuple):
    chat_format: ChatFormat
    known: int
    """The tokens that the model knows: ids from there on are new."""


def fitted(read: Callable[[], ChatFormat], recipe: Recipe) -> Fitted:
    """What `read` returns, with the default system message of the recipe's bot and, where tokenizer.tool_tokens is
    set, LanBot's tool tokens.

    A base model whose vocabulary is of no chat format gets the tokens of tokenizer.chat_format.
    """
    settings = recipe.tokenizer
    try:
        chat_format = read()
        kind, tokenizer = type(chat_format), chat_format.tokenizer
        wanted = special_tokens(kind, settings.tool_tokens)
    except NoFormatError as error:
        kind, tokenizer = get_format(settings.chat_format), error.tokenizer
        wanted = special_tokens(kind, settings.tool_tokens)
    known = tokenizer.vocab_size
    missing = [name for name in wanted if name not in tokenizer.special]
    made = kind(tokenizer.with_special(missing) if missing else tokenizer)
    return Fitted(made.with_default(recipe.identity.system_message), known)
