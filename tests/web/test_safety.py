"""Keys, origins, logs, and clients that mean harm, with raw sockets."""

import resource
import socket
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx2
import pytest

from lanbot.web import connection, security
from lanbot.web.security import MAX_BODY, Access

ROUTES = (
    *(("GET", path) for path in ("/metrics", "/openapi.json", "/v1/models", "/v1/models/tiny", "/nowhere")),
    *(("POST", f"/v1/{path}") for path in ("chat/completions", "completions", "responses", "messages")),
)
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "a secret question"}], "max_tokens": 4}


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def raw(url: str, sent: bytes, seconds: float = 20.0) -> bytes:
    """What the server says until it closes the connection."""
    with socket.create_connection(address(url), timeout=seconds) as one:
        one.sendall(sent)
        return rest(one)


def rest(one: socket.socket) -> bytes:
    heard = b""
    while True:
        try:
            chunk = one.recv(65_536)
        except ConnectionResetError:
            return heard
        if not chunk:
            return heard
        heard += chunk


def post(url: str, body: bytes, **headers: str) -> httpx2.Response:
    sent = {"content-type": "application/json", **headers}
    return httpx2.post(f"{url}/v1/chat/completions", content=body, headers=sent, timeout=60)


def healthy(url: str) -> bool:
    return httpx2.get(f"{url}/health", timeout=20).status_code == 200


def test_every_route_but_health_asks_for_the_key(make_engine, serve) -> None:
    url = serve(make_engine(), Access(("right", "also")))
    assert httpx2.get(f"{url}/health").status_code == 200
    basic = b64encode(b"me:right").decode()
    for method, path in ROUTES:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"x-api-key": "righ"}, {"Authorization": "Basic x"}):
            assert httpx2.request(method, url + path, headers=headers).status_code == 401, path
        for headers in (
            {"Authorization": "Bearer right"},
            {"x-api-key": "also"},
            {"Authorization": f"Basic {basic}"},
        ):
            assert httpx2.request(method, url + path, headers=headers).status_code != 401, path


def test_without_a_key_only_this_machines_names_are_answered(make_engine, serve) -> None:
    """A page elsewhere whose name was pointed to 127.0.0.1 reads nothing."""
    url = serve(make_engine())
    assert httpx2.get(f"{url}/v1/models", headers={"Host": "evil.example:8000"}).status_code == 403
    for host in ("localhost:8000", "127.0.0.1", "[::1]:80"):
        assert httpx2.get(f"{url}/v1/models", headers={"Host": host}).status_code == 200


def test_a_page_of_another_origin_cannot_ask(make_engine, serve) -> None:
    url = serve(make_engine(), Access(origins=("https://chat.example",)))
    simple = {"content-type": "text/plain", "origin": "https://evil.example"}
    assert httpx2.post(f"{url}/v1/chat/completions", content=b"{}", headers=simple).status_code == 415

    def allowed(origin: str) -> str | None:
        asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answer = httpx2.options(f"{url}/v1/chat/completions", headers=asks)
        return answer.headers.get("access-control-allow-origin")

    assert allowed("https://evil.example") is None
    assert allowed("https://chat.example") == "https://chat.example"


def test_answers_have_safe_headers(make_engine, serve) -> None:
    headers = httpx2.get(f"{serve(make_engine())}/v1/models").headers
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_the_log_has_no_question_key_or_query(make_engine, serve, capfd: pytest.CaptureFixture[str]) -> None:
    engine = make_engine()
    url = serve(engine, Access(("the-key",)), log=True)
    headers = {"Authorization": "Bearer the-key"}
    assert httpx2.post(f"{url}/v1/chat/completions?q=a-query", json=ASKED, headers=headers).status_code == 200
    engine.step = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    assert httpx2.post(f"{url}/v1/chat/completions", json=ASKED, headers=headers).status_code == 500
    httpx2.get(f"{url}/%0aforged%1b[31m", headers=headers)
    log = "".join(capfd.readouterr())
    assert "POST /v1/chat/completions 200" in log and "POST /v1/chat/completions 500" in log
    assert not any(word in log for word in ("secret", "the-key", "a-query", "\nforged", "\x1b"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing",
        b"[]",
        b"null",
        b'{"model": "\xff\xfe", "messages": []}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\xc3"}]}',
        b'{"model": "tiny", "messages": ' + b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "seed": 1e999}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": -1}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "seed": 1' + b"0" * 5_000 + b"}",
    ],
    ids=range(13),
)
def test_a_body_that_is_none_is_refused(make_engine, serve, body: bytes) -> None:
    url = serve(make_engine())
    answer = post(url, body)
    assert answer.status_code == 400 and answer.json()["error"]["message"]
    assert healthy(url)


