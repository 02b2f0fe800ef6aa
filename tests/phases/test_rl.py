from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

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
from lanbot.phases.rollouts import Group, Questions, informative, roll_out, score, with_advantages
from lanbot.tasks.mixture import Mixture
from lanbot.tools.calculator import answer
from lanbot.training.policy_batch import logprob_gaps, policy_batch

ONE = Runtime(0, 1, torch.device("cpu"), torch.float32)
SETTINGS = RL(mixture=(MixturePart("simple_spelling:builtin"),), prompts=4, group_size=3, max_tokens=8)


class Scripted:
    """An engine that answers each question rightly in some places of its group and not in others."""

    def __init__(
        self, chat_format: ChatFormat, model: Transformer, questions: Mixture, right: list[list[bool]]
    ) -> None:
        self.chat_format, self.model, self.questions, self.right = chat_format, model, questions, right
        self.keys: list[str] = []
        self.call_handler = answer

    def generate(
        self,
        prompts: list[list[int]],
        sampling: Sampling,
        seed: int = 0,
        *,
        keys: list[str],
        call_handlers: Any,
        on_finished: Any,
    ) -> list[Completion]:
        assert sampling.temperature == 1.0 and sampling.top_k is None and sampling.top_p is None
        self.keys = [*self.keys, *keys]
        completions = []
        for prompt, key in zip(prompts, keys, strict=True):
            number, place = (int(part) for part in key.split("/")[1:])
            word = self.questions.conversation(number)["messages"][-1]["content"]
            said = word if self.right[number][place] else "no"
            ids = [*self.chat_format.tokenizer.encode(str(said)), self.chat_format.end_of_turn]
            completions.append(Completion(prompt, ids, [1] * len(ids), [-1.0] * len(ids), finished="stop"))
        return completions


@pytest.fixture
def questions(chat_format: ChatFormat) -> Mixture:
    return Mixture(SETTINGS.mixture, Identity(), chat_format, seed=0)


def step(engine: Scripted, mixture: Mixture, settings: RL, runtime: Runtime) -> list[Group]:
    """The groups of the first step on a rank."""
    groups: list[Group] = []
    for asked in Questions(mixture, settings, runtime).rounds(groups):
        groups += with_advantages(score(roll_out(engine, asked, settings, seed=0), settings), settings)  # type: ignore[arg-type]
    return groups


RIGHT = [[True, False, False], [True, True, True], [False, False, False], [True, True, False]]


def test_advantages_are_rewards_less_their_groups_mean(
    chat_format: ChatFormat, questions: Mixture, make_model: Callable[..., Transformer]
) -> None:
    groups = step(Scripted(chat_format, make_model(context=256), questions, RIGHT), questions, SETTINGS, ONE)
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
        step(engine, questions, SETTINGS, world)
        keys.append(set(engine.keys))
    assert keys[0] == keys[1] | keys[2] and keys[1].isdisjoint(keys[2])
    assert len(keys[0]) == 12


def test_only_sampled_tokens_weigh_and_they_weigh_their_advantage() -> None:
    first = Completion([9, 5, 6], [7, 8, 1], [1, 0, 1], [-1.0, 0.0, -2.0])
    second = Completion([9, 5], [7], [1], [-1.0])
    batch = policy_batch([(first, 0.75), (second, -0.25)], bos=9).batch
    assert batch.ids.tolist() == [[9, 5, 6, 7, 8], [9, 5, 7, 9, 9]]
    assert batch.targets.tolist() == [[5, 6, 7, 8, 1], [5, 7, 9, 9, 9]]
    assert batch.weights.tolist() == [[0, 0, 0.75, 0, 0.75], [0, -0.25, 0, 0, 0]]


def test_no_rollouts_make_an_empty_batch() -> None:
    assert len(policy_batch([], bos=0).batch) == 0


def test_the_gradient_is_that_of_reinforce(chat_format: ChatFormat, make_model: Callable[..., Transformer]) -> None:
    model = make_model(context=64)
    prompt = chat_format.prompt([{"role": "user", "content": "hi"}])
    answers = Engine(model, chat_format).generate([prompt, prompt], Sampling(6, 1.0), seed=3)
    turns = [(answers[0], 0.5), (answers[1], -0.5)]
    n = sum(sum(answer.sampled) for answer in answers)

    batch = policy_batch(turns, chat_format.bos).batch.scaled(1 / n)
    ids, targets, weights = (
        torch.from_numpy(np.ascontiguousarray(x)) for x in (batch.ids, batch.targets, batch.weights)
    )
    loss, _ = weighted_nll(model(ids), model.lm_head.weight, targets, weights)
    loss.backward()
    got = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]

    model.zero_grad()
    objective = torch.zeros(())
    for turn, advantage in turns:
        whole = torch.tensor([turn.prompt + turn.ids])
        logprobs = model.logits(model(whole[:, :-1])).log_softmax(-1)[0]
        for t, (token, sampled) in enumerate(zip(turn.ids, turn.sampled, strict=True)):
            if sampled:
                objective = objective + advantage * logprobs[len(turn.prompt) - 1 + t, token]
    (-objective / n).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, atol=1e-5, rtol=1e-3)


