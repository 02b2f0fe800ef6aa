"""Structured initialisation: uniform over the vocabulary, residual branches at zero, and induction heads in place.

A small model that is trained for minutes spends half of them as little more than a bigram table, because two layers
of attention must cooperate before context helps: one that copies the previous token, one that searches for it
(induction heads, Olsson et al. 2022). Both need only a few entries of the query and key matrices, which are set here.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lanbot.models.config import ModelConfig
from lanbot.models.transformer import Attention, Block, Transformer

CONSTANT_SHARE = 1 / 12
"""Share of an embedding's squared norm in its first dimension, which is equal for all tokens: queries and keys computed
from it do not depend on the token."""
OFFSETS = (1, 2)
"""Relative positions that the first heads of the first layer attend to."""
INDUCTION_HEADS = 2
"""Induction heads in the second layer: they attend to what followed the same token."""
SHARPNESS = 1.25
"""Weight of the query and key norms in these layers: at 1 a query can hardly select one of 512 keys."""
DRIFT = 2.0
"""Largest RoPE rotation over the whole context, in radians, of dimensions that are compared across positions."""


@torch.no_grad()
def init_weights(model: Transformer, generator: torch.Generator) -> None:
    """Fan-in uniform matrices, residual branches at zero, head near zero, unit embeddings: the initial output is
    uniform over the vocabulary, and every layer is the identity. Then, with qk-norm, `init_induction_heads`."""
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
    if config.family == "qwen3" and not config.tie_embeddings:
        unit_embeddings(model.embed_tokens.weight)
        init_induction_heads(model, generator)


def unit_embeddings(embeddings: Tensor) -> None:
    """Normalises rows in place to root mean square 1, with CONSTANT_SHARE of it in the first dimension."""
    dim = embeddings.shape[1]
    constant = math.sqrt(CONSTANT_SHARE * dim)
    rest = embeddings[:, 1:]
    rest.mul_(math.sqrt(dim - constant**2) / rest.norm(dim=1, keepdim=True).clamp_min(1e-6))
    embeddings[:, 0] = constant


def init_induction_heads(model: Transformer, generator: torch.Generator) -> None:
    """Heads of layer 0 attend to the token OFFSETS positions before; the first of them writes a random projection
    (sketch) of it into the residual stream. The INDUCTION_HEADS of layer 1 match their own token's sketch with those,
    so that they attend to what followed it."""
    config = model.config
    D, dim, device = config.head_dim, config.dim, model.embed_tokens.weight.device
    first = _attention_of(model, 0)
    for head, distance in enumerate(OFFSETS[: config.n_heads]):
        _look_at_distance(first, head, distance)
    _sharpen(first)
    comparable, heads = _comparable(config), _induction_heads(config)
    if not heads:
        return
    second, n = _attention_of(model, 1), len(comparable)
    _sharpen(second)
    gaussian = torch.randn(dim - 1, 2 * n, generator=generator, device=device).cpu().double().numpy()
    # numpy: the last bits of torch's linear algebra depend on a matrix' address
    own, before = torch.from_numpy(np.linalg.qr(gaussian)[0].T).float().to(device).split(n)  # sketches, (n, dim - 1)
    first.v_proj.weight[:D] = 0
    first.v_proj.weight[:n, 1:] = own
    first.o_proj.weight[1:, :n] = 1.5 * before.T
    for i, query_head in enumerate(heads):
        for matrix, head, sketch in ((second.q_proj.weight, query_head, own), (second.k_proj.weight, i, before)):
            matrix[head * D : (head + 1) * D] = 0
            matrix[head * D + comparable, 1:] = sketch * (dim / n) ** 0.5


@torch.no_grad()
def write_copying(model: Transformer, frequency: Tensor) -> None:
    """Makes the induction heads copy the token they attend to: value and output matrices map its embedding to the
    direction that raises its own logit, by the best linear map of rank head_dim for each head.

    For embeddings and a head that are fitted already. frequency: (V, 1), the weights of the tokens.
    """
    config, D = model.config, model.config.head_dim
    heads = _induction_heads(config)
    if not heads:
        return
    weight, head = frequency.sqrt(), model.lm_head.weight
    known = (model.embed_tokens.weight[:, 1:] * weight).cpu().double().numpy()
    wanted = (F.normalize(head - head.mean(0)) * weight).cpu().double().numpy()
    square = known.T @ known
    linear = np.linalg.solve(square + 1e-6 * square.diagonal().mean() * np.eye(len(square)), known.T @ wanted)
    directions = np.linalg.eigh(linear.T @ square @ linear)[1][:, ::-1]  # largest eigenvalue first
    directions = directions * np.sign(directions[np.abs(directions).argmax(0), range(config.dim)])
    second = _attention_of(model, 1)
    for i, query_head in enumerate(heads):
        outputs = directions[:, i * D : (i + 1) * D]
        values = linear @ outputs
        values *= D**0.5 / np.linalg.norm(values)
        rows = second.v_proj.weight[i * D : (i + 1) * D]
        rows.zero_()
        rows[:, 1:] = torch.from_numpy(values.T).float()
        second.o_proj.weight[:, query_head * D : (query_head + 1) * D] = torch.from_numpy(0.3 * outputs).float()


def _induction_heads(config: ModelConfig) -> range:
    """The induction heads of layer 1, each the first of its key-value group, so that the i-th uses group i. Empty
    without a second layer or enough dimensions in the residual stream."""
    n = len(_comparable(config))
    room = config.n_layers > 1 and n and 2 * n < config.dim - 1
    count = min(INDUCTION_HEADS, config.n_kv_heads, config.dim // config.head_dim) if room else 0
    return range(0, config.n_heads, config.n_heads // config.n_kv_heads)[:count]


def _sharpen(attention: Attention) -> None:
    for norm in (attention.q_norm, attention.k_norm):
        if norm.weight is not None:
            norm.weight.fill_(SHARPNESS)


def _attention_of(model: Transformer, layer: int) -> Attention:
    block = model.layers[layer]
    assert isinstance(block, Block)
    return block.self_attn


def _frequencies(config: ModelConfig) -> Tensor:
    """RoPE frequencies, (head_dim / 2,), in radians per token."""
    return config.rope_theta ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)


def _comparable(config: ModelConfig) -> Tensor:
    """Dimensions of a head that RoPE hardly rotates: they can be compared at any distance."""
    slow = (_frequencies(config) * config.context < DRIFT).nonzero()[:, 0]
    return torch.cat((slow, slow + config.head_dim // 2))


def _look_at_distance(attention: Attention, head: int, distance: int) -> None:
    """Sets queries and keys mostly from the embeddings' constant dimension, rotated so that RoPE aligns them `distance`
    tokens apart. High frequencies distinguish neighbours, so they get more weight."""
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
