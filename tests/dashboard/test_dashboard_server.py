"""The dashboard over HTTP: who may look, what is refused, and the command."""

import hashlib
import os
import re
import signal
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import httpx2
import pytest
from made_runs import Made, line

from lanbot.dashboard.app import FILES
from lanbot.web.security import Access

EVIL = '<img src=x onerror="window.hacked=1">'


def test_a_key_opens_everything_and_nothing_is_open_without_it(made: Made, serve) -> None:
    made.run()
    url = serve(access=Access(("the-key",)))
    for path in (
        "/",
        "/api/runs",
        "/api/run?run=one",
        "/api/curves?run=one&phase=base",
        "/assets/x/app.js",
        "/nothing",
    ):
        answer = httpx2.get(url + path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"].startswith("Basic")  # a browser asks its user, and keeps the answer
        assert "one" not in answer.text.replace("none", "")
    assert httpx2.get(f"{url}/health").status_code == 200
    assert httpx2.get(f"{url}/api/runs", auth=("", "the-key")).json()["runs"][0]["name"] == "one"
    assert httpx2.get(f"{url}/api/runs", headers={"Authorization": "Bearer the-key"}).status_code == 200


def test_without_a_key_only_this_machines_names_are_answered(made: Made, serve) -> None:
    made.run()
    url = serve()
    for host in ("evil.example", "127.0.0.1.evil.example"):
        assert httpx2.get(f"{url}/api/runs", headers={"Host": host}).status_code == 403
    assert httpx2.get(f"{url}/api/runs", headers={"Host": "localhost:1"}).status_code == 200


def test_what_is_not_there_or_no_number_is_refused(made: Made, serve) -> None:
    made.run()
    url = serve()
    wanted = {
        "api/curves?run=one&phase=base": 200,
        "api/curves?run=one&phase=base&clock=tokens&points=1e9&from=-5&to=-9": 200,
        "api/curves?run=two&phase=base": 404,
        "api/curves?run=one&phase=../..": 404,
        "api/curves?run=%2Fetc&phase=base": 404,
        "api/curves": 404,
        "api/curves?run=one&phase=base&clock=moon": 400,
        "api/curves?run=one&phase=base&points=nan": 400,
        "api/curves?run=one&phase=base&from=x": 400,
        "api/run?run=two": 404,
        "api/rollouts?run=one&phase=rl": 200,
        "api/rollouts?run=one&phase=..": 404,
        "assets/../app.py": 404,
        "recipe.toml": 404,
    }
    assert {path: httpx2.get(f"{url}/{path}").status_code for path in wanted} == wanted
    for method in ("POST", "PUT", "DELETE"):
        assert httpx2.request(method, f"{url}/api/runs").status_code == 405


def test_what_has_not_changed_is_not_sent_again(made: Made, serve) -> None:
    made.run()
    made.lines("one", "base", [line(i) for i in range(1, 200)])
    url = f"{serve()}/api/curves?run=one&phase=base&clock=step"
    first = httpx2.get(url)
    assert first.headers["content-encoding"] == "gzip"
    assert len(first.json()["curves"]["loss"]["x"]) == 199
    again = httpx2.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    made.lines("one", "base", [line(200)])
    more = httpx2.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert more.status_code == 200 and len(more.json()["curves"]["loss"]["x"]) == 200


def test_the_page_has_its_styles_and_loads_the_rest(made: Made, serve) -> None:
    url = serve()
    page = httpx2.get(url)
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'self'" in policy
    styles = re.findall(r"<style>(.*?)</style>", page.text, re.DOTALL)
    assert styles[0] == FILES[0].read_text(encoding="utf-8")  # the report's
    hashes = [b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in styles]
    assert re.findall(r"style-src ([^;]*)", policy) == [" ".join(["'self'", *(f"'sha256-{one}'" for one in hashes)])]
    assert not re.search(r"<script>|\sstyle=|\son\w+=|https?://", page.text)
    scripts = {}
    for path in re.findall(r'(?:src|href)="(assets/[^"]+)"', page.text):
        answer = httpx2.get(f"{url}/{path}")
        assert answer.status_code == 200, path
        scripts[path.rpartition("/")[2]] = answer.text
    assert scripts.pop("icon.svg")
    imported = {name for text in scripts.values() for name in re.findall(r'from "\./([\w.]+)"', text)}
    assert imported | {"app.js"} == set(scripts)


@pytest.fixture
def process(made: Made):
    def start(*arguments: str, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "lanbot", "dashboard", *arguments]
        given = {**os.environ, "LANBOT_RUNS": str(made.root), **env}
        started.append(subprocess.Popen(command, env=given, stderr=subprocess.PIPE, text=True))
        return started[-1]

    started: list[subprocess.Popen[str]] = []
    yield start
    for one in started:
        one.kill()
        one.wait()


def test_the_command_serves_the_runs_folder_until_it_is_stopped(made: Made, process) -> None:
    made.run(EVIL.replace("/", ""))
    one = process("--port", "0", LANBOT_API_KEY="the-key")
    said = one.stderr.readline()
    found = re.fullmatch(r"the runs of .*/runs/ at (http://127\.0\.0\.1:\d+) \(with key\)\n", said)
    assert found, said
    assert httpx2.get(f"{found[1]}/api/runs").status_code == 401
    rows = httpx2.get(f"{found[1]}/api/runs", headers={"x-api-key": "the-key"}).json()["runs"]
    assert [row["name"] for row in rows] == [EVIL]
    loaded = Path(f"/proc/{one.pid}/maps")
    if loaded.exists():
        assert "libtorch" not in loaded.read_text()  # a page of figures starts at once
    one.send_signal(signal.SIGTERM)
    assert one.wait(timeout=30) == 143
    assert "Traceback" not in one.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["nothing"], 1, "lanbot: nothing: no such run in "),
        (
            ["--host", "0.0.0.0", "--port", "0"],
            2,
            "lanbot: --host 0.0.0.0: others reach this address, and there is no key",
        ),
        (["--api-key-file", "no-such-file"], 1, "lanbot: --api-key-file no-such-file: cannot be read"),
        (["--host", "192.0.2.1", "--api-key-env", "OTHER", "--port", "0"], 1, "lanbot: 192.0.2.1:0: "),
    ],
)
def test_what_is_wrong_is_said_in_two_lines(process, arguments: list[str], code: int, problem: str) -> None:
    one = process(*arguments, OTHER="the-key")
    assert one.wait(timeout=30) == code
    lines = one.stderr.read().splitlines()
    assert len(lines) == 2 and lines[0].startswith(problem), lines
