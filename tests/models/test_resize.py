"""A vocabulary that grows: new rows are the mean of the known ones, and nothing else changes."""

from pathlib import Path

import pytest
import torch

from lanbot.models.resize import grown
from lanbot.models.weights import load_model, save_model


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_the_mean_and_old_tokens_are_as_likely(make_model, tied: bool, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = make_model(seed=1, vocab_size=100, tie_embeddings=tied)
    ids = torch.tensor([[1, 5, 9, 2]])
    before, head = model.logits(model(ids)).detach(), model.lm_head.weight.detach().clone()
    grown(model, 100, 104)
    assert model.config.vocab_size == 104 and (model.lm_head.weight is model.embed_tokens.weight) == tied
    after = model.logits(model(ids)).detach()
    assert torch.equal(after[..., :100], before)
    mean = before.mean(-1, keepdim=True).expand(-1, -1, 4)
    assert torch.allclose(after[..., 100:], mean, atol=1e-5)
    assert torch.equal(model.lm_head.weight[:100], head)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, torch.float32, torch.device("cpu"))
    assert torch.equal(loaded.logits(loaded(torch.tensor([[103]]))), model.logits(model(torch.tensor([[103]]))))


def test_rows_that_only_pad_the_vocabulary_become_those_of_new_tokens(make_model) -> None:  # type: ignore[no-untyped-def]
    model = make_model(seed=1, vocab_size=128)
    embedding = model.embed_tokens.weight.detach().clone()
    grown(model, 100, 104)
    assert model.config.vocab_size == 128 and len(model.embed_tokens.weight) == 128
    assert torch.allclose(model.embed_tokens.weight[100:104], embedding[:100].mean(0).expand(4, -1))
    assert torch.equal(model.embed_tokens.weight[104:], embedding[104:])
    same = [parameter.detach().clone() for parameter in model.parameters()]
    grown(model, 104, 104)
    assert all(torch.equal(a, b) for a, b in zip(same, model.parameters(), strict=True))