def test_text_of_any_kind_is_answered(make_engine, serve) -> None:
    url = serve(make_engine())
    for text in ("\x00", "<|assistant_end|><|bos|>", "\u202e\ufeff\u200b", "🏳️‍🌈" * 5, "a\r\n\x1b[31m"):
        body: Any = {**ASKED, "messages": [{"role": "user", "content": text}]}
        assert httpx2.post(f"{url}/v1/chat/completions", json=body).status_code == 200


def test_a_huge_body_is_refused_before_it_is_read(make_engine, serve) -> None:
    url = serve(make_engine())
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    heard = raw(url, f"{head}Content-Length: 100000000\r\n\r\n".encode() + b"x" * 10)
    assert heard.startswith(b"HTTP/1.1 413") and healthy(url)


def test_a_huge_body_without_a_length_is_cut_off(make_engine, serve) -> None:
    url = serve(make_engine())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    head = "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    piece = b"%x\r\n" % (1 << 16) + b"x" * (1 << 16) + b"\r\n"
    sent = 0
    with socket.create_connection(address(url), timeout=20) as one:
        one.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        try:
            while sent < 100 << 20:
                one.sendall(piece)
                sent += len(piece)
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert sent < 50 << 20, "the server took ten times what it takes"
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < 20 * MAX_BODY
    assert healthy(url)


def test_slow_heads_and_bodies_are_cut_off(make_engine, serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.4)
    monkeypatch.setattr(security, "BODY_SECONDS", 0.4)
    url = serve(make_engine())
    assert raw(url, b"") == b"", "nothing was sent: closed"
    assert raw(url, b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc") == b""
    with socket.create_connection(address(url), timeout=20) as one:
        one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):  # noqa: PT012  (a byte at a time)
            for _ in range(100):
                one.sendall(b"X")
                time.sleep(0.05)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    assert raw(url, head + b"Content-Length: 50\r\n\r\n{").startswith(b"HTTP/1.1 408")
    assert healthy(url)


def test_the_second_request_of_a_connection_is_as_bounded(make_engine, serve, monkeypatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.4)
    url = serve(make_engine())
    with socket.create_connection(address(url), timeout=20) as one:
        one.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        heard = b""
        while not heard.endswith(b"}"):
            heard += one.recv(65_536)
        one.sendall(b"GET /health HT")
        assert rest(one) == b""


def test_a_client_that_reads_nothing_does_not_hold_up_others(make_engine, serve) -> None:
    engine = make_engine({"flood": ["x" * 3_000]}, context=4_096)
    url = serve(engine)
    body = b'{"model":"tiny","n":8,"stream":true,"messages":[{"role":"user","content":"flood"}]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\n\r\n"
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        one.connect(address(url))
        one.sendall(head.encode() + body)
        assert httpx2.post(f"{url}/v1/chat/completions", json=ASKED, timeout=60).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\nConnection: close\r\n\r\n",
        b"\x00" * 100 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000,
        b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: \xff\xfe\r\nConnection: close\r\n\r\n",
    ],
    ids=range(8),
)
def test_what_is_no_http_is_refused(make_engine, serve, sent: bytes) -> None:
    url = serve(make_engine())
    assert raw(url, sent).startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))
    assert healthy(url)


@pytest.mark.parametrize("count", [200, pytest.param(9_000, marks=pytest.mark.slow)])
def test_many_idle_connections_do_not_keep_others_out(make_engine, serve, monkeypatch, count: int) -> None:
    """Beyond the most that it holds, the server closes the oldest; those that say nothing, after a while."""
    monkeypatch.setattr(connection, "MOST", 100 if count == 200 else connection.MOST)
    monkeypatch.setattr(connection, "HEAD_SECONDS", 1.0 if count == 200 else 10.0)
    url = serve(make_engine())
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 2 * count + 500 > soft:
        pytest.skip(f"{soft} open files at most")
    opened = []
    try:
        for i in range(count):
            opened.append(socket.create_connection(address(url), timeout=20))
            if i % 10 == 0:
                opened[-1].sendall(b"GET /health HT")
        assert healthy(url)
        for one in opened:
            assert rest(one) == b""
    finally:
        for one in opened:
            one.close()


def test_a_public_address_without_a_key_is_refused(tmp_path: Path, lanbot) -> None:
    done = lanbot("serve", "anything", "--host", "0.0.0.0", env={"LANBOT_API_KEY": ""})
    assert done.returncode == 2 and "there is no key" in done.stderr
    empty = tmp_path / "keys"
    empty.write_text("\n")
    done = lanbot("serve", "anything", "--host", "0.0.0.0", "--api-key-file", str(empty))
    assert done.returncode == 1 and "no key in it" in done.stderr
