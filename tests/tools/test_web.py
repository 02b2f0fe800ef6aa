"""What a model may reach: public hosts only, whatever the address looks like, and never more than the bounds."""

import gzip
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which

import pytest
from local_site import Site

from lanbot.tools.tool import ToolError
from lanbot.tools.web import MAX_BYTES, Web, checked_url, is_public

# -- which hosts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.0.192", "198.18.0.1", "100.100.100.200"),
        "168.63.129.16",  # the metadata of Azure
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001:0:7f00:1::1", "", "example.com"),
    ],
)
def test_addresses_that_are_not_the_internets(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.0.0.1."),
        *("localhost", "LOCALHOST", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]", "0.0.0.0", "0"),
    ],
)
def test_this_machine_is_reached_by_none_of_its_names(host: str, site: Site) -> None:
    site.answers["/"] = b"secret"
    with pytest.raises(ToolError, match=r"not on the public internet|there is no host|not an address"):
        Web().get(f"http://{host}:{site.port}/")
    assert site.asked == []


def test_nor_by_an_address_of_its_own_that_is_public(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lanbot.tools.web.is_public", lambda address: True)
    with pytest.raises(ToolError, match="not on the public internet"):
        Web().get(site.url)
    assert site.asked == []


def answers_of(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[tuple[str, int]]:
    """A resolver that gives these answers, one a time, and the connections that are tried instead of being made."""
    left, tried = list(answers), []

    def resolved(host: str, port: int, *given: object, **named: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in left.pop(0)]

    def connect(address: tuple[str, int], *given: object, **named: object) -> socket.socket:
        tried.append(address)
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(socket, "create_connection", connect)
    return tried


def test_a_name_that_changes_its_meaning_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = answers_of(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    with pytest.raises(ToolError, match="cannot be read"):
        Web().get("http://rebinding.example/")
    assert tried == [("93.184.216.34", 80)]


def test_a_name_with_one_address_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = answers_of(monkeypatch, ["93.184.216.34", "10.0.0.5"])
    with pytest.raises(ToolError, match=r"two.example is not on the public internet \(10.0.0.5\)"):
        Web().get("http://two.example/")
    assert tried == []


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("file:///etc/passwd", "only addresses that start with"),
        ("ftp://example.com/x", "only addresses that start with"),
        ("gopher://127.0.0.1:6379/_x", "only addresses that start with"),
        ("example.com", "only addresses that start with"),
        ("//example.com/", "only addresses that start with"),
        ("http://me:secret@example.com/", "a user's name or password"),
        ("http://example.com@127.0.0.1/", "a user's name or password"),
        ("http:///x", "names no host"),
        ("http://example.com/\r\nX: y", "not an address"),
        ("http://example.com:0x50/", "not an address"),
        ("http://example.com/" + "a" * 3_000, "at most 2,000 characters"),
        (7, "at most 2,000 characters"),
    ],
)
def test_what_is_no_address(url: str, why: str) -> None:
    with pytest.raises(ToolError, match=why):
        checked_url(url)


def test_a_checked_address_must_still_prove_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=named.example",
    ]
    names = ["-addext", "subjectAltName=DNS:named.example"]
    made = ["openssl", "req", "-x509", *options, *names, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.sni_callback = lambda connection, name, _: asked.append(name)
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *given, **named: real("127.0.0.1", *given, **named))
    monkeypatch.setattr("lanbot.tools.web._tls", lambda: ssl.create_default_context(cafile=str(certificate)))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.headers["Host"].encode())

        def log_message(self, *given: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    port = server.server_address[1]
    try:
        answer = Web([("named.example", port)]).get(f"https://named.example:{port}/")
        assert (answer.text, asked) == (f"named.example:{port}", ["named.example"])
        with pytest.raises(ToolError, match=r"other.example cannot be read: .*certificate"):
            Web([("other.example", port)]).get(f"https://other.example:{port}/")
    finally:
        server.shutdown()
        server.server_close()


# -- redirects -----------------------------------------------------------------------------------------------


def moved(to: str, status: int = 302) -> tuple[int, dict[str, str], bytes]:
    return status, {"Location": to}, b""


def test_redirects_are_followed_as_far_as_they_go(site: Site) -> None:
    site.answers |= {"/a": moved("/b?x=1"), "/b": moved(f"{site.url}/c", 308), "/c": b"here", "/loop": moved("/loop")}
    answer = site.web.get(site.url + "/a")
    assert (answer.url, answer.body) == (site.url + "/c", b"here")
    with pytest.raises(ToolError, match="more than 5 redirects"):
        site.web.get(site.url + "/loop")


def test_a_redirect_leads_nowhere_that_is_closed(make_site: Callable[[], Site]) -> None:
    outside, inside = make_site(), make_site()
    inside.answers["/"] = b"secret"
    outside.answers |= {
        "/inside": moved(inside.url),
        "/meta": moved("http://169.254.169.254/latest/meta-data/"),
        "/file": moved("file:///etc/passwd"),
        "/as": moved(f"http://me:x@127.0.0.1:{inside.port}/"),
    }
    for path in outside.answers:
        with pytest.raises(ToolError, match=r"not on the public internet|only addresses|user's name"):
            outside.web.get(outside.url + path)
    assert inside.asked == []


# -- bounds --------------------------------------------------------------------------------------------------


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x" * 65_536)


def slow(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"x")
        time.sleep(0.05)


def slow_head(handler: BaseHTTPRequestHandler) -> None:
    for _ in range(100):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" if not _ else b"X: y\r\n")
        time.sleep(0.05)


def test_an_endless_body_is_cut(site: Site) -> None:
    site.answers["/"] = endless
    answer = site.web.get(site.url)
    assert answer.cut and len(answer.body) == MAX_BYTES


def test_so_is_a_small_body_that_is_a_large_one_compressed(site: Site) -> None:
    bomb = gzip.compress(bytes(100_000_000), 6)
    site.answers["/"] = (200, {"Content-Encoding": "gzip"}, bomb)
    site.answers["/text"] = (200, {"Content-Encoding": "gzip", "Content-Type": "text/plain"}, gzip.compress(b"tea"))
    answer = site.web.get(site.url)
    assert answer.cut and len(answer.body) == MAX_BYTES
    assert site.web.get(site.url + "/text").text == "tea"
    site.answers["/"] = (200, {"Content-Encoding": "br"}, b"?")
    with pytest.raises(ToolError, match="compressed as 'br'"):
        site.web.get(site.url)
    site.answers["/"] = (200, {"Content-Encoding": "gzip"}, b"not gzip")
    with pytest.raises(ToolError, match="cannot be read"):
        site.web.get(site.url)


@pytest.mark.parametrize("answer", [slow, slow_head])
def test_a_server_that_dribbles_is_left(answer: Callable[[BaseHTTPRequestHandler], None], site: Site) -> None:
    site.answers["/"] = answer
    with pytest.raises(ToolError, match=r"127.0.0.1 took longer than 0.3 seconds"):
        Web([("127.0.0.1", site.port)], seconds=0.3).get(site.url)


def test_a_resolver_that_does_not_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **named: time.sleep(3) or [])
    with pytest.raises(ToolError, match="took longer"):
        Web(seconds=0.1).get("http://slow.example/")


def test_what_breaks_is_one_line(site: Site) -> None:
    site.answers["/"] = lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")
    for url in (site.url, site.url.replace("http:", "https:")):
        with pytest.raises(ToolError, match=r"^127.0.0.1 cannot be read: [^\n]+$"):
            site.web.get(url)


def test_no_proxy_and_no_cookie_of_this_machine_is_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    site.answers["/"] = (200, {"Set-Cookie": "a=b"}, b"here")
    web = site.web
    assert web.get(site.url).body == web.get(site.url).body == b"here"
    assert not any({"cookie", "authorization"} & set(asked.headers) for asked in site.asked)
