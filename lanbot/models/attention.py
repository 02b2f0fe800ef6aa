"""Attention within documents: FlashAttention over documents' bounds on a GPU, products by blocks on a CPU.

Shapes: B rows, H heads, T queries, S keys, D head_dim.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

BLOCK = 128
"""Queries that a CPU processes at a time: what is right of their diagonal block is never computed."""

PLAIN_ATTENTION = 512
"""Rows up to this long are attended over by plain products on a CPU, and the probabilities kept for the backward."""

SPANS_A_ROW = 8
"""Room for so many documents in each row, before twice as many make another shape for torch.compile. Not more: the
kernel's backward works in 128 tokens of fp32 for each."""


class Spans(NamedTuple):
    """Where the documents of a batch start and end, with its rows concatenated.

    bounds: (N + 1,) int32, document n is tokens bounds[n] to bounds[n + 1]. Empty documents at the end fill
    N up, so that few shapes occur. alone: (B x T, 1, 1), true of tokens that are a document each, whatever
    the bounds say; None: no such tokens.
    """

    bounds: Tensor
    alone: Tensor | None


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | Spans | None) -> Tensor:
    """Attention of (B, H, T, D) over (B, H or fewer, S, D): that many neighbouring queries share keys and values. mask:
    additive, (B, 1, T, S), or the documents' spans; None: causal.

    On the CPU plain products train a short row in 0.4 of the time that the flash kernel takes, and decode in a third.
    """
    plain = isinstance(mask, Tensor) and q.device.type == "cpu" and k.shape[2] <= PLAIN_ATTENTION
    if plain and q.shape[2] == k.shape[2]:
        return _CausalBlocks.apply(q, k, v, mask)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    if isinstance(mask, Spans):
        return _within_spans(q, k, v, mask)
    if mask is None or not plain:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return scores.add_(mask).softmax(-1) @ v


class _CausalBlocks(torch.autograd.Function):
    """Block by block of queries, each over the keys from the first that it sees to its end: FlashAttention's saving
    (Dao et al. 2022) of what causality and documents hide, in plain products. T = S. Queries that share keys are one
    product."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        ctx.blocks = _blocks(mask)
        q, k, v = (_grouped(q, k) * q.shape[-1] ** -0.5).contiguous(), k.contiguous(), v.contiguous()
        out, kept = torch.empty_like(q), []
        for first, start, end in ctx.blocks:
            rows = q[..., start:end, :]
            scores = (rows.flatten(2, 3) @ k[:, :, first:end].mT).unflatten(2, rows.shape[2:4])
            kept.append(scores.add_(mask[:, :, None, start:end, first:end]).softmax(-1).flatten(2, 3))
            out[..., start:end, :] = (kept[-1] @ v[:, :, first:end]).view(rows.shape)
        ctx.save_for_backward(q, k, v, out, *kept)
        return out.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, *kept = ctx.saved_tensors
        grad = _grouped(grad, k).contiguous()
        mean = (grad * out).sum(-1, keepdim=True)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (first, start, end), p in zip(ctx.blocks, kept, strict=True):
            part = grad[..., start:end, :].flatten(2, 3)
            grad_v[:, :, first:end] += p.mT @ part
            grad_scores = (part @ v[:, :, first:end].mT).sub_(mean[..., start:end, :].flatten(2, 3)).mul_(p)
            grad_q[..., start:end, :] = (grad_scores @ k[:, :, first:end]).unflatten(2, q[..., start:end, :].shape[2:4])
            grad_k[:, :, first:end] += grad_scores.mT @ q[..., start:end, :].flatten(2, 3)
        return grad_q.mul_(q.shape[-1] ** -0.5).flatten(1, 2), grad_k, grad_v, None


def _grouped(x: Tensor, k: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, key heads, queries of each, T, D)."""
    return x.unflatten(1, (k.shape[1], -1))


def _blocks(mask: Tensor) -> list[tuple[int, int, int]]:
    """(first key, first query, end) of each block of queries: in no row does one of them see an earlier key."""
    T = mask.shape[-1]
    starts = list(range(0, T, BLOCK))
    if torch.compiler.is_compiling():  # a list of values would end the compiled program
        firsts = [0] * len(starts)
    else:
        firsts = (mask[:, 0, starts] == 0).int().argmax(-1).amin(0).tolist()
    return [(first, start, min(start + BLOCK, T)) for first, start in zip(firsts, starts, strict=True)]


def has_flash(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether FlashAttention (Dao 2023) runs there: 16 bits, heads up to 256 wide, an Ampere GPU or newer."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16) or head_dim > 256 or head_dim % 8:
        return False
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device) >= (8, 0)


def within_documents(documents_BT: Tensor, device: torch.device, dtype: torch.dtype, head_dim: int) -> Tensor | Spans:
    """What `attend` needs on `device` to stay inside documents. documents_BT should be on the CPU: counting
    documents on a GPU would synchronise with it."""
    if has_flash(device, dtype, head_dim):
        return document_spans(documents_BT, device)
    return document_mask(documents_BT.to(device, non_blocking=True), dtype)


def document_spans(documents_BT: Tensor, device: torch.device) -> Spans:
    """The spans of documents that are numbered within rows; neighbours of different numbers are different documents.

    The kernel starts blocks for T queries of each document, empty ones too. Text has few documents in a row; but
    padding is one-token documents, thousands of them: each run of these counts as one span, and `attend` gives them
    back what attention to oneself is.
    """
    rows, T = documents_BT.shape
    documents = documents_BT.cpu().numpy()
    first = np.ones((rows, T + 1), dtype=bool)
    first[:, 1:-1] = documents[:, 1:] != documents[:, :-1]
    single = first[:, :-1] & first[:, 1:]
    follows = np.zeros((rows, T), dtype=bool)
    follows[:, 1:] = single[:, 1:] & single[:, :-1]
    starts = np.flatnonzero(first[:, :-1] & ~follows)
    room = max(SPANS_A_ROW * rows, 1 << (len(starts) - 1).bit_length())
    bounds = np.full(room + 1, rows * T, dtype=np.int32)
    bounds[: len(starts)] = starts
    alone = single.reshape(-1, 1, 1) if follows.any() else None
    return Spans(send(bounds, device), None if alone is None else send(alone, device))


def send(array: np.ndarray, device: torch.device) -> Tensor:
    """The array on the device, without waiting for it, as a copy out of pageable memory would."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))  # pinning rows with a stride would copy them twice
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _within_spans(q: Tensor, k: Tensor, v: Tensor, spans: Spans) -> Tensor:
    """varlen_attn, not flex_attention: it is FlashAttention itself, runs with and without torch.compile, which sees
    one opaque operator in it, and its keyword for causality is the same in torch 2.11 to 2.13."""
    B, _, T, _ = q.shape
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    out: Any = varlen_attn(q, k, v, spans.bounds, spans.bounds, T, T, window_size=(-1, 0))
    if spans.alone is not None:
        out = torch.where(spans.alone, v, out)
    return out.unflatten(0, (B, T)).transpose(1, 2)


def document_mask(documents_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, T, T), added to scores: 0 for the token itself and earlier tokens of its document, otherwise -inf."""
    T = documents_BT.shape[1]
    causal = torch.ones(T, T, dtype=torch.bool, device=documents_BT.device).tril()
    seen = (documents_BT[:, :, None] == documents_BT[:, None, :]) & causal
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf).unsqueeze(1)
