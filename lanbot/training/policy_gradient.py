"""The policy gradient: sampled answers weighted by their advantages, and one or several updates from them.

Every objective here is a weighted NLL whose weights are computed first: the gradient of PPO's clipped ratio is
advantage x ratio x that of log p where it is not clipped (Schulman et al. 2017). With one update and no KL term the
ratio is 1 and the weights are the advantages.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lanbot.config.recipe import RL
from lanbot.data.packing import Batch
from lanbot.distributed import fsdp
from lanbot.distributed.runtime import Runtime
from lanbot.models.attention import send
from lanbot.models.loss import weighted_nll
from lanbot.models.transformer import Transformer
from lanbot.training.policy_batch import Sampled, policy_batch, tree_batch
from lanbot.training.step import StepResult, blank, hidden_states
from lanbot.training.trainer import Trainer


@dataclass(frozen=True)
class PolicyStep:
    """tokens: the sampled ones of all ranks. result: of the first update, None if no rank has anything to learn from.
    figures: `kl` and `clipped`, where they are measured; means over this step's tokens. places: see PolicyBatch."""

    tokens: int
    scale: float
    result: StepResult | None
    figures: dict[str, float]
    places: Sequence[tuple[int, int]] = ()


class PolicyGradient:
    """Updates a trainer's model from sampled answers."""

    def __init__(self, trainer: Trainer, settings: RL) -> None:
        """To be made before the trainer resumes: its weights are those that the KL term refers to."""
        self.trainer, self.settings = trainer, settings
        self.reference = frozen_copy(trainer.model) if settings.kl else None

    def update(self, turns: Sequence[tuple[Sampled, float]], scale: float) -> PolicyStep:
        """A step from (answer, advantage) of this rank: `ppo_epochs` updates, each normalised by the sampled tokens of
        all ranks. Without any it counts as a step and changes nothing."""
        trainer, runtime = self.trainer, self.trainer.runtime
        tokens = int(runtime.sum(sum(sum(turn.sampled) for turn, _ in turns)))
        if not tokens:
            trainer.step += 1
            return PolicyStep(tokens, scale, None, {})
        bos, epochs = trainer.chat_format.bos, self.settings.ppo_epochs
        lay_out = tree_batch if runtime.device.type == "cpu" else policy_batch  # FlashAttention knows no trees
        batch, places = lay_out(turns, bos)
        mask = lay_out([(turn, 1.0) for turn, _ in turns], bos).batch.weights
        reference = None if self.reference is None else self._logprobs(self.reference, batch)
        first: StepResult | None = None
        figures: dict[str, float] = {}
        for epoch in range(epochs):
            weights = batch.weights
            if epoch or reference is not None:
                now = self._logprobs(trainer.model, batch)
                old = now if first is None else np.where(batch.weights != 0, -first.nll.cpu().numpy(), now)
                weights = objective_weights(batch.weights, mask, now, old, reference, self.settings)
                figures |= self._figures(batch.weights, mask, now, old, reference, tokens)
            result = trainer.update(
                replace(batch, weights=weights).scaled(1 / tokens), scale, ends_step=epoch == epochs - 1
            )
            trainer.count(bool(result.finite))
            first = first or result
        return PolicyStep(tokens, scale, first, figures, places)

    def _logprobs(self, model: Transformer, batch: Batch) -> np.ndarray:
        return logprobs(model, batch, max(1, self.trainer.micro_tokens // batch.ids.shape[1]), self.trainer.runtime)

    def _figures(
        self, advantages: np.ndarray, mask: np.ndarray, now: np.ndarray, old: np.ndarray,
        reference: np.ndarray | None, tokens: int,
    ) -> dict[str, float]:  # fmt: skip
        runtime, found = self.trainer.runtime, {}
        if reference is not None:
            gap = reference - now
            found["kl"] = runtime.sum(float((mask * (np.expm1(gap) - gap)).sum())) / tokens
        if self.settings.ppo_epochs > 1:
            clipped = (advantages != 0) & ~inside(advantages, np.exp((now - old) * mask), self.settings.clip_range)
            found["clipped"] = runtime.sum(float(clipped.sum())) / tokens
        return found


def objective_weights(
    advantages: np.ndarray,
    mask: np.ndarray,
    now: np.ndarray,
    old: np.ndarray,
    reference: np.ndarray | None,
    settings: RL,
) -> np.ndarray:
    """Weights of the NLL, all (rows, T), whose gradient is that of minus

        mean over sampled tokens of min(r A, clip(r, 1 - e, 1 + e) A) - kl/2 (log p - log p_start)^2,  r = p / p_old.

    The last term's gradient is in expectation that of KL(p || p_start) (Schulman 2020, "Approximating KL divergence").
    mask: 1 for tokens that were sampled. now, old, reference: their log p.
    """
    ratio = np.exp((now - old) * mask)
    weights = advantages * ratio * inside(advantages, ratio, settings.clip_range)
    if reference is not None:
        weights = weights - settings.kl * (now - reference) * mask
    return weights.astype(np.float32)


def inside(advantages: np.ndarray, ratio: np.ndarray, clip_range: float) -> np.ndarray:
    """Where the clipped objective has a gradient: where the ratio has not moved too far in the wanted direction."""
    return np.where(advantages > 0, ratio <= 1 + clip_range, ratio >= 1 - clip_range)


@torch.no_grad()
def logprobs(model: Transformer, batch: Batch, micro_batch: int, runtime: Runtime) -> np.ndarray:
    """log p of each target, (rows, T)."""
    passes, found = -(-len(batch) // micro_batch), []
    if fsdp.is_sharded(model):  # a pass gathers weights from all ranks, so all make the same number of them
        passes = runtime.max(passes)
    for i in range(passes):
        rows = batch.rows(slice(i * micro_batch, (i + 1) * micro_batch))
        count = len(rows)
        rows = rows if count else blank(batch)
        ids, targets, weights = (send(array, runtime.device) for array in (rows.ids, rows.targets, rows.weights))
        hidden = hidden_states(model, ids, rows)
        _, nll = weighted_nll(hidden, model.lm_head.weight, targets, weights, None, model.config.switches.softcap)
        found.append(-nll[:count].cpu().numpy())
    return np.concatenate(found) if found else np.zeros(batch.ids.shape, dtype=np.float32)


def frozen_copy(model: Transformer) -> Transformer:
    """The whole model in the compute dtype, without gradients. What is frozen already is shared with it."""
    frozen: dict[int, Any] = {id(p): p for p in model.parameters() if not p.requires_grad}
    return copy.deepcopy(fsdp.gathered(model), frozen).to(model.dtype).requires_grad_(False)
