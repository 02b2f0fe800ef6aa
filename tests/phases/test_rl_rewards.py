"""RL's rewards: terms for the form of an answer, and errands scored by their end state."""

from typing import Any

import pytest

from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import Message, output, parts, python, text
from lanbot.config.recipe import RL, Identity, MixturePart
from lanbot.distributed.runtime import Runtime
from lanbot.evals.attempts import Attempt, faults
from lanbot.inference.engine import Completion
from lanbot.phases.rewards import reward_terms
from lanbot.phases.rollouts import Questions, roll_out, score
from lanbot.tasks.agent_tasks import AgentTasks
from lanbot.tasks.mixture import Mixture
from lanbot.tasks.programs import problems
from lanbot.tasks.registry import make_task

ALL = RL(tool=0.2, mark=0.1, compiles=0.3, defines=0.2, long=0.1, long_words=20)


def terms(task: str, said: Any, settings: RL = ALL) -> dict[str, float]:
    attempt = Attempt(make_task(task, "train"), 0)
    attempt.message = {"role": "assistant", "content": said}
    return {name: value for name, value in reward_terms(attempt, settings).items() if value}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([python("2+2"), output("4"), text("#### 4")], {"tool": 0.2, "mark": 0.1}),
        ([python("2+"), output("error: not an expression"), text("#### 4")], {"mark": 0.1}),
        ("It is 4.", {}),
        ("####", {}),
        ("so " * 21, {"long": -0.1}),
        ("so " * 20, {}),
        ("def f():\n    return 1", {}),
    ],
)
def test_terms_of_an_answer_in_words(said: Any, expected: dict[str, float]) -> None:
    assert terms("word_problems", said) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("```python\ndef f(x):\n    return x\n```", {"compiles": 0.3, "defines": 0.2}),
        ("```python\nx = 1\n```", {"compiles": 0.3}),
        ("```python\ndef f(x:\n```", {}),
        ("#### 4\n(", {}),
        ("```python\n" + "(" * 5_000 + "\n```", {}),
        ("```python\n" + "-" * 19_000 + "1\n```", {}),
        ("", {}),
    ],
)
def test_terms_of_a_program(said: str, expected: dict[str, float]) -> None:
    assert terms("programs", said) == expected


def test_terms_are_off_by_default() -> None:
    assert RL().terms == () and terms("word_problems", [python("2+2"), output("4"), text("#### 4")], RL()) == {}


class Doer:
    """Does every errand as its reference does, in the odd places of a group; in the others it says nothing."""

    def __init__(self, chat_format: ChatFormat, task: AgentTasks) -> None:
        self.chat_format, self.task, self.model, self.call_handler = chat_format, task, self, None
        self.config = type("Config", (), {"context": 1_000})
        self.keys: list[str] = []

    def generate(
        self, prompts: Any, sampling: Any, seed: int, *, keys: Any, call_handlers: Any, **_: Any
    ) -> list[Completion]:
        self.keys += keys
        return [self.done(*one) for one in zip(prompts, keys, call_handlers, strict=True)]

    def done(self, prompt: list[int], key: str, tool: Any) -> Completion:
        end = self.chat_format.end_of_turn
        _, number, place, *later = key.split("/")
        if not int(place) % 2:
            return Completion(prompt, [end], [1], [-1.0], finished="stop")
        reply: Message = {"role": "assistant", "content": self.task.errand(int(number)).replies[int(*later or "0")]}
        made = [output(tool(before["text"])) if one["type"] == "output" else one
                for before, one in zip([None, *parts(reply)], parts(reply), strict=False)]  # fmt: skip
        rendered = self.chat_format.render({"messages": [{"role": "user", "content": "x"}, {**reply, "content": made}]})
        first = rendered.mask.index(1)
        ids, sampled = rendered.ids[first:], rendered.mask[first:]
        return Completion(prompt, ids, sampled, [-1.0] * len(ids), calls=1, finished="stop")


def test_errands_are_rewarded_by_their_end_state_with_all_conversations_under_the_gradient(
    chat_format: ChatFormat,
) -> None:
    settings = RL(mixture=(MixturePart("agent_tasks", rows=12),), prompts=12, group_size=2)
    mixture = Mixture(settings.mixture, Identity(), chat_format, seed=0)
    engine = Doer(chat_format, mixture.tasks[0])  # type: ignore[arg-type]
    asked = next(Questions(mixture, settings, Runtime.single()).rounds([]))
    engine.task = type("ByNumber", (), {"errand": lambda _, n: asked[n].task.errand(asked[n].row)})()  # type: ignore
    groups = score(roll_out(engine, asked, settings, seed=0), settings)  # type: ignore[arg-type]
    assert [[one.reward for one in group] for group in groups] == [[0.0, 1.0]] * 12
    conversations = [len(question.task.errand(question.row).requests) for question in asked]  # type: ignore[attr-defined]
    assert [len(group[1].turns) for group in groups] == conversations and set(conversations) == {1, 2}
    assert all(sum(turn.sampled) for group in groups for turn in group[1].turns)


def test_programs_are_scored_in_the_sandbox() -> None:
    task = make_task("programs", "train")
    attempts = [Attempt(task, i) for i in (0, 0, 5)]
    for one, said in zip(attempts, ("right", "wrong", "right"), strict=True):
        problem = problems("train")[one.row]
        one.message = {
            "role": "assistant",
            "content": problem.prompt + (problem.solution if said == "right" else "    0"),
        }

    assert faults(attempts) == ["", "wrong", ""]
