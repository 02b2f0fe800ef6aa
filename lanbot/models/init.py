"""Structured initialisation: uniform over the vocabulary, residual branches at zero, and induction heads in place.

A small model trained for minutes is little more than a bigram table for the first half of them, because two layers of
attention must cooperate before context pays: one that copies the previous token, one that searches for it (Olsson et
al. 2022, induction heads). Both are a few numbers in the matrices of queries and keys, so they are written there.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lanbot.models.config import ModelConfig
from lanbot.models.transformer import Attention, Block, Transformer

CONSTANT_SHARE = 1 / 12
"""The share of an embedding's squared norm that its first number has. It is the same for all tokens, so queries and
keys can be made of it that do not depend on the token."""
LOOKS_BACK = (1, 2)
"""How many tokens back the first heads of the first layer look."""
FINDERS = 2
"""Heads of the second layer that look for what followed the same token."""
SHARPNESS = 1.25
"""Of the norms of queries and keys in these layers: at 1 a query can hardly single out one of 512 keys."""
DRIFT = 2.0
"""How many radians a pair of numbers may be turned over the whole context and still be compared with what it was."""


@torch.no_grad()
def init_weights(model: Transformer, generator: torch.Generator) -> None:
    """Fan-in uniform matrices, silent residual branches and head, unit embeddings: the first step's output
    is uniform over the vocabulary, and every layer starts as the identity. Then `look_back`, where there is room."""
    config = model.config
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "bias")):
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1.0)
        elif name == "lm_head.weight":
            parameter.normal_(0.0, 0.001, generator=generator)
        elif name == "embed_tokens.weight":
            parameter.normal_(0.0, 0.02 if config.tie_embeddings else 1.0, generator=generator)
        else:
            bound = (3.0 / parameter.shape[1]) ** 0.5
            parameter.uniform_(-bound, bound, generator=generator)
    if config.qk_norm and not config.tie_embeddings:
        unit_embeddings(model.embed_tokens.weight)
        look_back(model, generator)


def unit_embeddings(embeddings: Tensor) -> None:
    """In place: root mean square 1, of which the first number has CONSTANT_SHARE."""
    dim = embeddings.shape[1]
    constant = math.sqrt(CONSTANT_SHARE * dim)
    rest = embeddings[:, 1:]
    rest.mul_(math.sqrt(dim - constant**2) / rest.norm(dim=1, keepdim=True).clamp_min(1e-6))
    embeddings[:, 0] = constant


def look_back(model: Transformer, generator: torch.Generator) -> None:
    """Heads of layer 0 attend to the token LOOKS_BACK tokens before; the first of them writes a sketch of it into the
    stream. The FINDERS of layer 1 compare their own token's sketch with those: they attend to what followed it."""
    config = model.config
    D, dim, device = config.head_dim, config.dim, model.embed_tokens.weight.device
    first = _attention_of(model, 0)
    for head, distance in enumerate(LOOKS_BACK[: config.n_heads]):
        _look_at_distance(first, head, distance)
    _sharpen(first)
    comparable, finders = _comparable(config), _finders(config)
    if not finders:
        return
    second, n = _attention_of(model, 1), len(comparable)
    _sharpen(second)
    gaussian = torch.randn(dim - 1, 2 * n, generator=generator, device=device).cpu().double().numpy()
    # numpy's algebra: torch's results depend in the last bits on a matrix' address
    own, before = torch.from_numpy(np.linalg.qr(gaussian)[0].T).float().to(device).split(n)  # sketches, (n, dim - 1)
    first.v_proj.weight[:D] = 0
    first.v_proj.weight[:n, 1:] = own
    first.o_proj.weight[1:, :n] = 1.5 * before.T
    for i, finder in enumerate(finders):
        for matrix, head, sketch in ((second.q_proj.weight, finder, own), (second.k_proj.weight, i, before)):
            matrix[head * D : (head + 1) * D] = 0
            matrix[head * D + comparable, 1:] = sketch * (dim / n) ** 0.5


