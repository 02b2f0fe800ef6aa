"""The policy gradient's options, against gradients of the objectives as the papers write them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import RL
from lanbot.distributed.runtime import Runtime
from lanbot.inference.engine import Completion
from lanbot.models.loss import weighted_nll
from lanbot.models.transformer import Transformer
from lanbot.phases.rollouts import Rollout, advantages
from lanbot.training.policy_batch import policy_batch, tree_batch
from lanbot.training.policy_gradient import PolicyGradient, logprobs, objective_weights
from lanbot.training.step import hidden_states
from lanbot.training.trainer import Trainer

ONE = Runtime(0, 1, torch.device("cpu"), torch.float32)
TURNS = [
    (Completion([9, 5, 6, 20], [7, 8, 30, 31, 1, 44], [1, 1, 0, 0, 1, 1], [-1.0] * 6), 0.75),
    (Completion([9, 5], [7, 60, 61, 62], [1] * 4, [-1.0] * 4), -0.25),
    (Completion([9, 5, 8], [70, 71], [1] * 2, [-1.0] * 2), 0.0),
]
MakeModel = Callable[..., Transformer]


def near(model: Transformer, make_model: MakeModel, seed: int) -> Transformer:
    """Another model whose probabilities differ by tens of percent."""
    other, generator = make_model(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs * (1 + 0.1 * torch.randn(theirs.shape, generator=generator)))
    return other


def exact(model: Transformer, turn: Completion) -> torch.Tensor:
    """log p of each token of an answer."""
    whole = torch.tensor([turn.prompt + turn.ids])
    rows = model.logits(model(whole[:, :-1])).log_softmax(-1)[0, len(turn.prompt) - 1 :]
    return rows.gather(-1, torch.tensor(turn.ids)[:, None])[:, 0]


@pytest.mark.parametrize("clip_range", [0.05, 0.2, 10.0])
@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_the_gradient_is_that_of_the_clipped_ratio_and_the_kl_term(
    clip_range: float, kl: float, make_model: MakeModel
) -> None:
    model = make_model()
    old, start = near(model, make_model, 1), near(model, make_model, 2)
    settings = RL(ppo_epochs=2, clip_range=clip_range, kl=kl)
    n = sum(sum(turn.sampled) for turn, _ in TURNS)

    batch, mask = policy_batch(TURNS, 9).batch, policy_batch([(turn, 1.0) for turn, _ in TURNS], 9).batch.weights
    now, of_old, of_start = (logprobs(one, batch, 2, ONE) for one in (model, old, start))
    weights = objective_weights(batch.weights, mask, now, of_old, of_start if kl else None, settings)
    ids, targets, weighted = (torch.from_numpy(np.ascontiguousarray(x)) for x in (batch.ids, batch.targets, weights))
    loss, _ = weighted_nll(model(ids), model.lm_head.weight, targets, weighted / n)
    loss.backward()
    got = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]

    model.zero_grad()
    objective, clipped = torch.zeros(()), 0
    for turn, advantage in TURNS:
        logp, with_old, with_start = exact(model, turn), exact(old, turn).detach(), exact(start, turn).detach()
        for t, sampled in enumerate(turn.sampled):
            if sampled:
                ratio = (logp[t] - with_old[t]).exp()
                bounded = ratio.clamp(1 - clip_range, 1 + clip_range)
                clipped += bool(bounded * advantage < ratio * advantage)
                objective = objective + torch.minimum(ratio * advantage, bounded * advantage)
                objective = objective - kl / 2 * (logp[t] - with_start[t]) ** 2
    assert (clipped > 0) == (clip_range < 1), "some tokens are clipped, unless the range is wide"
    (-objective / n).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, atol=1e-5, rtol=1e-3)


def test_log_probs_do_not_depend_on_the_micro_batch(make_model: MakeModel) -> None:
    model, batch = make_model(), policy_batch(TURNS, 9).batch
    assert logprobs(model, batch, 1, ONE) == pytest.approx(logprobs(model, batch, 8, ONE), abs=1e-5)
    start = len(TURNS[1][0].prompt) - 1
    assert logprobs(model, batch, 8, ONE)[1, start : start + 4] == pytest.approx(
        exact(model, TURNS[1][0]).detach().numpy(), abs=1e-5
    )


def same_prompts(seed: int) -> list[tuple[Completion, float]]:
    """Answers to three prompts, one after the other, some with forced tokens; too many for one row of trees."""
    rng = np.random.default_rng(seed)
    turns = []
    for length, answers in ((1, 2), (30, 19), (12, 9)):
        prompt = rng.integers(1, 90, length).tolist()
        for _ in range(answers):
            n = int(rng.integers(1, 30))
            sampled = rng.integers(0, 2, n).tolist()
            turns.append(
                (Completion(prompt, rng.integers(1, 90, n).tolist(), sampled, [-1.0] * n), float(rng.normal()))
            )
    return turns


@pytest.mark.parametrize("mixed", [False, True])
def test_trees_of_answers_have_the_gradient_and_the_log_probs_of_rows(make_model: MakeModel, mixed: bool) -> None:
    model, turns, found = make_model(context=64), same_prompts(0), []
    if mixed:  # as the conversations of errands alternate
        turns = [turns[i] for i in np.random.default_rng(1).permutation(len(turns))]
    for lay_out in (policy_batch, tree_batch):
        model.zero_grad()
        batch, places = lay_out(turns, 9)
        ids, targets, weights = (
            torch.from_numpy(np.ascontiguousarray(x)) for x in (batch.ids, batch.targets, batch.weights)
        )
        loss, nll = weighted_nll(hidden_states(model, ids, batch), model.lm_head.weight, targets, weights)
        loss.backward()
        for (turn, _), (row, start) in zip(turns, places, strict=True):
            learned = torch.tensor(turn.sampled) == 1  # a CPU computes no others
            logprobs = -nll[row, start : start + len(turn.ids)]
            assert_close(logprobs[learned], exact(model, turn)[learned], atol=1e-4, rtol=1e-4)
        found.append(({n: p.grad.clone() for n, p in model.named_parameters()}, loss, batch.ids.size))  # type: ignore[union-attr]
    (plain, loss, size), (trees, of_trees, smaller) = found
    assert_close(loss, of_trees)
    for name in plain:
        assert_close(trees[name], plain[name], atol=1e-4, rtol=1e-3)
    assert len(tree_batch(turns, 9).batch) > 1 and smaller < 0.8 * size


@pytest.fixture
def trained(make_model: MakeModel, chat_format: ChatFormat, tmp_path: Path) -> Callable[..., tuple[Trainer, list]]:
    """trained(**settings): a trainer after two steps, and the figures of each."""

    def train(**settings: object) -> tuple[Trainer, list]:
        rates = {"muon_lr": 0.05, "embedding_lr": 0.05, "head_lr": 0.05, "norm_lr": 0.05}
        of_rl = RL(**rates, **settings)  # type: ignore[arg-type]
        trainer = Trainer(make_model(), chat_format, of_rl, tmp_path / "rl", ONE)
        policy = PolicyGradient(trainer, of_rl)
        return trainer, [policy.update(TURNS, 1.0) for _ in range(2)]

    return train


def parameters(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def test_options_are_off_by_default_and_change_the_weights(trained: Callable[..., tuple[Trainer, list]]) -> None:
    plain, done = trained()
    assert plain.step == 2 and int(plain.optimizer.steps.max()) == 2 and [one.figures for one in done] == [{}, {}]
    twice, done = trained(ppo_epochs=2, clip_range=0.01)
    assert twice.step == 2 and int(twice.optimizer.steps.max()) == 4
    assert all(0 < one.figures["clipped"] <= 1 for one in done)
    held, done = trained(kl=1.0)
    assert done[0].figures["kl"] == pytest.approx(0.0, abs=1e-6) and done[1].figures["kl"] > 1e-3
    for other in (twice, held):
        assert not parameters(other).equal(parameters(plain))


def test_a_step_without_anything_to_learn_from_changes_nothing(trained: Callable[..., tuple[Trainer, list]]) -> None:
    trainer, _ = trained()
    before = parameters(trainer).clone()
    done = PolicyGradient(trainer, RL()).update([], 1.0)
    assert (done.tokens, done.result, trainer.step) == (0, None, 3) and parameters(trainer).equal(before)


def test_advantages_may_be_divided_by_the_deviation_of_the_group() -> None:
    group = [Rollout((), reward) for reward in (1.0, 0.0, 0.0, 1.0, 0.5)]
    plain, divided = (advantages(group, replace(RL(), divide_by_std=on)) for on in (False, True))
    assert plain == [0.5, -0.5, -0.5, 0.5, 0.0]
    assert divided == pytest.approx([a / np.std([1, 0, 0, 1, 0.5]) for a in plain])
    assert advantages([Rollout((), 1.0)] * 3, replace(RL(), divide_by_std=True)) == [0.0] * 3
