"""MCP servers: their tools are the agent's, what goes wrong is a line, and nothing of them is left behind."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from shutil import which

import pytest

pytest.importorskip("mcp", reason="the extra `agent` is not installed")

import mcp_stand_in
from local_site import Site

import lanbot
from lanbot.config.agent import McpServer
from lanbot.core.errors import UserError
from lanbot.tools import mcp_servers
from lanbot.tools.mcp_servers import McpServers
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset

STAND_IN = str(Path(mcp_stand_in.__file__))
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is read")


def stand_in(*how: str, name: str = "test", **keys: object) -> McpServer:
    return McpServer(name=name, command=(sys.executable, "-I", "-S", STAND_IN, *how), **keys)  # type: ignore[arg-type]


def parents() -> dict[int, int]:
    found = {}
    for entry in os.listdir("/proc"):
        try:
            found[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    return found


def held() -> tuple[list[int], int, set[str]]:
    """The children of this process, zombies among them; its descriptors; its threads."""
    children = sorted(pid for pid, parent in parents().items() if parent == os.getpid())
    return children, len(os.listdir("/proc/self/fd")), {thread.name for thread in threading.enumerate()}


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After the test there are as many processes, descriptors and threads as before."""
    from mcp.client import stdio

    monkeypatch.setattr(stdio, "PROCESS_TERMINATION_TIMEOUT", 0.3)
    monkeypatch.setattr(stdio, "FORCE_KILL_TIMEOUT", 0.1)
    gc.collect()  # what other tests have left open
    before = held()

    def left() -> bool:  # more than before: threads of other tests may end meanwhile
        (processes, files, threads), (old, most, others) = held(), before
        return not set(processes) <= set(old) or files > most or not threads <= others

    yield
    for _ in range(100):  # threads that have just ended; those of other tests may open files meanwhile
        if not left():
            return
        time.sleep(0.05)
    pytest.fail(f"{before} before, {held()} after")


@pytest.fixture(scope="module")
def servers() -> Iterator[McpServers]:
    with McpServers([stand_in()]) as made:
        yield made


@pytest.fixture(scope="module")
def calls(servers: McpServers) -> PythonCalls:
    return PythonCalls(Toolset(servers.tools))


# -- calls ---------------------------------------------------------------------------------------------------


def test_all_tools_of_a_server_are_tools(servers: McpServers) -> None:
    tools = Toolset(servers.tools)
    assert list(tools) == [f"test_{name.replace('-', '_')}" for name in mcp_stand_in.TOOLS]
    add = tools["test_add"]
    assert (add.description, add.kind, add.schema["required"]) == ("Does add.", "execute", ["a", "b"])
    assert add.declaration["function"]["parameters"]["properties"]["a"]["type"] == "integer"


def test_names_are_those_of_functions() -> None:
    assert mcp_servers.tool_name("git", "git_status") == "git_status"
    assert mcp_servers.tool_name("time", "get-current.time") == "time_get_current_time"


def test_results_are_text(calls: PythonCalls) -> None:
    assert calls("test_add(2, b=3)") == calls("test_add(a=1, b=4)") == "5"
    assert calls("test_parts()") == "one\n[image image/png]\na: file:///a.txt\nof b"
    assert calls("test_data()") == '{"tea": 3}'
    assert calls("test_odd()").startswith("␛[2Jword word")
    assert calls("test_secret()") == "done"


def test_errors_are_errors_of_the_tool(calls: PythonCalls) -> None:
    assert calls("test_fail()") == "error: there is\nno such city"
    assert calls("test_add(1)") == "error: test_add() missing 1 required positional argument: 'b'"
    broken = calls("test_broken()")
    assert broken.startswith("error: the MCP server test: ") and "\n" not in broken
    assert calls("test_add(2, 3)") == "5"


def test_a_program_sees_only_the_variables_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_KEY", "k3y")
    with McpServers([stand_in(env=("SHOP_KEY",)), stand_in(name="other")]) as servers:
        calls = PythonCalls(Toolset(servers.tools))
        assert calls("test_environment_of('SHOP_KEY')") == "k3y"
        assert calls("other_environment_of('SHOP_KEY')") == "nothing"
        assert calls("test_environment_of('PATH')") == os.environ["PATH"]


@linux
@pytest.mark.usefixtures("nothing_left")
def test_a_call_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_servers, "CALL_SECONDS", 0.3)
    with McpServers([stand_in()]) as servers:
        calls = PythonCalls(Toolset(servers.tools))
        assert calls("test_slow()") == "error: the MCP server test did not answer for 0.3 seconds"
        assert calls("test_add(1, 1)") == "error: the MCP server test did not answer for 0.3 seconds"  # still busy


