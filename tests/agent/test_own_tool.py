"""A tool in one new file: trained on, run by the engine in an evaluation, and used by `lanbot agent`."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_training import train_on

from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import output, parts, python
from lanbot.cli import main
from lanbot.config.recipe import Identity, MixturePart
from lanbot.config.recipe_file import load
from lanbot.config.run import Run
from lanbot.distributed.runtime import Runtime
from lanbot.evals import task_eval
from lanbot.inference.engine import Engine
from lanbot.models import saved
from lanbot.models.transformer import Transformer
from lanbot.models.weights import save_model
from lanbot.tasks.mixture import Mixture
from lanbot.tasks.registry import make_task

PRICES = '''
from lanbot.chat.messages import chat, output, python, text
from lanbot.synthetic.world import Errand
from lanbot.tasks.agent_tasks import AgentEnv, AgentTasks
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset

PRICES = {"tea": 3, "bread": 5, "milk": 7, "salt": 9}


def price(item: str) -> str:
    """Looks up what an item costs."""
    return f"{PRICES[item]} euros"


class Prices(AgentTasks):
    """Questions whose answer only the tool knows."""

    def __len__(self):
        return len(PRICES)

    def errand(self, i):
        item = list(PRICES)[i]
        reply = [python(f'price("{item}")'), output(price(item)), text(" it is.")]
        return Errand("price", requests=[f"What is the price of {item}?"], replies=[reply], said="it is.")

    def conversation(self, i):
        return chat(self.errand(i).requests[0], self.errand(i).replies[0])

    def asked(self, i, chat_format):
        return self.conversation(i)  # not mistyped, as errands are in training

    def env(self, i):
        env = AgentEnv(self.errand(i))
        env.tools = PythonCalls(Toolset([price]))
        return env
'''
SPEC = "prices:Prices"


@pytest.fixture
def trained(
    make_model: Callable[..., Transformer], chat_format: ChatFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Transformer:
    """A tiny model, trained on conversations that call the tool."""
    assert len(PRICES.strip().split("\n")) < 40
    (tmp_path / "prices.py").write_text(PRICES)
    monkeypatch.syspath_prepend(tmp_path)
    model = make_model(context=128)
    mixture = Mixture((MixturePart(SPEC, epochs=80),), Identity(), chat_format, seed=0)
    train_on(mixture, model, chat_format, T=64)
    return model


def test_the_engine_runs_the_tools_calls_in_an_evaluation(trained: Transformer, chat_format: ChatFormat) -> None:
    engine, task = Engine(trained, chat_format), make_task(SPEC, "test")
    assert task_eval.evaluate(engine, task, SPEC, 4, 64, runtime=Runtime.single()).score == 1.0
    import prices

    prices.PRICES["tea"] = 11  # what no conversation of the training said
    (env,) = task_eval.do_errands(engine, task, [0], 64)
    answer = parts(env.conversations[0][1])
    assert answer[:2] == [python('price("tea")'), output("11 euros")]
    assert env.right()


Asks = Callable[[dict[str, str]], str]


@pytest.fixture
def asks(
    trained: Transformer,
    chat_format: ChatFormat,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Asks:
    """What the agent of a run with a recipe of such values shows when it is asked."""

    def ask(recipe: dict[str, str]) -> str:
        monkeypatch.setenv("LANBOT_RUNS", str(tmp_path / "runs"))
        run = Run.create(load("smoke", {"name": f"shop{len(list(tmp_path.glob('runs/*')))}", **recipe}))
        for folder in (run.phase("tokenizer"), run.phase("sft") / "step_000007"):
            chat_format.save(folder)
        save_model(trained, run.phase("sft") / "step_000007")
        (run.phase("sft") / "evals.json").write_text('{"checkpoint": "step_000007"}')
        monkeypatch.setattr(saved, "latest", lambda phase: phase / "step_000007")
        with pytest.raises(SystemExit):
            main(["agent", run.folder.name, "What is the price of milk?", "--allow", "price"])
        return capsys.readouterr().out

    return ask


def test_the_recipe_gives_the_tool_to_the_agent(asks: Asks) -> None:
    assert asks({"agent.tools": "prices:price"}) == '    >>> price("milk")\n    7 euros\n it is.\n'


def test_with_constrained_in_the_recipe_no_tool_is_called_that_is_not_there(asks: Asks) -> None:
    free, constrained = asks({}), asks({"agent.constrained": "true"})
    assert '>>> price("milk")\n    error: unknown name' in free
    assert ">>> " in constrained and "price" not in constrained and "unknown name" not in constrained
