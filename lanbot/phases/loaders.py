"""The data loaders of the phases, constructed from the recipe alone, so that a prefetch process can construct them.

Nothing here imports torch: the prefetch process starts in half a second and stays small.
"""

from pathlib import Path

from lanbot.chat.formats import load_format
from lanbot.config.recipe import ChatTraining, Recipe
from lanbot.core.console import say
from lanbot.core.options import Options
from lanbot.data.corpus import open_corpus
from lanbot.data.loader import ChatLoader, TextLoader
from lanbot.tasks.mixture import Mixture


def base_loader(recipe: Recipe, tokenizer: Path, options: Options | None = None) -> TextLoader:
    """The base phase's corpus in rows. tokenizer: its folder."""
    base = recipe.base
    assert base.tokens and base.batch_tokens and base.sequence, "the recipe is resolved"
    corpus, _ = open_corpus(base.data, recipe.seed, base.skip_bad_rows, options, base.data_column)
    rows, steps = base.batch_tokens // base.sequence, max(1, base.tokens // base.batch_tokens)
    return TextLoader(corpus, load_format(tokenizer), rows, base.sequence, steps)


def chat_loader(recipe: Recipe, phase: str, tokenizer: Path, main: bool, options: Options | None = None) -> ChatLoader:
    """The conversations of a phase's mixture, packed. tokenizer: its folder, in the run's. main: whether to print the
    tasks' notes."""
    settings: ChatTraining = getattr(recipe, phase)
    assert settings.batch_tokens and settings.sequence, "the recipe is resolved"
    chat_format = load_format(tokenizer).with_default(recipe.identity.system_message)
    run = tokenizer.parent
    mixture = Mixture(settings.mixture, recipe.identity, chat_format, recipe.seed, options=options, folder=run)
    for note in mixture.notes() if main else []:
        say(note)
    rows = settings.batch_tokens // settings.sequence
    return ChatLoader(mixture, chat_format.bos, rows, settings.sequence, mixture.skipped, mixture.fingerprint)
