"""Conversations by an endpoint: it comes to an end in spite of all faults, keeps what it has, and never overspends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llm_server
import pytest
from llm_server import Server

from lanbot.chat.messages import parts
from lanbot.config.recipe import Identity
from lanbot.core.errors import UserError
from lanbot.synthetic.identity import client, endpoint
from lanbot.synthetic.identity.kinds import KINDS
from lanbot.synthetic.identity.validate import problems
from lanbot.tasks.registry import make_task

WHO = Identity(name="Juno", creator="Ada Park")
KEY = "sk-not-to-be-seen-4711"
Generate = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "WAIT", 0.002)
    monkeypatch.setattr(client, "TIMEOUT", 0.5)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "juno.jsonl"


@pytest.fixture
def generate(out: Path) -> Generate:
    """generate(server, **changes)"""

    def call(server: Server, **changes: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {"who": WHO, "out": out, "count": 3, "kinds": tuple(KINDS), "api_key": KEY}
        settings |= {"base_url": server.url, "model": "m", "max_cost": 1e9, "price_in": 1.0, "price_out": 4.0}
        return endpoint.generate(**{**settings, "concurrency": 4, "seed": 7, **changes})

    return call


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_finishes_in_spite_of_all_faults(generate: Generate, out: Path) -> None:
    faults = [*llm_server.STATUS_FAULTS[:3], *llm_server.BODY_FAULTS, *llm_server.WRITTEN_FAULTS, *llm_server.MENDED]
    with Server([fault for fault in faults for _ in range(2)], key=KEY) as server:
        made = generate(server)
        assert not server.faults
    assert made["kept"] == dict.fromkeys(KINDS, 3)
    assert made["stopped"] == ""
    assert (made["rows"], made["requests"]) == (18, len(server.bodies))
    merged = rows(out)
    assert len({row["id"] for row in merged}) == 18
    for row in merged:
        assert problems(row, WHO, row["kind"]) == []  # type: ignore[arg-type]
        assert "usage" not in row
    for kind in KINDS:
        assert [row["id"] for row in rows(out.with_suffix("") / f"{kind}.jsonl")] == [
            row["id"] for row in merged if row["kind"] == kind
        ]
    assert len(make_task(f"jsonl:{out}", "train")) == 18


def test_a_resumed_run_asks_only_for_what_is_missing(generate: Generate, out: Path) -> None:
    kept = out.with_suffix("") / "no_tool.jsonl"
    with Server() as server:
        generate(server, kinds=("no_tool",), count=6)
        whole = rows(kept)
        out.unlink()
        kept.write_bytes(kept.read_bytes()[:-30])  # killed while it wrote the last line
        before = len(server.bodies)
        assert generate(server, kinds=("no_tool",), count=6)["new"] == 1
        assert len(server.bodies) == before + 1
        assert sorted(row["id"] for row in rows(kept)) == sorted(row["id"] for row in whole)
        assert rows(kept)[:5] == whole[:5]
        assert generate(server, kinds=("no_tool",), count=6)["requests"] == 0
        assert len(server.bodies) == before + 1
        assert len(rows(out)) == 6


def test_what_only_the_merged_file_holds_is_put_back_and_not_asked_for_again(generate: Generate, out: Path) -> None:
    kept = out.with_suffix("") / "identity.jsonl"
    with Server() as server:
        generate(server, kinds=("identity",), count=4)
        whole = sorted(out.read_text().splitlines())
        kept.write_bytes(kept.read_bytes()[:-30])
        assert generate(server, kinds=("identity",), count=4)["requests"] == 0
        assert sorted(out.read_text().splitlines()) == whole
        kept.unlink()
        assert generate(server, kinds=("identity",), count=5)["requests"] == 1
        assert len(rows(kept)) == len(rows(out)) == 5


def test_a_killed_run_loses_nothing_that_was_done(generate: Generate, out: Path) -> None:
    kept = out.with_suffix("") / "identity.jsonl"
    with Server(delay=0.05) as server:
        arguments = f"Identity(name='Juno', creator='Ada Park'), Path({str(out)!r}), 12, ('identity',), {server.url!r}"
        code = (
            "from pathlib import Path\nfrom lanbot.config.recipe import Identity\n"
            "from lanbot.synthetic.identity.endpoint import generate\n"
            f"generate({arguments}, 'm', '', 1e9, 1, 1, 2, 7)"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, env={**os.environ})
        while not (kept.is_file() and kept.read_bytes().count(b"\n") >= 4):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = rows(kept) if kept.read_bytes().endswith(b"\n") else rows(kept)[:-1]
        assert not out.exists()
        made = generate(server, kinds=("identity",), count=12)
    assert made["new"] == 12 - len(done)
    assert rows(kept)[: len(done)] == done
    assert len(rows(out)) == 12


@pytest.mark.parametrize("fault", ["", "no usage", "hang", "cut body", "cut", "500"])
def test_the_budget_is_never_passed(generate: Generate, fault: str) -> None:
    prices = {"price_in": 1_000.0, "price_out": 4_000.0}
    with Server([fault, ""] * 3) as server:
        made = generate(server, max_cost=60.0, count=200, kinds=("tool_use", "no_tool"), **prices)
    assert made["stopped"] == "max_cost"
    assert 0 < server.cost(**prices) <= made["cost"] + 1e-9 <= 60.0 + 2e-9
    assert made["cost"] > 60.0 - 20.0  # it stops only where the next request could pass it: at worst 17 here
    if fault == "":
        assert made["cost"] == pytest.approx(server.cost(**prices))
        assert made["rows"] == len(server.bodies)


def test_the_concurrency_is_bounded(generate: Generate) -> None:
    with Server(delay=0.03) as server:
        generate(server, kinds=("identity",), count=16, concurrency=4)
    assert 2 <= server.most_at_once <= 4


def test_outputs_are_executed_and_not_believed(generate: Generate, out: Path) -> None:
    with Server() as server:
        server.always = "lie"
        generate(server, kinds=("tool_use", "multi_step_tool"))
    for row in rows(out):
        outputs = [part["text"] for message in row["messages"] for part in parts(message) if part["type"] == "output"]
        assert outputs
        assert "wrong" not in outputs
        assert problems(row, WHO, row["kind"]) == []  # type: ignore[arg-type]


def test_words_that_contradict_the_tool_are_asked_for_again_with_its_real_output(
    generate: Generate, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "SPARE", 1)
    with Server(["lying words"]) as server:
        made = generate(server, kinds=("tool_use",), count=1)
        assert made["requests"] == 2
        said = server.bodies[1]["messages"][-1]["content"]
        first = json.loads(server.bodies[1]["messages"][-2]["content"])["messages"][1]["parts"][1]["text"]
        assert f"python: {first}\noutput: {eval(first)}" in said
        server.always = "lying words"
        made = generate(server, kinds=("tool_use",), count=2)
    assert set(made["dropped"]) == {"words contradict the tool"}
    assert made["stopped"] == "too many dropped"
    assert len(rows(out)) == 1


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("prose", "no whole JSON in the answer"),
        ("cut", "its end is missing"),
        ("cut silently", "no whole JSON in the answer"),
        ("narrator", "a role that nobody has"),
        ("failing call", "a call fails"),
        ("other bot", "another bot's name or maker"),
    ],
)
def test_what_is_dropped_is_counted_with_its_reason(
    generate: Generate, monkeypatch: pytest.MonkeyPatch, fault: str, why: str
) -> None:
    monkeypatch.setattr(endpoint, "SPARE", -1)
    with Server() as server:
        server.always = fault
        made = generate(server, kinds=("identity",), count=1)
    assert made["dropped"] == {why: 2}
    assert made["rows"] == 0


def test_duplicates_are_dropped_across_kinds_and_what_is_there_already(generate: Generate, out: Path) -> None:
    twin = {"messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Well, an old answer."}]}
    out.write_text(json.dumps(twin) + "\n" + json.dumps(twin["messages"]) + "\n")
    with Server(["duplicate"] * 3) as server:
        made = generate(server, kinds=("no_tool",), count=3, concurrency=1)
        assert made["dropped"] == {"a near duplicate": 2}
        server.faults.extend(["duplicate"])
        made = generate(server, kinds=("no_tool", "tool_use"), count=4, concurrency=1)
        assert made["dropped"] == {"a near duplicate": 1}
    assert rows(out)[0] == twin  # what was not made here stays
    assert len(rows(out)) == 2 + 8


def test_a_broken_merge_leaves_the_file_as_it_was(
    generate: Generate, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server() as server:
        generate(server, kinds=("identity",), count=2)
        before = out.read_bytes()
        with monkeypatch.context() as broken:
            replace = Path.replace

            def full(self: Path, target: Path) -> Path:
                if target == out:
                    raise OSError(28, "No space left on device")
                return replace(self, target)

            broken.setattr(Path, "replace", full)
            with pytest.raises(UserError, match="disk is full"):
                generate(server, kinds=("identity",), count=4)
        assert out.read_bytes() == before
        assert generate(server, kinds=("identity",), count=4)["requests"] == 0
    assert len(rows(out)) == 4


def test_the_key_is_nowhere(generate: Generate, out: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Server(["500"], key=KEY) as server:
        generate(server, kinds=("identity",))
        server.key = "another"
        with pytest.raises(UserError) as error:
            generate(server, kinds=("identity",), count=9)
    assert "401 (Incorrect API key provided: ***)" in error.value.problem
    assert error.value.remedy == "Check the API key."
    shown = capfd.readouterr()
    assert KEY not in shown.out + shown.err + str(error.value)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


@pytest.mark.parametrize(("path", "status"), [("", "401"), ("/elsewhere", "404")])
def test_it_stops_at_once_where_it_is_not_let_in(generate: Generate, path: str, status: str) -> None:
    with Server(key="another") as server, pytest.raises(UserError, match=status):
        generate(server, base_url=server.url + path, count=50)
    assert len(server.bodies) <= 4


def test_it_stops_when_the_endpoint_is_down_and_goes_on_later(
    generate: Generate, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "DOWN_AFTER", 8)
    with Server([*[""] * 3, *["503"] * 300]) as server:
        with pytest.raises(UserError, match=r"is down: it answers 503 \(not now\); 3 conversations were made and kept"):
            generate(server, kinds=("identity",), count=20, concurrency=1)
        assert len(server.bodies) == 11
        server.faults.clear()
        assert generate(server, kinds=("identity",), count=20)["new"] == 17
    assert len(rows(out)) == 20


def test_nobody_there_is_told(generate: Generate) -> None:
    with Server() as server:
        pass
    with pytest.raises(UserError, match="is down: no connection; 0 conversations"):
        generate(server)


def test_a_model_that_is_no_good_is_not_paid_for_long(generate: Generate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "NO_GOOD", 5)
    with Server() as server:
        server.always = "prose"
        with pytest.raises(UserError, match="5 conversations in a row were dropped"):
            generate(server, count=100, concurrency=1)
    assert len(server.bodies) == 5 * endpoint.ASKS


def test_all_wait_as_long_as_the_endpoint_asks(generate: Generate) -> None:
    with Server(["429"]) as server:
        server.retry_after = "0.4"
        made = generate(server, kinds=("identity",), count=4, concurrency=1)
    assert made["kept"] == {"identity": 4}
    assert server.arrived[1] - server.arrived[0] >= 0.4


@pytest.mark.parametrize("forms", [("json_object", "none"), ("none",)])
def test_an_endpoint_without_schemas_is_asked_more_simply_and_that_is_remembered(
    generate: Generate, forms: tuple[str, ...]
) -> None:
    with Server() as server:
        server.forms = forms
        server.limit_keys = ("max_completion_tokens",)
        made = generate(server, kinds=("identity",), count=8, concurrency=1)
    assert made["kept"] == {"identity": 8}
    assert len(server.bodies) == 8 + (3 - len(forms)) + 1
    assert {body.get("response_format", {}).get("type", "none") for body in server.bodies[-8:]} == {forms[0]}


def test_one_refused_request_costs_one_conversation_only(generate: Generate) -> None:
    with Server(["", "400"]) as server:
        made = generate(server, kinds=("identity",), count=4, concurrency=1)
    assert made["dropped"] == {"the endpoint refuses (400)": 1}
    assert made["kept"] == {"identity": 4}
    assert all(body["response_format"]["type"] == "json_schema" for body in server.bodies)


def test_what_was_made_for_another_bot_is_not_mixed_in(generate: Generate) -> None:
    with Server() as server:
        generate(server, kinds=("identity",))
        with pytest.raises(UserError, match="another"):
            generate(server, kinds=("identity",), who=Identity(name="Robi"))


@pytest.mark.parametrize(
    "changes",
    [
        {"kinds": ("small_talk",)},
        {"out": Path("juno.txt")},
        {"count": 0},
        {"max_cost": float("nan")},
        {"base_url": "localhost"},
        {"api_key": "sk-ключ"},
    ],
)
def test_wrong_settings_are_told_before_anything_is_asked(generate: Generate, changes: dict[str, Any]) -> None:
    with Server() as server:
        with pytest.raises(UserError) as error:
            generate(server, **changes)
        assert error.value.remedy
        assert not server.bodies
