"""The base phase: pretraining on raw text."""

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import torch

from lanbot.chat.formats import load_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import Base, Recipe
from lanbot.config.run import Run
from lanbot.core.console import track
from lanbot.data.prefetch import prefetched
from lanbot.distributed.runtime import Runtime
from lanbot.models import saved
from lanbot.models.config import ModelConfig
from lanbot.models.init import init_weights
from lanbot.models.transformer import Transformer
from lanbot.phases.evaluation import validation
from lanbot.phases.loaders import base_loader
from lanbot.phases.phase import Phase
from lanbot.phases.tokenizer import corpora
from lanbot.training import bigram_init
from lanbot.training.sampled_softmax import SampledSoftmax, count_tokens
from lanbot.training.trainer import Trainer

FREQUENCY_TOKENS = 1 << 21
"""Tokens to estimate frequencies from; encoding them takes some seconds."""


class BasePhase(Phase):
    """Pretraining from random weights on raw text."""

    name = "base"
    description = "continues text"
    Settings = Base
    needs = ("corpus", "tokenizer")
    made_by = ("model", "base")

    def eval_limit(self, recipe: Recipe) -> int:
        return recipe.evals.base_limit

    def train(self, run: Run, runtime: Runtime) -> None:
        train_base(run, runtime)


def train_base(run: Run, runtime: Runtime) -> None:
    """Trains the base model of a run, or resumes it."""
    recipe, settings = run.recipe, run.recipe.base
    assert settings.tokens and settings.batch_tokens and settings.sequence, "the recipe is resolved"
    chat_format = load_format(run.phase("tokenizer"))
    model = Transformer(ModelConfig.of_recipe(recipe), runtime.dtype)
    init_weights(model, torch.Generator().manual_seed(recipe.seed))
    model.to(runtime.device)
    if settings.pair_tokens and runtime.on_main(saved.latest, run.phase("base")) is None:
        init_from_bigrams(model, run, chat_format, runtime)
    trainer = Trainer(model, chat_format, settings, run.phase("base"), runtime, settings.sequence)
    with prefetched(
        partial(base_loader, recipe, run.phase("tokenizer"), run.options), ahead=runtime.device.type != "cpu"
    ) as loader:
        evaluate = validation(run, chat_format, runtime).bits_per_byte
        trainer.train(loader, evaluate, settings.eval_every, sampled_softmax(run, chat_format, runtime))


def init_from_bigrams(model: Transformer, run: Run, chat_format: ChatFormat, runtime: Runtime) -> None:
    """Initialises embedding and head from bigrams of the first `base.pair_tokens` tokens of the corpus, on rank 0."""
    tokens = run.recipe.base.pair_tokens
    assert tokens is not None, "the recipe is resolved"
    if runtime.main:
        documents = first_tokens(corpora(run)[0].once(), chat_format, tokens)
        counts = bigram_init.count_bigrams(
            track(documents, "base: counting bigrams", tokens, "tokens", len), model.config.vocab_size
        )
        bigram_init.fit(model, counts, runtime)
    if runtime.size > 1:
        weights = {name: weight.cpu() for name, weight in model.state_dict().items()} if runtime.main else None
        model.load_state_dict(runtime.broadcast(weights))


def sampled_softmax(run: Run, chat_format: ChatFormat, runtime: Runtime) -> SampledSoftmax | None:
    """By token frequencies at the start of the corpus (deterministic, for resumed runs), counted on rank 0."""
    recipe, frequent, counts = run.recipe, run.recipe.base.softmax_tokens, None
    assert frequent is not None, "the recipe is resolved"
    if not frequent:
        return None
    if runtime.main:
        documents = first_tokens(corpora(run)[0].once(), chat_format, FREQUENCY_TOKENS)
        shown = track(documents, "base: counting tokens", FREQUENCY_TOKENS, "tokens", len)
        counts = count_tokens(shown, recipe.tokenizer.vocab_size)
    return SampledSoftmax(runtime.broadcast(counts), frequent, recipe.seed)


def first_tokens(texts: Iterable[str], chat_format: ChatFormat, tokens: int) -> Iterator[np.ndarray]:
    """Documents as [bos, ids, bos], until they have `tokens` tokens."""
    for text in texts:
        yield np.concatenate([[chat_format.bos], ids := chat_format.tokenizer.encode_array(text), [chat_format.bos]])
        if (tokens := tokens - 1 - len(ids)) <= 0:
            return
