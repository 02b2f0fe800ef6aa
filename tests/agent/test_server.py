"""The agent as an MCP server, driven by the SDK's client."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the extra `agent` is not installed")

from lanbot.config.recipe_file import load
from lanbot.config.run import Run

PROGRAM = """
import sys, os, time
sys.path[:0] = sys.argv[1:3]
from scripted_client import Scripted, calling, said
from lanbot.agent import session
from lanbot.agent.model import Reply

class Model(Scripted):
    def stream(self, messages, *given):
        from lanbot.chat.formats.base import Event
        print("a stray line on stdout", flush=True)
        os.write(1, b"and another\\n")
        while "for ever" in str(messages[-1]["content"]):
            time.sleep(0.01)
            yield Event("piece", "text", "")
        return (yield from super().stream(messages, *given))

first = [calling("2+3"), said("It is 5.")]
model = Model(*first, said("You asked for 2+3."), calling('write_file("a", "b")'), said("No."))
session.open_model = lambda run, phase: model
from lanbot.cli import main
main(["agent", "demo", "--mcp", "--ask", "write_file"])
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from mcp import StdioServerParameters

    monkeypatch.setenv("LANBOT_RUNS", str(tmp_path / "runs"))
    run = Run.create(load("smoke", {"name": "demo"}))
    run.phase("sft").mkdir()
    (run.phase("sft") / "evals.json").write_text('{"checkpoint": "step_000007"}')
    tests, package = Path(__file__).parents[1], Path(__file__).parents[2]
    env = {"LANBOT_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}
    arguments = ["-c", PROGRAM, str(tests), str(package)]
    return StdioServerParameters(command=sys.executable, args=arguments, env=env, cwd=str(tmp_path))


def children() -> set[int]:
    found = set()
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        try:
            parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == os.getpid():
            found.add(int(entry))
    return found


def test_a_client_gives_tasks_and_goes_on_with_them(program: Any) -> None:
    from mcp import Client

    told: list[str | None] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append(message)

    async def drive() -> None:
        async with Client(program) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(tools) == {"ask", "sessions"} and "write_file" in (tools["ask"].description or "")
            first = await client.call_tool("ask", {"task": "2+3?"}, progress_callback=progress)
            assert first.structured_content == {"answer": "It is 5.", "session": 1, "problem": ""}
            again = await client.call_tool("ask", {"task": "What did I ask?", "session": 1})
            assert again.structured_content == {"answer": "You asked for 2+3.", "session": 1, "problem": ""}
            refused = await client.call_tool("ask", {"task": "Write."}, progress_callback=progress)
            assert (refused.structured_content or {})["answer"] == "No."
            wrong = await client.call_tool("ask", {"task": "?", "session": 77})
            assert wrong.is_error and "77: no such session" in str(wrong.content)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await client.call_tool("ask", {"task": "Think for ever."})
            after = await client.call_tool("ask", {"task": "Are you there?"})
            assert (after.structured_content or {})["answer"] == "ok"
            listed = (await client.call_tool("sessions", {})).structured_content or {}
            assert [one["title"] for one in listed["result"]][:2] == ["2+3?", "Write."]
            assert listed["result"][2]["state"] == "interruption"

    before = children()
    asyncio.run(drive())
    assert told[:2] == [">>> 2+3", "5"] and "nobody can be asked" in (told[3] or "")
    assert children() == before


def test_a_task_that_is_cancelled_while_it_waits_is_not_begun_and_the_one_at_work_goes_on(program: Any) -> None:
    from mcp import Client

    async def drive() -> None:
        async with Client(program) as client:

            async def states() -> dict[str, str]:
                listed = (await client.call_tool("sessions", {})).structured_content or {}
                return {one["title"]: one["state"] for one in listed["result"]}

            first = asyncio.create_task(client.call_tool("ask", {"task": "Think for ever."}))
            while not await states():
                await asyncio.sleep(0.05)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await client.call_tool("ask", {"task": "Wait."})
            await asyncio.sleep(0.3)
            assert await states() == {"Think for ever.": "running"}
            first.cancel()
            after = await client.call_tool("ask", {"task": "2+3?"})
            assert (after.structured_content or {})["answer"] == "It is 5."
            assert await states() == {"Think for ever.": "interruption", "2+3?": "answered"}
            assert (await client.call_tool("ask", {"task": " "})).is_error

    asyncio.run(drive())


def test_what_is_no_message_does_not_reach_the_client_and_the_server_ends_with_its_input(program: Any) -> None:
    import subprocess

    ask = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "ask", "arguments": {"task": "2+3?"}}}
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    process = subprocess.Popen(
        [program.command, *program.args],
        env={**os.environ, **program.env},
        cwd=program.cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    lines = []
    for message in (ask, ready, call):
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        while "id" in message and not (lines and lines[-1].get("id") == message["id"]):
            lines.append(json.loads(process.stdout.readline()))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and not out.strip()
    assert "a stray line" in err and "and another" in err
