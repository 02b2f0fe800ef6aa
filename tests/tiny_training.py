"""Training a tiny model on a mixture, without the trainer: for tests of what is done with it."""

import torch

from lanbot.chat.formats.base import ChatFormat
from lanbot.data.loader import ChatLoader
from lanbot.models.loss import weighted_nll
from lanbot.models.transformer import Transformer
from lanbot.tasks.mixture import Mixture


def train_on(mixture: Mixture, model: Transformer, chat_format: ChatFormat, T: int) -> None:
    """One pass over the mixture, four rows of T tokens a step."""
    loader = ChatLoader(mixture, chat_format.bos, 4, T)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    while (batch := loader.next_batch()) is not None:
        ids, targets = torch.from_numpy(batch.ids), torch.from_numpy(batch.targets)
        weights, documents = torch.from_numpy(batch.weights), torch.from_numpy(batch.documents)
        loss, _ = weighted_nll(model(ids, documents), model.lm_head.weight, targets, weights / weights.sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
