"""The base phase: a model from nothing, on raw text."""

from functools import partial

import torch

from lanbot.data.prefetch import prefetched
from lanbot.evals.bpb import Validation
from lanbot.model.config import ModelConfig
from lanbot.model.transformer import Transformer
from lanbot.phases.loaders import base_loader
from lanbot.phases.tokenizer import corpora
from lanbot.recipe import Recipe
from lanbot.run import Run
from lanbot.tokenizer import Tokenizer
from lanbot.training.parallel import world
from lanbot.training.trainer import TrainState, train


def model_config(recipe: Recipe) -> ModelConfig:
    """The model of a resolved recipe."""
    m = recipe.model
    assert m.dim and m.n_heads and m.n_kv_heads and m.head_dim and m.mlp_dim, "the recipe is resolved"
    return ModelConfig(
        vocab_size=recipe.tokenizer.vocab_size,
        dim=m.dim,
        n_layers=m.depth,
        n_heads=m.n_heads,
        n_kv_heads=m.n_kv_heads,
        head_dim=m.head_dim,
        mlp_dim=m.mlp_dim,
        context=m.context,
        rope_theta=m.rope_theta,
        tie_embeddings=m.tie_embeddings,
    )


def validation(run: Run, tokenizer: Tokenizer) -> Validation:
    """The held-out text of a run, on which bits per byte are measured after every phase."""
    base = run.recipe.base
    _, held_out = corpora(run.recipe)
    return Validation(held_out, tokenizer, base.eval_tokens, base.sequence or run.recipe.model.context)


def train_base(run: Run) -> None:
    """Trains the base model of a run, or goes on with it."""
    recipe, settings, place = run.recipe, run.recipe.base, world()
    assert settings.tokens and settings.batch_tokens and settings.sequence, "the recipe is resolved"
    tokenizer = Tokenizer.load(run.phase("tokenizer"))
    model = Transformer(model_config(recipe), place.dtype)
    model.init_weights(torch.Generator().manual_seed(recipe.seed))
    model.to(place.device)
    state = TrainState(model, tokenizer, settings, run.phase("base"), settings.sequence)
    with prefetched(partial(base_loader, recipe, run.phase("tokenizer")), ahead=place.device.type != "cpu") as loader:
        train(state, loader, validation(run, tokenizer).bits_per_byte, settings.eval_every)
