"""What the model computes its own way on a GPU, as far as a CPU can tell: the kernel is replaced by its definition."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from lanbot.models import attention
from lanbot.models.attention import SPANS_A_ROW, attend, document_mask, document_spans
from lanbot.models.config import ModelConfig
from lanbot.models.transformer import Transformer

MakeModel = Callable[..., Transformer]
CPU = torch.device("cpu")
DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2], [5, 5, 5, 5, 5, 6, 7, 8, 9], [0, 1, 2, 2, 3, 4, 5, 5, 6]])


def varlen_by_definition(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, bounds_k: Tensor, T: int, T_k: int, *,
                         window_size: tuple[int, int]) -> Tensor:  # fmt: skip
    """torch.nn.attention.varlen.varlen_attn, a document at a time. (tokens, H, D)."""
    assert window_size == (-1, 0) and bounds.dtype == torch.int32 and torch.equal(bounds, bounds_k) and T_k == T
    assert bounds[0] == 0 and bounds[-1] == len(q), "tokens out of all documents would be left as memory was"
    parts = []
    for start, end in pairwise(bounds.tolist()):
        assert 0 <= end - start <= T, "the kernel reads no further than T"
        one = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))
        parts.append(F.scaled_dot_product_attention(*one, is_causal=True)[0].transpose(0, 1))
    return torch.cat(parts)


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU takes itself for a GPU with FlashAttention."""
    monkeypatch.setattr(attention, "has_flash", lambda *_: True)
    monkeypatch.setattr(attention, "varlen_attn", varlen_by_definition)


@given(st.lists(st.lists(st.integers(1, 5), min_size=1), min_size=1, max_size=4), st.integers(1, 12))
@settings(deadline=None, max_examples=60)
def test_spans_cover_every_token_once_and_no_span_holds_two_documents(lengths: list[list[int]], T: int) -> None:
    rows = [[n for n, length in enumerate([*row, T]) for _ in range(length)][:T] for row in lengths]
    spans = document_spans(torch.tensor(rows), CPU)
    bounds = spans.bounds.tolist()
    assert bounds[0] == 0 and bounds == sorted(bounds) and set(bounds[bounds.index(len(rows) * T) :]) == {len(rows) * T}
    assert len(bounds) == max(SPANS_A_ROW * len(rows), 1) + 1, "one shape for all batches of few documents"
    names = [(i, n) for i, row in enumerate(rows) for n in row]
    for start, end in pairwise(bounds):
        held = names[start:end]
        alone = [False] * len(held) if spans.alone is None else spans.alone[start:end, 0, 0].tolist()
        assert len(set(held)) <= 1 or all(alone), "documents that see each other"
        assert len({i for i, _ in held}) <= 1, "rows that see each other"
    for name in set(names):
        holding = [n for n in range(len(bounds) - 1) if name in names[bounds[n] : bounds[n + 1]]]
        assert len(holding) == 1, "a document that does not see all of itself"


def test_a_row_of_padding_is_one_span() -> None:
    """Else a batch of conversations would have thousands of documents, and the kernel blocks for each."""
    rows = torch.stack([torch.arange(4_096), torch.arange(4_096) // 64])
    spans = document_spans(rows, CPU)
    assert spans.bounds.unique().tolist() == [0, *range(4_096, 2 * 4_096, 64), 2 * 4_096]
    assert spans.alone is not None and spans.alone[:, 0, 0].nonzero().flatten().tolist() == list(range(4_096))


def test_more_documents_than_there_is_room_for_make_more_room() -> None:
    documents = torch.arange(2_048)[None] // 2
    assert len(document_spans(documents, CPU).bounds) == 1_024 + 1


@pytest.mark.usefixtures("flash")
def test_attention_by_spans_is_attention_by_the_mask() -> None:
    q, k, v = (torch.randn(3, 2, 9, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    ours = attend(q, k, v, document_spans(DOCUMENTS, CPU))
    theirs = attend(q, k, v, document_mask(DOCUMENTS, torch.float64))
    assert_close(ours, theirs)
    weights = torch.randn_like(ours)
    grads = (torch.autograd.grad((y * weights).sum(), (q, k, v)) for y in (ours, theirs))
    for mine, dense in zip(*grads, strict=True):
        assert_close(mine, dense)


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
def test_logits_are_those_of_the_cpus_path(make_model: MakeModel, family: str, request: pytest.FixtureRequest) -> None:
    model = make_model(family=family)
    ids = torch.randint(448, (3, 9), generator=torch.Generator().manual_seed(1))
    expected = model.logits(model(ids, DOCUMENTS))
    request.getfixturevalue("flash")
    assert_close(model.logits(model(ids, DOCUMENTS)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("flash")
def test_no_document_moves_anothers_logits(make_model: MakeModel) -> None:
    model = make_model()
    ids = torch.randint(448, (3, 9), generator=torch.Generator().manual_seed(1))
    before = model(ids, DOCUMENTS)
    for row, document in ((0, 1), (1, 7), (2, 0), (2, 5)):
        changed = ids.clone()
        own = torch.zeros_like(ids, dtype=torch.bool)
        own[row] = DOCUMENTS[row] == document
        changed[own] += 1
        moved = (model(changed, DOCUMENTS) != before).any(-1)
        assert torch.equal(moved, own)


def test_shapes_and_dtypes_pass_through_the_real_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device torch checks what a GPU would be given, backward too."""
    monkeypatch.setattr(attention, "has_flash", lambda *_: True)
    with torch.device("meta"):
        model = Transformer(ModelConfig(512, 64, 2, 4, 2, 16, 96, 32), torch.bfloat16)
        ids = torch.zeros(3, 32, dtype=torch.long)
    hidden = model(ids, torch.arange(96).view(3, 32))
    assert hidden.shape == (3, 32, 64) and hidden.dtype == torch.bfloat16
    hidden.float().sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if name != "lm_head.weight")


@pytest.mark.parametrize(
    ("dtype", "head_dim", "capability", "there"),
    [(torch.bfloat16, 128, (9, 0), True), (torch.bfloat16, 64, (8, 0), True), (torch.float32, 128, (9, 0), False),
     (torch.bfloat16, 264, (9, 0), False), (torch.float16, 64, (7, 5), False), (torch.bfloat16, 12, (9, 0), False)],
)  # fmt: skip
def test_flash_attention_is_used_where_it_runs(
    dtype: torch.dtype, head_dim: int, capability: tuple[int, int], there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    assert attention.has_flash(torch.device("cuda", 0), dtype, head_dim) is there
    assert not attention.has_flash(CPU, dtype, head_dim)
