"""Muon for the matrices of the layers, AdamW for embeddings, head and norms."""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration (Jordan et al. 2024, Muon)."""
NEWTON_SCHULZ_STEPS = 5


@dataclass(frozen=True)
class Rates:
    muon: float
    embedding: float
    head: float
    norm: float
    weight_decay: float = 0.0


class MuonAdamW:
    """Steps the fp32 masters of a model. State is held by parameter name, ready for a checkpoint.

    Muon: momentum 0.95 with Nesterov, the update orthogonalised, scaled by sqrt(max(1, rows / columns)).
    AdamW: betas (0.9, 0.95), eps 1e-10. Weight decay is decoupled and falls on Muon's matrices only.
    """

    momentum = 0.95
    betas = (0.9, 0.95)
    eps = 1e-10

    def __init__(self, model: nn.Module, rates: Rates, dtype: torch.dtype) -> None:
        """dtype: in which the orthogonalisation is computed."""
        self.rates, self.dtype = rates, dtype
        self.parameters = dict(model.named_parameters())
        self.matrices: dict[torch.Size, list[str]] = defaultdict(list)
        self.others: dict[str, float] = {}
        self.state: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self.parameters.items():
            if parameter.ndim == 2 and name.startswith("layers."):
                self.matrices[parameter.shape].append(name)
                self.state[name] = {"momentum": torch.zeros_like(parameter)}
            else:
                kind = "embedding" if "embed" in name else "head" if "lm_head" in name else "norm"
                self.others[name] = getattr(rates, kind)
                self.state[name] = {"mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
        self.steps = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def step(self, scale: float, finite: Tensor) -> None:
        """One update from the gradients, with all rates times `scale`; none if they are not `finite`."""
        if not finite:
            return
        self.steps += 1
        self._adamw(scale)
        for names in self.matrices.values():
            self._muon(names, scale)

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def _muon(self, names: list[str], scale: float) -> None:
        parameters: list[Tensor] = [self.parameters[name] for name in names]
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        buffers = [self.state[name]["momentum"] for name in names]
        torch._foreach_lerp_(buffers, gradients, 1 - self.momentum)
        updates = torch._foreach_lerp(gradients, buffers, self.momentum)
        orthogonal = orthogonalise(torch.stack(updates).to(self.dtype)).to(parameters[0].dtype)
        rows, columns = parameters[0].shape
        rate = self.rates.muon * scale
        torch._foreach_mul_(parameters, 1 - rate * self.rates.weight_decay)
        torch._foreach_add_(parameters, list(orthogonal.unbind()), alpha=-rate * max(1, rows / columns) ** 0.5)

    def _adamw(self, scale: float) -> None:
        beta1, beta2 = self.betas
        step = int(self.steps)
        for name, rate in self.others.items():
            parameter, state = self.parameters[name], self.state[name]
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            state["mean"].lerp_(gradient, 1 - beta1)
            state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            denominator = (state["square"] / (1 - beta2**step)).sqrt_().add_(self.eps)
            parameter.addcdiv_(state["mean"], denominator, value=-rate * scale / (1 - beta1**step))

    def state_dict(self) -> dict[str, object]:
        return {"state": self.state, "steps": self.steps}


def orthogonalise(matrices: Tensor) -> Tensor:
    """(N, rows, columns) -> matrices of the same singular vectors, singular values near 1 (0.7 to 1.2)."""
    a, b, c = NEWTON_SCHULZ
    x = matrices
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
