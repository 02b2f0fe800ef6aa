"""Conversations by an endpoint: the run ends in spite of all faults, keeps what it has, and never overspends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import llm_server
import pytest
from llm_server import Server

from lanbot.chat.messages import parts
from lanbot.cli import identity as commands
from lanbot.config.recipe import Identity
from lanbot.core.errors import UsageError, UserError
from lanbot.synthetic.identity import client, endpoint
from lanbot.synthetic.identity.checks import CHECKS, problems

WHO = Identity(name="Juno", creator="Ada Park")
KEY = "sk-not-to-be-seen-4711"
KINDS = tuple(CHECKS)
Generate = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "WAIT", 0.002)
    monkeypatch.setattr(client, "TIMEOUT", httpx2.Timeout(0.5))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "juno.jsonl"


@pytest.fixture
def generate(out: Path) -> Generate:
    """generate(server, **changes)"""

    def call(
        server: Server,
        kinds: tuple[str, ...] = ("identity",),
        count: int = 3,
        who: Identity = WHO,
        path: str = "",
        max_cost: float = 1e9,
        prices: tuple[float, float] = (1.0, 4.0),
        concurrency: int = 4,
    ) -> dict[str, Any]:
        asked = client.Client(server.url + path, "m", KEY, max_cost, prices, concurrency)
        return endpoint.generate(who, out, count, kinds, asked, seed=7)

    return call


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def test_all_kinds_are_completed_in_spite_of_all_faults(generate: Generate, out: Path) -> None:
    faults = [*llm_server.STATUS_FAULTS[:3], *llm_server.BODY_FAULTS, *llm_server.WRITTEN_FAULTS, *llm_server.REPAIRED]
    with Server([fault for fault in faults for _ in range(2)], key=KEY) as server:
        made = generate(server, KINDS)
        assert not server.faults
    assert (made["kept"], made["stopped"]) == (dict.fromkeys(KINDS, 3), "")
    assert (made["rows"], made["requests"]) == (18, len(server.bodies))
    merged = rows(out)
    assert len({row["id"] for row in merged}) == 18
    for kind in KINDS:
        written = rows(out.with_suffix("") / f"{kind}.jsonl")
        assert written == [row for row in merged if row["kind"] == kind]
        assert all(problems(row, WHO, kind) == [] for row in written)


def test_a_resumed_run_asks_only_for_what_is_missing(generate: Generate, out: Path) -> None:
    kept = out.with_suffix("") / "no_tool.jsonl"
    with Server() as server:
        generate(server, ("no_tool",), 6)
        whole = rows(kept)
        out.unlink()
        kept.write_bytes(kept.read_bytes()[:-30])  # killed while it wrote the last line
        resumed = generate(server, ("no_tool",), 6)
        assert (resumed["new"], resumed["requests"]) == (1, 1)
        assert rows(out)[:5] == whole[:5] and rows(out)[5]["id"] == whole[5]["id"]
        kept.unlink()  # the merged file is enough
        assert generate(server, ("no_tool",), 6)["requests"] == 0
        assert generate(server, ("no_tool",), 7)["requests"] == 1
    assert len(rows(out)) == 7


def test_a_killed_run_loses_nothing_that_was_complete(generate: Generate, out: Path) -> None:
    kept = out.with_suffix("") / "identity.jsonl"
    with Server(delay=0.05) as server:
        code = (
            "from pathlib import Path\nfrom lanbot.config.recipe import Identity\n"
            "from lanbot.synthetic.identity import client, endpoint\n"
            f"who, out = Identity(name='Juno', creator='Ada Park'), Path({str(out)!r})\n"
            f"asked = client.Client({server.url!r}, 'm', '', 1e9, (1, 1), 2)\n"
            "endpoint.generate(who, out, 12, ['identity'], asked, 7)"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, env={**os.environ})
        while not (kept.is_file() and kept.read_bytes().count(b"}\n") >= 4):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = kept.read_text().count("}\n")
        assert not out.exists()
        made = generate(server, count=12)
    assert made["new"] == 12 - done
    assert len(rows(out)) == 12


@pytest.mark.parametrize("fault", ["", "no usage", "hang", "cut body", "cut", "500"])
def test_the_budget_is_never_exceeded(generate: Generate, fault: str) -> None:
    prices = (1_000.0, 4_000.0)
    with Server([fault, ""] * 3) as server:
        made = generate(server, ("tool_use", "no_tool"), 200, max_cost=60.0, prices=prices)
    assert made["stopped"] == "max_cost"
    assert 0 < server.cost(*prices) <= made["cost"] + 1e-9 <= 60.0 + 2e-9
    assert made["cost"] > 60.0 - 20.0  # it stops only where the next request could exceed it: at most 17 here
    if fault == "":
        assert made["cost"] == pytest.approx(server.cost(*prices))
        assert made["rows"] == len(server.bodies)


def test_the_concurrency_is_bounded(generate: Generate) -> None:
    with Server(delay=0.03) as server:
        generate(server, count=16)
    assert 2 <= server.most_at_once <= 4


def test_an_imagined_output_is_corrected_by_the_real_one(generate: Generate, out: Path) -> None:
    with Server(["wrong output"]) as server:
        made = generate(server, ("tool_use",), 1)
        assert made["requests"] == 2
        answer, correction = (message["content"] for message in server.bodies[1]["messages"][-2:])
        code = json.loads(answer)["messages"][1]["content"][1]["text"]
        assert f"{code} returns {eval(code)}" in correction
        server.always = "format"
        assert generate(server, ("tool_use", "multi_step_tool"), 3)["requests"] == 5
    for row in rows(out):
        outputs = [part["text"] for message in row["messages"] for part in parts(message) if part["type"] == "output"]
        assert outputs and "wrong" not in outputs and outputs == [text.strip() for text in outputs]


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("prose", "no complete JSON in the answer"),
        ("cut", "no complete JSON in the answer"),
        ("cut silently", "no complete JSON in the answer"),
        ("narrator", "wrong shape"),
        ("wrong output", "an output that the tool does not give"),
        ("failing call", "a call fails"),
        ("other bot", "another bot's name or maker"),
    ],
)
def test_a_faulty_answer_is_requested_again_and_at_last_dropped_with_its_reason(
    generate: Generate, out: Path, monkeypatch: pytest.MonkeyPatch, fault: str, why: str
) -> None:
    monkeypatch.setattr(endpoint, "MAX_DROPPED", 1)
    with Server() as server:
        server.always = fault
        with pytest.raises(UserError, match=f"1 conversations in a row were dropped, the last one: {why}"):
            generate(server, ("tool_use" if fault == "wrong output" else "identity",), 1)
    assert len(server.bodies) == endpoint.ASKS and not out.exists()


def test_a_kind_of_which_most_are_dropped_stays_incomplete(
    generate: Generate, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "MAX_DROPPED", 99)
    monkeypatch.setattr(endpoint, "ASKS", 1)
    with Server([""]) as server:
        server.faults.extend(["prose"] * 99)
        made = generate(server, count=2, concurrency=1)
    assert (made["kept"], made["stopped"]) == ({"identity": 1}, "too many dropped")
    assert made["dropped"] == {"no complete JSON in the answer": made["requests"] - 1}
    assert len(rows(out)) == 1


def test_near_duplicates_also_of_existing_rows_are_dropped(generate: Generate, out: Path) -> None:
    twin = {"messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Well, an old answer."}]}
    out.write_text(json.dumps(twin) + "\n" + json.dumps(twin["messages"]) + "\n")
    with Server(["duplicate"] * 3) as server:
        assert generate(server, ("no_tool",), concurrency=1)["dropped"] == {"a near duplicate": 2}
        server.faults.extend(["duplicate"])
        assert generate(server, ("no_tool",), 4, concurrency=1)["dropped"] == {"a near duplicate": 1}
    assert rows(out)[0] == twin  # rows of other origin stay, equal ones too
    assert len(rows(out)) == 2 + 4


def test_a_failed_merge_leaves_the_file_unchanged(
    generate: Generate, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server() as server:
        generate(server, count=2)
        before = out.read_bytes()
        with monkeypatch.context() as broken:
            replace = Path.replace

            def full(self: Path, target: Path) -> Path:
                if target == out:
                    raise OSError(28, "No space left on device")
                return replace(self, target)

            broken.setattr(Path, "replace", full)
            with pytest.raises(UserError, match="disk is full"):
                generate(server, count=4)
        assert out.read_bytes() == before
        assert generate(server, count=4)["requests"] == 0
    assert len(rows(out)) == 4


def test_the_key_is_nowhere(generate: Generate, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Server(["500"], key=KEY) as server:
        generate(server)
        server.key = "another"
        with pytest.raises(UserError, match=r"401 .*Incorrect API key provided: \*\*\*") as error:
            generate(server, count=9)
    assert "the API key" in error.value.remedy
    shown = capfd.readouterr()
    assert KEY not in shown.out + shown.err + str(error.value)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


def test_it_stops_at_once_without_access(generate: Generate) -> None:
    with Server() as server, pytest.raises(UserError, match="404"):
        generate(server, path="/elsewhere", count=50)
    assert len(server.bodies) <= 4


def test_it_stops_when_the_endpoint_is_down_and_resumes_later(
    generate: Generate, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "MAX_DROPPED", 2)
    with Server(["", "", "", *["503"] * 300]) as server:
        with pytest.raises(UserError, match=r"2 conversations in a row were dropped, the last one: no answer after 6"):
            generate(server, count=20, concurrency=1)
        assert len(server.bodies) == 3 + 2 * client.TRIES
        server.faults.clear()
        assert generate(server, count=20)["new"] == 17
    assert len(rows(out)) == 20


def test_an_unreachable_endpoint_is_an_error(generate: Generate) -> None:
    with Server() as server:
        pass
    with pytest.raises(UserError, match=r"no connection \(6 tries\)"):
        generate(server)


def test_a_retry_waits_as_long_as_the_endpoint_asks(generate: Generate) -> None:
    with Server(["429"]) as server:
        server.retry_after = "0.4"
        assert generate(server, count=4, concurrency=1)["kept"] == {"identity": 4}
    assert server.arrived[1] - server.arrived[0] >= 0.4


@pytest.mark.parametrize(("forms", "refused"), [(("json_object", "none"), 4), (("none",), 5)])
def test_an_endpoint_without_schemas_is_asked_more_simply_and_that_is_remembered(
    generate: Generate, forms: tuple[str, ...], refused: int
) -> None:
    with Server() as server:
        server.forms = forms
        server.limit_keys = ("max_completion_tokens",)
        assert generate(server, count=8, concurrency=1)["kept"] == {"identity": 8}
    assert len(server.bodies) == 8 + refused
    assert {body.get("response_format", {}).get("type", "none") for body in server.bodies[-8:]} == {forms[0]}


def test_a_refused_request_costs_only_its_conversation(generate: Generate) -> None:
    with Server(["", "400"]) as server:
        made = generate(server, count=4, concurrency=1)
    assert made["dropped"] == {"the endpoint refuses the request (400)": 1}
    assert made["kept"] == {"identity": 4}
    assert all(body["response_format"]["type"] == "json_schema" for body in server.bodies)


def test_conversations_of_two_bots_are_not_mixed(generate: Generate) -> None:
    with Server() as server:
        generate(server)
        with pytest.raises(UserError, match=r"another \[identity\]"):
            generate(server, who=Identity(name="Robi"))


@pytest.mark.parametrize(("base_url", "key"), [("localhost", ""), ("https://", ""), ("http://127.0.0.1", "sk-ключ")])
def test_an_invalid_address_or_key_is_an_error(base_url: str, key: str) -> None:
    with pytest.raises(UserError) as error:
        client.Client(base_url, "m", key, 1.0, (0.0, 0.0), 1)
    assert error.value.remedy


def test_the_command_takes_the_key_from_the_environment(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANBOT_API_KEY", KEY)
    with Server(key=KEY) as server:
        asked: dict[str, Any] = {"base_url": server.url, "model": "m", "price_in": 0.0, "price_out": 0.0}
        commands.generate("demo", out=out, count=2, kinds="no_tool, tool_use", **asked)
        for changes in (
            {"kinds": "small_talk"},
            {"kinds": ","},
            {"max_cost": float("nan")},
            {"concurrency": 0},
            {"model": ""},
        ):
            before = len(server.bodies)
            with pytest.raises((UserError, UsageError)) as error:
                commands.generate("demo", out=out, count=3, **asked | changes)
            assert error.value.remedy and len(server.bodies) == before
    assert "rows: 4" in capsys.readouterr().out and len(rows(out)) == 4