# -- what is left --------------------------------------------------------------------------------------------


@linux
@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("how", [(), ("stubborn",), ("noisy",)], ids=str)
def test_closing_leaves_nothing(how: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    servers = McpServers([stand_in(*how)])
    assert len(held()[0]) >= 1
    assert PythonCalls(Toolset(servers.tools))("test_add(1, 1)") == "2"
    servers.close()
    servers.close()
    assert PythonCalls(Toolset(servers.tools))("test_add(1, 1)") == "error: the MCP server test is closed"
    assert capfd.readouterr().err == ""


@linux
@pytest.mark.usefixtures("nothing_left")
def test_a_server_that_crashes_is_a_line() -> None:
    with McpServers([stand_in(), stand_in(name="other")]) as servers:
        calls = PythonCalls(Toolset(servers.tools))
        said = "error: the MCP server test has ended (out of ␛[31mluck)"
        assert calls("test_crash()") == said
        assert calls("test_add(1, 1)") == said
        assert calls("other_add(1, 1)") == "2"


@linux
@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("server", "why"),
    [
        (McpServer(name="test", command=("no-such-command",)), "no command no-such-command"),
        (stand_in("gone"), r"did not start: .*\(no ␛\[31mtoken\)"),
        (stand_in("mute"), "did not start: nothing for 1 seconds"),
        (stand_in("mute", "stubborn"), "did not start: nothing for 1 seconds"),
        (stand_in(env=("NOT_SET",)), "NOT_SET is not set"),
        (McpServer(name="test", url="http://127.0.0.1:9/mcp"), "did not start: "),
        (stand_in(name="first"), "two tools are called first_add"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_server_that_does_not_start_is_two_lines(
    server: McpServer, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_servers, "START_SECONDS", 1.0)
    with pytest.raises(UserError, match=why) as raised:
        McpServers([stand_in(name="first"), server])
    assert "\n" not in raised.value.problem and raised.value.remedy


HOST = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
sys.path.insert(0, sys.argv[2])
from lanbot.config.agent import McpServer
from lanbot.tools.mcp_servers import McpServers
servers = McpServers([McpServer(name="test", command=(sys.executable, "-I", "-S", sys.argv[1], "stubborn"))])
print("ready", flush=True)
servers.tools[2].run()
"""


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_nothing_is_left_of_a_host_that_is_stopped_during_a_call(number: signal.Signals) -> None:
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, STAND_IN, str(Path(lanbot.__file__).parents[1])],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert host.stdout and host.stdout.readline() == b"ready\n"
    (server,) = [pid for pid, parent in parents().items() if parent == host.pid]
    time.sleep(0.2)  # the call has begun
    host.send_signal(number)
    assert host.wait() != 0
    while server in parents():  # a test that hangs here has failed
        time.sleep(0.02)
    host.stdout.close()


# -- other servers -------------------------------------------------------------------------------------------


@linux
@pytest.mark.usefixtures("nothing_left")
def test_a_server_by_http(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(handler: BaseHTTPRequestHandler) -> None:
        message = json.loads(site.asked[-1].body or b"{}")
        said = mcp_stand_in.answer(message) if message else None
        data = json.dumps(said).encode() if said else b""
        handler.send_response(200 if said else 202 if message else 405)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    site.answers["/mcp"] = handle
    monkeypatch.setenv("SHOP_KEY", "k3y")
    with McpServers([McpServer(name="web", url=site.url + "/mcp", key="SHOP_KEY")]) as servers:
        tools = Toolset(servers.tools)
        calls = PythonCalls(tools)
        assert calls("web_add(2, 3)") == "5" and tools["web_add"].kind == "network"
        assert calls("web_environment_of('SHOP_KEY')") == "[hidden]"  # sent back by the server
    assert {asked.headers["authorization"] for asked in site.asked} == {"Bearer k3y"}


@linux
@pytest.mark.usefixtures("nothing_left")
def test_a_server_from_pypi_end_to_end() -> None:
    command = which("mcp-server-time", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if command is None:
        pytest.skip("mcp-server-time is not installed (the extra `dev`)")
    with McpServers([McpServer(name="time", command=(command, "--local-timezone", "Europe/Rome"))]) as servers:
        calls = PythonCalls(Toolset(servers.tools))
        assert '"timezone": "Asia/Tokyo"' in calls('time_get_current_time("Asia/Tokyo")')
        noon = calls('time_convert_time("Asia/Tokyo", "12:00", "Asia/Kolkata")')
        assert "T08:30:00+05:30" in noon and '"time_difference": "-3.5h"' in noon
        assert calls('time_get_current_time("Mars")').startswith("error: ")
