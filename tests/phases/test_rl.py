from collections.abc import Callable

import numpy as np
import pytest
import torch

from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import RL, Identity, MixturePart
from lanbot.distributed.runtime import Runtime
from lanbot.inference.engine import Completion, Engine
from lanbot.inference.sampling import Sampling
from lanbot.models.loss import weighted_nll
from lanbot.models.transformer import Transformer
from lanbot.phases.rl import Rollout, informative, logprob_gaps, policy_batch, roll_out
from lanbot.tasks.mixture import Mixture

ONE = Runtime(0, 1, torch.device("cpu"), torch.float32)
SETTINGS = RL(mixture=(MixturePart("simple_spelling:builtin"),), prompts=4, group_size=3, max_tokens=8)


class Scripted:
    """An engine that answers each question rightly in some places of its group and not in others."""

    def __init__(
        self, chat_format: ChatFormat, model: Transformer, questions: Mixture, right: list[list[bool]]
    ) -> None:
        self.chat_format, self.model, self.questions, self.right = chat_format, model, questions, right
        self.keys: list[str] = []

    def generate(
        self, prompts: list[list[int]], sampling: Sampling, seed: int = 0, keys: list[str] | None = None
    ) -> list[Completion]:
        assert sampling.temperature == 1.0 and sampling.top_k is None and sampling.top_p is None
        self.keys = keys or []
        completions = []
        for prompt, key in zip(prompts, self.keys, strict=True):
            number, place = (int(part) for part in key.split("/")[1:])
            word = self.questions.conversation(number)["messages"][-1]["content"]
            said = word if self.right[number][place] else "no"
            ids = [*self.chat_format.tokenizer.encode(str(said)), self.chat_format.end_of_turn]
            completions.append(Completion(prompt, ids, [1] * len(ids), [-1.0] * len(ids), finished="stop"))
        return completions


@pytest.fixture
def questions(chat_format: ChatFormat) -> Mixture:
    return Mixture(SETTINGS.mixture, Identity(), chat_format, seed=0)


RIGHT = [[True, False, False], [True, True, True], [False, False, False], [True, True, False]]


def test_advantages_are_rewards_less_their_groups_mean(
    chat_format: ChatFormat, questions: Mixture, make_model: Callable[..., Transformer]
) -> None:
    engine = Scripted(chat_format, make_model(context=256), questions, RIGHT)
    groups = roll_out(engine, questions, SETTINGS, 0, 0, ONE)  # type: ignore[arg-type]
    assert [[r.reward for r in group] for group in groups] == [[float(x) for x in group] for group in RIGHT]
    for group in groups:
        mean = sum(r.reward for r in group) / 3
        assert [r.advantage for r in group] == [r.reward - mean for r in group]
    assert informative(groups) == [*groups[0], *groups[3]], "groups that are all right or all wrong are dropped"


def test_ranks_share_the_questions_and_draw_what_one_rank_would(
    chat_format: ChatFormat, questions: Mixture, make_model: Callable[..., Transformer]
) -> None:
    keys = []
    for world in (ONE, Runtime(0, 2, ONE.device, ONE.dtype), Runtime(1, 2, ONE.device, ONE.dtype)):
        engine = Scripted(chat_format, make_model(context=256), questions, RIGHT)
        roll_out(engine, questions, SETTINGS, 0, 0, world)  # type: ignore[arg-type]
        keys.append(set(engine.keys))
    assert keys[0] == keys[1] | keys[2] and keys[1].isdisjoint(keys[2])
    assert len(keys[0]) == 12


def test_only_sampled_tokens_weigh_and_they_weigh_their_advantage() -> None:
    first = Rollout(Completion([9, 5, 6], [7, 8, 1], [1, 0, 1], [-1.0, 0.0, -2.0]), 1.0, 0.75)
    second = Rollout(Completion([9, 5], [7], [1], [-1.0]), 0.0, -0.25)
    batch = policy_batch([first, second], bos=9)
    assert batch.ids.tolist() == [[9, 5, 6, 7, 8], [9, 5, 7, 9, 9]]
    assert batch.targets.tolist() == [[5, 6, 7, 8, 1], [5, 7, 9, 9, 9]]
    assert batch.weights.tolist() == [[0, 0, 0.75, 0, 0.75], [0, -0.25, 0, 0, 0]]


def test_no_rollouts_make_an_empty_batch() -> None:
    assert len(policy_batch([], bos=0)) == 0


def test_the_gradient_is_that_of_reinforce(chat_format: ChatFormat, make_model: Callable[..., Transformer]) -> None:
    model = make_model(context=64)
    prompt = chat_format.prompt([{"role": "user", "content": "hi"}])
    answers = Engine(model, chat_format).generate([prompt, prompt], Sampling(6, 1.0), seed=3)
    rollouts = [Rollout(answers[0], 1.0, 0.5), Rollout(answers[1], 0.0, -0.5)]
    n = sum(sum(answer.sampled) for answer in answers)

    batch = policy_batch(rollouts, chat_format.bos).scaled(1 / n)
    ids, targets, weights = (
        torch.from_numpy(np.ascontiguousarray(x)) for x in (batch.ids, batch.targets, batch.weights)
    )
    loss, nll = weighted_nll(model(ids), model.lm_head.weight, targets, weights)
    loss.backward()
    got = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]

    model.zero_grad()
    objective = torch.zeros(())
    for rollout in rollouts:
        whole = torch.tensor([rollout.completion.prompt + rollout.completion.ids])
        logprobs = model.logits(model(whole[:, :-1])).log_softmax(-1)[0]
        for t, (token, sampled) in enumerate(zip(rollout.completion.ids, rollout.completion.sampled, strict=True)):
            if sampled:
                objective = objective + rollout.advantage * logprobs[len(rollout.completion.prompt) - 1 + t, token]
    (-objective / n).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, atol=1e-5, rtol=1e-3)

    gaps = logprob_gaps(rollouts, nll)
    assert len(gaps) == n and max(gaps) < 1e-3, "the trainer scores the tokens as the sampler did"
