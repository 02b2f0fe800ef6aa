"""Muon for the matrices of the layers, AdamW for embeddings, head, norms and adapters."""

from collections import defaultdict
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.optim.adamw import adamw

from lanbot.distributed.layout import layout
from lanbot.distributed.single_device import PendingUpdate
from lanbot.models.transformer import Transformer

POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
"""Coefficients of the quintic iterations, a row each (Amsel et al. 2025, Polar Express; singular values >= 0.001)."""
SAFETY = 1.02
"""Each iteration divides its argument by this factor: outside the interval that a polynomial was designed for, where
rounding may push a singular value, it diverges."""

PER_HEAD = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
"""Matrices that are orthogonalised head by head, which is also cheaper."""


@dataclass(frozen=True)
class Rates:
    muon: float
    embedding: float
    head: float
    norm: float
    weight_decay: float = 0.0
    adapter: float = 0.0


class MuonAdamW:
    """Updates the fp32 master weights of a model, the frozen ones left out. State is kept by parameter name, as
    checkpoints store it.

    Muon (Jordan et al. 2024): momentum 0.95 with Nesterov, the update orthogonalised, scaled by sqrt(max(1, rows /
    columns)).
    AdamW: betas (0.9, 0.99), eps 1e-10. Weight decay is decoupled and applies to Muon's matrices only. LoRA's matrices
    are AdamW's too: the field's rates are for it, and its state is small there.
    """

    momentum = 0.95
    betas = (0.9, 0.99)
    eps = 1e-10

    def __init__(self, model: Transformer, rates: Rates, dtype: torch.dtype, mesh: DeviceMesh | None = None) -> None:
        """dtype: of the orthogonalisation. mesh: the ranks that share the work; None: one process."""
        self.rates, self.dtype = rates, dtype
        self.matrices: dict[tuple[torch.Size, int], list[str]] = defaultdict(list)
        """Names by shape and number of rows that are orthogonalised together."""
        self.others: dict[str, float] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if ".lora_" in name:
                self.others[name] = rates.adapter
            elif parameter.ndim == 2 and name.startswith("layers."):
                rows = model.config.head_dim if name.endswith(PER_HEAD) else len(parameter)
                self.matrices[parameter.shape, rows].append(name)
            else:
                kind = "embedding" if "embed" in name else "head" if "lm_head" in name else "norm"
                self.others[name] = getattr(rates, kind)
        self.layout = layout(model, list(self.matrices.values()), mesh)
        self.state: dict[str, dict[str, Tensor]] = {}
        """Of the shards that this rank updates: see distributed/."""
        for name in self.layout.parameters:
            if (part := self.layout.shard(name)) is not None:
                kinds = ("mean", "square") if name in self.others else ("momentum",)
                self.state[name] = {kind: torch.zeros_like(part) for kind in kinds}
        self.steps = torch.zeros((), dtype=torch.int64, device=model.embed_tokens.weight.device)
        self.gradients: dict[str, Tensor] = {}

    def prepare_for_backward(self) -> None:
        """Call before the last backward pass of a step: its gradients are sent as they become ready."""
        self.layout.prepare_for_backward()

    @torch.no_grad()
    def clip_gradients(self, clip: float) -> Tensor:
        """Sums the gradients over ranks and clips their global norm to `clip`. Returns the norm before."""
        self.gradients = self.layout.gradients()
        norm = self.layout.norm(self.gradients)
        torch._foreach_mul_(list(self.gradients.values()), (clip / (norm + 1e-6)).clamp(max=1.0))
        return norm

    @torch.no_grad()
    def step(self, scale: float, finite: Tensor) -> None:
        """One update with all rates times `scale`; skipped if the gradients are not `finite`."""
        if finite.device.type in ("cuda", "meta"):  # a host read would wait for the device
            self._step(scale, finite)
        elif finite:
            self._step(scale, None)

    def _step(self, scale: float, finite: Tensor | None) -> None:
        """finite: None if known to be true; otherwise the device skips the update where it is false."""
        self.gradients = self.gradients or self.layout.gradients()
        self.steps += 1 if finite is None else finite
        self._adamw(scale, finite)
        before: tuple[list[str], PendingUpdate] | None = None
        for (_, rows), names in self.matrices.items():  # communication of a group overlaps with computing the next
            arriving = self._muon(names, rows, finite)
            if before is not None:
                self._apply(*before, scale, finite)
            before = names, arriving
        if before is not None:
            self._apply(*before, scale, finite)
        self.gradients = {}

    def zero_grad(self) -> None:
        self.gradients = {}
        for parameter in self.layout.parameters.values():
            parameter.grad = None

    def _muon(self, names: list[str], head_rows: int, finite: Tensor | None) -> PendingUpdate:
        mine = [name for name in names if name in self.state]
        updates: list[Tensor] = []
        if mine:
            gradients = [self.gradients[name] for name in mine]
            buffers = [self.state[name]["momentum"] for name in mine]
            if finite is not None:  # lerp from the momentum to itself leaves it unchanged
                for gradient, buffer in zip(gradients, buffers, strict=True):
                    torch.where(finite, gradient, buffer, out=gradient)
            torch._foreach_lerp_(buffers, gradients, 1 - self.momentum)
            updates = list(torch._foreach_lerp(gradients, buffers, self.momentum))
        return self.layout.orthogonalise(names, updates, partial(orthogonalise, head_rows=head_rows), self.dtype)

    def _apply(self, names: list[str], arriving: PendingUpdate, scale: float, finite: Tensor | None) -> None:
        parameters = self.layout.targets(names)
        updates = [update.to(p.dtype) for update, p in zip(arriving.get(), parameters, strict=True)]
        rows, columns = self.layout.parameters[names[0]].shape
        rate = self.rates.muon * scale
        decay: float | Tensor = 1 - rate * self.rates.weight_decay
        if finite is not None:
            decay = torch.where(finite, decay, 1.0)
            torch._foreach_mul_(updates, finite.float())
        torch._foreach_mul_(parameters, decay)
        torch._foreach_add_(parameters, updates, alpha=-rate * max(1, rows / columns) ** 0.5)

    def _adamw(self, scale: float, finite: Tensor | None) -> None:
        found_inf = None if finite is None else finite.logical_not().float()
        by_rate: dict[float, list[str]] = defaultdict(list)
        for name, rate in self.others.items():
            by_rate[rate].append(name)
        for rate, names in by_rate.items():
            parts = {name: self.layout.shard(name) for name in names}
            parameters = [part for part in parts.values() if part is not None and part.numel()]
            mine = [name for name, part in parts.items() if part is not None and part.numel()]
            adamw(
                parameters,
                [self.gradients[name] for name in mine],
                [self.state[name]["mean"] for name in mine],
                [self.state[name]["square"] for name in mine],
                max_exp_avg_sqs=[],
                state_steps=[(self.steps - 1).to(p.device, torch.float32) for p in parameters],  # adamw increments them
                fused=True, found_inf=found_inf, amsgrad=False, maximize=False,
                beta1=self.betas[0], beta2=self.betas[1], lr=rate * scale, weight_decay=0.0, eps=self.eps,
            )  # fmt: skip
        self.layout.all_gather(list(self.others))

    def state_dict(self) -> dict[str, object]:
        """This rank's state by parameter name; what of it is a shard is marked as one, so that it loads at any world
        size."""
        stored = {
            name: {kind: self.layout.to_checkpoint(name, tensor) for kind, tensor in kept.items()}
            for name, kept in self.state.items()
        }
        return {"state": stored, "steps": self.steps}


def orthogonalise(matrices: Tensor, head_rows: int | None = None) -> Tensor:
    """(N, rows, columns) -> matrices of the same singular vectors, singular values near 1.

    head_rows: each so many rows are a matrix of their own.
    """
    x = matrices if head_rows is None else matrices.reshape(-1, head_rows, matrices.shape[2])
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT.contiguous()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for a, b, c in POLAR_EXPRESS:
        a, b, c = a / SAFETY, b / SAFETY**3, c / SAFETY**5
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).reshape(matrices.shape)
