"""What generation is compared with: the model's own forward pass over a whole sequence, without cache and batch."""

import torch
from torch import Tensor

from lanbot.models.transformer import Transformer


@torch.no_grad()
def logits_of(model: Transformer, ids: list[int]) -> Tensor:
    """(tokens, V)."""
    return model.logits(model(torch.tensor([ids])))[0]