def test_sampler_and_trainer_agree_in_fp32(chat_format: ChatFormat, make_model: Callable[..., Transformer]) -> None:
    """Also where a call's output was forced into the answer, and in a batch of answers of different lengths."""
    model = make_model(context=128)
    special = chat_format.tokenizer.special
    with torch.no_grad():  # calls are likely
        model.lm_head.weight[[special["<|python_start|>"], special["<|python_end|>"]]] *= 5
    prompts = [chat_format.prompt([{"role": "user", "content": "hi" * n}]) for n in (1, 3, 9)] * 8
    engine = Engine(model, chat_format, call_handler=lambda code: "12")
    answers = engine.generate(prompts, Sampling(40, 1.0), seed=1)
    assert any(0 in answer.sampled for answer in answers)
    assert len({len(answer.ids) for answer in answers}) > 1
    batch, places = policy_batch([(answer, 1.0) for answer in answers], chat_format.bos)
    with torch.no_grad():
        arrays = (torch.from_numpy(np.ascontiguousarray(x)) for x in (batch.ids, batch.targets, batch.weights))
        ids, targets, weights = arrays
        _, nll = weighted_nll(model(ids), model.lm_head.weight, targets, weights)
    gaps = logprob_gaps(answers, nll, places)
    assert len(gaps) == sum(sum(answer.sampled) for answer in answers) and max(gaps) < 1e-3


REFILLED = [[True, False, False], [True] * 3, [False] * 3, [True] * 3, [True] * 3, [True, True, False], [False] * 3]
"""The first and the sixth question have something to learn from."""


@pytest.mark.parametrize(("refill", "asked", "kept"), [(0, 4, 1), (1, 7, 2), (2, 9, 2)])
def test_uninformative_groups_are_replaced_up_to_a_bound(
    refill: int, asked: int, kept: int, chat_format: ChatFormat, questions: Mixture, make_model: Callable[..., Any]
) -> None:
    settings = replace(SETTINGS, refill=refill)
    engine = Scripted(chat_format, make_model(context=256), questions, [*REFILLED, [True] * 3, [True] * 3])
    groups = step(engine, questions, settings, ONE)
    assert len(engine.keys) == 3 * asked == 3 * len(groups)
    assert len(informative(groups)) == 3 * kept


def test_a_full_step_asks_no_further_questions(
    chat_format: ChatFormat, questions: Mixture, make_model: Callable[..., Any]
) -> None:
    engine = Scripted(chat_format, make_model(context=256), questions, [[True, False, True]] * 4)
    assert len(step(engine, questions, replace(SETTINGS, refill=9), ONE)) == 4


@dataclass(frozen=True)
class OneOf(Runtime):
    """A rank of several; the others kept as many groups as `elsewhere` says, round by round."""

    elsewhere: tuple[int, ...] = ()

    def sum(self, value: float) -> float:
        self.sums.append(value)
        return value + self.elsewhere[len(self.sums) - 1]

    @cached_property
    def sums(self) -> list[float]:
        return []


def test_ranks_ask_in_turns_what_one_rank_would_ask(
    chat_format: ChatFormat, questions: Mixture, make_model: Callable[..., Any]
) -> None:
    settings = replace(SETTINGS, refill=2)
    right = [*REFILLED, [True] * 3, [True] * 3]
    alone, keys = Scripted(chat_format, make_model(context=256), questions, right), []
    step(alone, questions, settings, ONE)
    for rank, elsewhere in ((0, (0, 1)), (1, (1, 1))):
        engine = Scripted(chat_format, make_model(context=256), questions, right)
        step(engine, questions, settings, OneOf(rank, 2, ONE.device, ONE.dtype, elsewhere=elsewhere))
        keys.append({key.split("/")[1] for key in engine.keys})
    assert keys == [{"0", "2", "4", "6", "8"}, {"1", "3", "5", "7"}]
    assert {key.split("/")[1] for key in alone.keys} == keys[0] | keys[1]


def test_questions_go_on_where_a_checkpoint_left_them(questions: Mixture) -> None:
    settings = replace(SETTINGS, refill=1)
    before, after = (Questions(questions, settings, ONE) for _ in range(2))
    assert sum(len(asked) for asked in before.rounds([])) == 8
    after.load_state(before.state())
    assert [one.number for one in next(after.rounds([]))] == [8, 9, 10, 11]


def test_weights_are_the_shares_of_a_mixture(chat_format: ChatFormat) -> None:
    parts = (
        MixturePart("word_problems", rows=300, weight=3.0),
        MixturePart("simple_spelling:builtin", rows=40, weight=1.0),
        MixturePart("agent_tasks", rows=10, epochs=2, weight=1.0),
    )
    mixture = Mixture(parts, Identity(), chat_format, seed=0)
    counts = np.bincount(mixture.which)
    assert counts.tolist() == [300, 100, 100]
    assert [len(set(mixture.rows[mixture.which == k])) for k in range(3)] == [300, 40, 10], "all rows of each"
    assert 40 < (mixture.which[:100] == 0).sum() < 80, "mixed throughout"
