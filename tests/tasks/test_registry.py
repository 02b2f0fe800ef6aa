"""A task in one file outside the package, named module:Class."""

from pathlib import Path

import pytest
from tiny_training import train_on

from lanbot.config.recipe import RL, Identity, MixturePart
from lanbot.core.errors import UserError
from lanbot.distributed.runtime import Runtime
from lanbot.evals.task_eval import evaluate
from lanbot.inference.engine import Engine
from lanbot.phases.rl import roll_out
from lanbot.tasks.mixture import Mixture
from lanbot.tasks.registry import all_tasks, find_task, first_split, make_task

SEASONS = '''
from lanbot.chat.messages import chat
from lanbot.tasks.task import Task

SEASONS = ("winter", "spring", "summer", "autumn")


class Next(Task):
    """Which season follows which."""

    arguments = ("backwards",)

    def __len__(self):
        return len(SEASONS)

    def conversation(self, i):
        step = -1 if self.argument else 1
        return chat(f"What follows {SEASONS[i]}?", SEASONS[(i + step) % 4])


class Other:
    pass
'''


@pytest.fixture
def seasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "seasons.py").write_text(SEASONS)
    monkeypatch.syspath_prepend(tmp_path)
    return "seasons:Next"


def test_a_task_from_outside_is_trained_on_evaluated_and_rewarded(seasons, make_model, chat_format) -> None:  # type: ignore[no-untyped-def]
    assert len(SEASONS.split("\n")) < 40
    model = make_model(context=96)
    mixture = Mixture((MixturePart(seasons, epochs=80),), Identity(), chat_format, seed=0)
    train_on(mixture, model, chat_format, T=32)
    engine = Engine(model, chat_format)
    assert evaluate(engine, make_task(seasons, "test"), seasons, 4, 8, runtime=Runtime.single()).score == 1.0
    assert (
        evaluate(engine, make_task(f"{seasons}:backwards", "test"), seasons, 4, 8, runtime=Runtime.single()).score
        == 0.0
    )
    settings = RL(mixture=(MixturePart(seasons),), prompts=4, group_size=4, max_tokens=8)
    groups = roll_out(engine, mixture, settings, 0, 0, Runtime.single())
    assert sum(rollout.reward for group in groups for rollout in group) > 8


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("seasons:Other", "not a subclass of lanbot.tasks.task.Task"),
        ("seasons:None", "seasons:None"),
        ("season:Next", "season:Next"),
        ("seasons:Next:upwards", "takes no 'upwards'"),
    ],
)
@pytest.mark.usefixtures("seasons")
def test_a_name_that_is_not_a_task_is_an_error(spec: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        find_task(spec)
    assert str(caught.value).count("\n") == 1


def test_every_module_registers_its_tasks() -> None:
    assert {"gsm8k", "mmlu", "humaneval", "jsonl", "word_problems", "agent_tasks"} <= set(all_tasks())
    assert first_split("handwritten") == "test" and first_split("gsm8k") == "train"
