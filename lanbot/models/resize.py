"""Vocabularies that grow: rows of embedding and head for new tokens."""

from dataclasses import replace

import torch
from torch import nn

from lanbot.models.transformer import Transformer


@torch.no_grad()
def grown(model: Transformer, known: int, size: int) -> Transformer:
    """The model with rows for `size` tokens at least, of which it knows the first `known`.

    New rows are the mean of the known ones (Hewitt 2021), so that a new token is as likely as an average one; a tied
    head stays tied. Changes the model in place.
    """
    if size <= known:
        return model
    for module in (model.embed_tokens,) if model.config.tie_embeddings else (model.embed_tokens, model.lm_head):
        old = module.weight
        rows = torch.cat((old, old.new_empty(max(0, size - len(old)), old.shape[1])))
        rows[known:size] = old[:known].mean(0)
        module.weight = nn.Parameter(rows)
    model.tie()
    rows_now = len(model.embed_tokens.weight)
    model.embed_tokens.num_embeddings = model.lm_head.out_features = rows_now
    model.config = replace(model.config, vocab_size=rows_now)
    return model