@torch.no_grad()
def write_copying(model: Transformer, frequency: Tensor) -> None:
    """Makes the induction heads copy what they find: their values and outputs map a token's embedding to the direction
    in which its own logit grows, as well as a linear map of head_dim dimensions a head can.

    For an embedding and a head that know something. frequency: (V, 1), by which tokens count.
    """
    config, D = model.config, model.config.head_dim
    finders = _finders(config)
    if not finders:
        return
    weight, head = frequency.sqrt(), model.lm_head.weight
    known = (model.embed_tokens.weight[:, 1:] * weight).cpu().double().numpy()
    wanted = (F.normalize(head - head.mean(0)) * weight).cpu().double().numpy()
    square = known.T @ known
    linear = np.linalg.solve(square + 1e-6 * square.diagonal().mean() * np.eye(len(square)), known.T @ wanted)
    directions = np.linalg.eigh(linear.T @ square @ linear)[1][:, ::-1]  # what says most first
    directions = directions * np.sign(directions[np.abs(directions).argmax(0), range(config.dim)])
    second = _attention_of(model, 1)
    for i, finder in enumerate(finders):
        outputs = directions[:, i * D : (i + 1) * D]
        values = linear @ outputs
        values *= D**0.5 / np.linalg.norm(values)
        rows = second.v_proj.weight[i * D : (i + 1) * D]
        rows.zero_()
        rows[:, 1:] = torch.from_numpy(values.T).float()
        second.o_proj.weight[:, finder * D : (finder + 1) * D] = torch.from_numpy(0.3 * outputs).float()


def _finders(config: ModelConfig) -> range:
    """The induction heads of layer 1, each the first of its key-value group, so that the i-th uses the i-th group. None
    without a second layer or room in the residual stream."""
    n = len(_comparable(config))
    room = config.n_layers > 1 and n and 2 * n < config.dim - 1
    count = min(FINDERS, config.n_kv_heads, config.dim // config.head_dim) if room else 0
    return range(0, config.n_heads, config.n_heads // config.n_kv_heads)[:count]


def _sharpen(attention: Attention) -> None:
    attention.q_norm.weight.fill_(SHARPNESS)
    attention.k_norm.weight.fill_(SHARPNESS)


def _attention_of(model: Transformer, layer: int) -> Attention:
    block = model.layers[layer]
    assert isinstance(block, Block)
    return block.self_attn


def _frequencies(config: ModelConfig) -> Tensor:
    """RoPE's, (head_dim / 2,), in radians a token."""
    return config.rope_theta ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)


def _comparable(config: ModelConfig) -> Tensor:
    """Which numbers of a head RoPE hardly turns, so that two tokens' can be compared wherever they stand."""
    slow = (_frequencies(config) * config.context < DRIFT).nonzero()[:, 0]
    return torch.cat((slow, slow + config.head_dim // 2))


def _look_at_distance(attention: Attention, head: int, distance: int) -> None:
    """Queries and keys mostly of the embeddings' constant, turned against each other so that RoPE makes them meet
    `distance` tokens apart. The quick frequencies tell neighbours apart, so they weigh more."""
    config = attention.config
    D, key_head = config.head_dim, head * config.n_kv_heads // config.n_heads
    angles = distance * _frequencies(config)
    weight = torch.exp(-torch.arange(D // 2) / 8)
    key = torch.cat((weight, torch.zeros_like(weight)))
    query = torch.cat((weight * angles.cos(), -weight * angles.sin()))
    constant = math.sqrt(CONSTANT_SHARE * config.dim)
    for matrix, row, vector in (
        (attention.q_proj.weight, head, query),
        (attention.k_proj.weight, key_head, key),
    ):
        rows = matrix[row * D : (row + 1) * D]
        rows[:, 1:] *= 0.1
        rows[:, 0] = vector * (D**0.5 / vector.norm() / constant)
