"""One training step: forward and backward by micro-batches, the gradient's norm, the update."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lanbot.data.packing import Batch
from lanbot.distributed.fsdp import is_sharded
from lanbot.distributed.runtime import Runtime
from lanbot.models.attention import send
from lanbot.models.loss import Candidates, weighted_nll
from lanbot.models.shared_prefix import Trees
from lanbot.models.transformer import Transformer
from lanbot.training.optim import MuonAdamW


@dataclass(frozen=True)
class StepResult:
    """All on the device, so that nothing waits for it before a value is read.

    loss: the weighted sum over the batch of all ranks. grad_norm: before clipping. finite: whether both are finite;
    if not, the update was skipped and weights and optimiser are unchanged. nll: (rows, T) of this rank.
    softmax: over how many tokens it was; with fewer than all, loss and nll are estimates.
    """

    loss: Tensor
    grad_norm: Tensor
    finite: Tensor
    nll: Tensor
    softmax: int


def training_step(
    model: Transformer,
    optimizer: MuonAdamW,
    batch: Batch,
    scale: float,
    clip: float,
    micro_batch: int,
    runtime: Runtime,
    candidates: Candidates | None = None,
) -> StepResult:
    """One update from this rank's rows. The weights are those of the whole batch: they decide the normalisation.
    candidates: the tokens of a sampled softmax, the same on all ranks; None: all tokens."""
    device = runtime.device
    if candidates is not None:
        candidates = Candidates(*(send(tensor.numpy(), device) for tensor in candidates))
    loss, nll = torch.zeros((), device=device), []
    passes = -(-len(batch) // micro_batch)
    if is_sharded(model):  # a pass gathers weights from all ranks, so all make the same number of them
        passes = runtime.max(passes)
    for i in range(passes):
        rows = batch.rows(slice(i * micro_batch, (i + 1) * micro_batch))
        count = len(rows)
        rows = rows if count else blank(batch)
        ids, targets, weights = (send(array, device) for array in (rows.ids, rows.targets, rows.weights))
        hidden = hidden_states(model, ids, rows)
        part, rows_nll = weighted_nll(
            hidden, model.lm_head.weight, targets, weights, candidates, model.config.switches.softcap
        )
        if i == passes - 1:
            optimizer.prepare_for_backward()
        part.backward()
        loss += part.detach()
        nll.append(rows_nll[:count])
    norm = optimizer.clip_gradients(clip)
    runtime.sum_(loss)
    finite = torch.isfinite(loss) & torch.isfinite(norm)
    optimizer.step(scale, finite)
    optimizer.zero_grad()
    softmax = model.config.vocab_size if candidates is None else len(candidates.ids)
    return StepResult(loss, norm, finite, torch.cat(nll) if nll else torch.empty(0), softmax)


def hidden_states(model: Transformer, ids: Tensor, rows: Batch) -> Tensor:
    """The model's last hidden states of the rows, (rows, T, dim). ids: theirs, on the device."""
    documents = torch.from_numpy(rows.documents)
    return model(ids, cache=Trees(documents.to(ids.device))) if rows.trees else model(ids, documents)


def blank(batch: Batch) -> Batch:
    """One row as wide as the batch's, of weight 0."""
    ids = np.zeros((1, batch.ids.shape[1]), dtype=np.int64)
    return Batch(ids, ids, ids.astype(np.float32), ids, batch.trees)
