"""The whole agent with a model at an endpoint: `lanbot agent http://HOST/v1#MODEL`."""

import json
from pathlib import Path

import httpx2
import pytest
from agent_server import AgentServer, says

from lanbot.agent import endpoint
from lanbot.agent.runs import agent_run
from lanbot.cli import main
from lanbot.config.run import list_runs
from lanbot.core.errors import UserError
from lanbot.tools.memory import Memory

KEY = "sk-not-to-be-seen-4711"


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANBOT_RUNS", "runs")
    monkeypatch.delenv("LANBOT_API_KEY", raising=False)
    monkeypatch.setattr(endpoint, "WAIT", 0.002)
    monkeypatch.setattr(endpoint, "TIMEOUT", httpx2.Timeout(0.3))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


def lanbot(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


def test_a_task_is_solved_in_spite_of_all_faults(capsys: pytest.CaptureFixture[str]) -> None:
    turns = [
        says("I write it down. ", ("write_file", {"path": "sum.txt", "text": "84"})),
        says("", ("python", {"code": "12*7"}), ("read_file", {"path": "sum.txt"})),
        says("", ("remember", '{"text": "the sum is')),  # malformed
        says("", ("remember", {"text": "the sum is 84"})),
        says("It is 84, and I wrote it down."),
    ]
    with AgentServer(turns, ["429", "drop", "", "hang", "whole", "500", "no index", "error"], KEY) as server:
        server.models = [{"id": "m", "context_length": 8_000}]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LANBOT_API_KEY", KEY)
            assert lanbot("agent", f"{server.url}#m", "What is 12*7? Write it down.") == 0
        assert not server.turns and not server.faults
        last = server.bodies[-1]["messages"]
    captured = capsys.readouterr()
    assert captured.out == (
        "I write it down. \n"
        "    >>> write_file(path='sum.txt', text='84')\n"
        "    wrote sum.txt\n"
        "    >>> 12*7\n"
        "    >>> read_file(path='sum.txt')\n"
        "    84\n"
        "    84\n"
        '    >>> remember({"text": "the sum is)\n'
        "    error: the call cannot be read; write it again\n"
        "    >>> remember(text='the sum is 84')\n"
        "    remembered as 1\n"
        "It is 84, and I wrote it down.\n"
    )
    assert Path("runs/m/agent/files/sum.txt").read_text() == "84"
    assert Memory("runs/m/agent/memory.db").all() == [(1, "the sum is 84")]
    ids = [one["id"] for message in last for one in message.get("tool_calls", ())]
    assert ids == [message["tool_call_id"] for message in last if message["role"] == "tool"]
    assert KEY not in captured.out + captured.err
    kept = [path for path in Path("runs").rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert not kept
    assert 'key = "LANBOT_API_KEY"' in Path("runs/m/recipe.toml").read_text()


def test_the_run_of_an_endpoint_is_one_like_others(capsys: pytest.CaptureFixture[str]) -> None:
    with AgentServer([says("Hello."), says("Ada."), says("Bob.")]) as server:
        assert lanbot("agent", f"{server.url}#m", "I am Ada.") == 0
        assert "made the run m" in capsys.readouterr().err
        assert lanbot("agent", "m", "Who am I?", "--resume", "last") == 0
        assert server.bodies[-1]["messages"][0] == {"role": "user", "content": "I am Ada."}
        assert lanbot("agent", f"{server.url}#m", "Hi", "--phase", "sft") == 2
        recipe = Path("runs/m/recipe.toml")
        recipe.write_text(recipe.read_text().replace("price_out = 0.0", "price_out = 1e6"))
        recipe.write_text(recipe.read_text().replace("max_cost = 0.0", "max_cost = 5.0"))
        server.turns = [says("", ("python", {"code": "1"}))]
        capsys.readouterr()
        assert lanbot("agent", "m", "Count.", "--json") == 1
    captured = capsys.readouterr()
    replied = next(row for line in captured.out.splitlines() if (row := json.loads(line))["event"] == "replied")
    assert replied["cost"] == 7.0 and "cost limit" in captured.err
    assert lanbot("runs") == 0
    assert lanbot("sessions", "m") == 0
    assert "I am Ada." in capsys.readouterr().out


def test_endpoints_with_the_same_name_of_a_model_have_runs_of_their_own() -> None:
    first = agent_run("http://localhost:1/v1#org/model:7b").folder
    assert agent_run("http://localhost:1/v1/#org/model:7b").folder == first
    other = agent_run("https://api.example.com/v1#org/model:7b")
    assert [path.name for path in list_runs()] == ["org-model-7b", "org-model-7b-api-example-com"]
    assert other.recipe.agent.endpoint and other.recipe.agent.endpoint.key == ""
    named = agent_run("https://api.example.com/v1#org/model:7b", "MY_KEY")
    assert named.recipe.agent.endpoint and named.recipe.agent.endpoint.key == "MY_KEY"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("http://localhost:1/v1", "an endpoint without a model"),
        ("http://me:secret@localhost/v1", "an endpoint without a model"),
        ("http://me:secret@localhost/v1#m", "not an address"),
        ("http://#m", "not an address"),
    ],
)
def test_an_address_that_is_none_is_refused(name: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as raised:
        agent_run(name)
    assert len(str(raised.value).split("\n")) == 2 and "secret" not in str(raised.value)
    assert not Path("runs").exists()
