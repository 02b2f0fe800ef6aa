"""The grammar of permissions: what a rule means, and which rules mean nothing."""

import pytest

from lanbot.tools.permissions import Policy, parsed
from lanbot.tools.rules import Address, Rule, always_rule, plain_host, target_of
from lanbot.tools.tool import Tool, ToolError, Toolset, tool
from lanbot.tools.workspace import Workspace


@tool(kind="network", subject="url")
def fetch(url: str) -> str:
    """Reads a page."""
    return url


@tool(kind="network", subject="url")
def http_request(method: str, url: str, body: str = "") -> str:
    """Calls an API."""
    return url


@tool(kind="execute", subject="code")
def python(code: str) -> str:
    """Runs code."""
    return code


@tool(kind="execute")
def time_now() -> str:
    """The time."""
    return "now"


FILES = Workspace({"notes/a.txt": "a", "private/key.txt": "k", "b.txt": "b"})
TOOLS = Toolset([*FILES.tools, fetch, http_request, python, time_now])


def matches(rule: str, call: str, allowing: bool, **arguments: object) -> bool:
    made: Tool = TOOLS[call]
    return Rule.parse(rule).matches(made, target_of(made, arguments, FILES), allowing)


@pytest.mark.parametrize(
    ("rule", "call", "arguments", "wanted"),
    [
        ("write", "write_file", {"path": "a.txt"}, True),
        ("write", "read_file", {"path": "a.txt"}, False),
        ("write_file", "edit_file", {"path": "a.txt"}, False),
        ("time_*", "time_now", {}, True),
        ("time_*", "fetch", {"url": "http://a.example"}, False),
        ("write_file(notes/**)", "write_file", {"path": "notes/x/y.txt"}, True),
        ("write_file(notes/**)", "write_file", {"path": "./notes//x.txt"}, True),
        ("write_file(notes/**)", "write_file", {"path": "notes2/x.txt"}, False),
        ("write_file(notes/*)", "write_file", {"path": "notes/x/y.txt"}, False),
        ("write_file(*.txt)", "write_file", {"path": "notes/a.txt"}, False),
        ("write_file(**/*.txt)", "write_file", {"path": "notes/a.txt"}, True),
        ("write_file(**/*.txt)", "write_file", {"path": "a.txt"}, True),
        ("write_file(notes/)", "write_file", {"path": "notes/a.txt"}, True),
        ("write_file(a.b)", "write_file", {"path": "axb"}, False),
        ("write_file(caf\u00e9.txt)", "write_file", {"path": "cafe\u0301.txt"}, True),
        ("write_file(NOTES/**)", "write_file", {"path": "notes/a.txt"}, False),
        ("list_files(private/**)", "list_files", {"path": "private"}, True),
        ("read(private/**)", "read_file", {"path": "private/key.txt"}, True),
        ("fetch(example.com)", "fetch", {"url": "https://EXAMPLE.com./a?b#c"}, True),
        ("fetch(example.com)", "fetch", {"url": "http://example.com:80"}, True),
        ("fetch(example.com)", "fetch", {"url": "https://www.example.com"}, False),
        ("fetch(example.com)", "fetch", {"url": "https://example.com.evil.net"}, False),
        ("fetch(example.com)", "fetch", {"url": "https://evil.net/example.com"}, False),
        ("fetch(example.com)", "fetch", {"url": "https://evil.net#@example.com"}, False),
        ("fetch(example.com)", "fetch", {"url": "https://ex\u0430mple.com"}, False),  # Cyrillic
        ("fetch(ex\u00e4mple.com)", "fetch", {"url": "https://xn--exmple-cua.com"}, True),
        ("fetch(*.example.com)", "fetch", {"url": "https://a.b.example.com"}, True),
        ("fetch(*.example.com)", "fetch", {"url": "https://example.com"}, False),
        ("fetch(*.example.com)", "fetch", {"url": "https://evilexample.com"}, False),
        ("fetch(8.8.8.8)", "fetch", {"url": "http://134744072/"}, True),
        ("fetch(8.8.8.8)", "fetch", {"url": "http://[::ffff:8.8.8.8]/"}, True),
        ("network(example.com)", "http_request", {"method": "POST", "url": "https://example.com"}, True),
        ("http_request(GET a.io/v1/**)", "http_request", {"method": "get", "url": "https://a.io/v1/x"}, True),
        (
            "http_request(GET a.io/v1/**)",
            "http_request",
            {"method": "PUT", "url": "https://a.io/v1/x"},
            False,
        ),
        ("http_request(GET a.io/v1/**)", "http_request", {"method": "GET", "url": "https://a.io/v2"}, False),
        ("http_request(a.example/v1/*)", "http_request", {"method": "GET", "url": "https://a.example/v1/x?y=/z"}, True),
        ("python(import os*)", "python", {"code": "import os\nos.remove('x')"}, True),
        ("python(import os*)", "python", {"code": "x = 1"}, False),
    ],
)
def test_what_a_rule_is_about(rule: str, call: str, arguments: dict[str, object], wanted: bool) -> None:
    assert matches(rule, call, True, **arguments) == matches(rule, call, False, **arguments) == wanted


@pytest.mark.parametrize("path", ["v1/%2e%2e/admin", "v1/%2E%2E%2Fadmin", "v1/..%5cadmin", "v1/%252e%252e/admin"])
def test_a_path_that_a_server_may_read_otherwise_is_denied_by_what_it_means_and_allowed_by_nothing(path: str) -> None:
    call = {"method": "GET", "url": f"https://a.example/{path}"}
    assert matches("http_request(a.example/admin)", "http_request", False, **call)
    assert not matches("http_request(a.example/**)", "http_request", True, **call)
    assert matches("http_request(a.example)", "http_request", True, **call)


def test_another_port_is_denied_with_the_host_but_allowed_only_by_name() -> None:
    call = {"url": "http://example.com:8080/"}
    assert matches("fetch(example.com)", "fetch", False, **call)
    assert not matches("fetch(example.com)", "fetch", True, **call)
    assert matches("fetch(example.com:8080)", "fetch", True, **call)
    assert not matches("fetch(example.com:8080)", "fetch", False, url="http://example.com/")


def test_a_search_reads_all_files() -> None:
    assert matches("read(private/**)", "search_files", False, query="k")
    assert not matches("read(notes/**)", "search_files", True, query="k")
    assert matches("read(**)", "search_files", True, query="k")


def test_case_is_that_of_the_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FILES.store, "folds_case", True)
    assert matches("write_file(Private/**)", "write_file", False, path="PRIVATE/key.txt")


@pytest.mark.parametrize(
    "url", ["http://me@example.com", "file:///etc/passwd", "example.com", "http://", "http://exam\u200bple.com", 5]
)
def test_what_is_no_address_is_refused_before_any_rule(url: object) -> None:
    with pytest.raises(ToolError):
        target_of(TOOLS["fetch"], {"url": url}, FILES)


def test_a_method_is_a_word() -> None:
    with pytest.raises(ToolError, match="a method is"):
        target_of(TOOLS["http_request"], {"method": "GET\nAllow?", "url": "https://a.example"}, FILES)


def test_hosts_in_one_form() -> None:
    assert [plain_host(host) for host in ("A.Example.", "127.1", "0x7f000001", "[::1]", "b\u00fccher.de")] == [
        *("a.example", "127.0.0.1", "127.0.0.1", "::1", "xn--bcher-kva.de"),
    ]
    assert Address.of("GET", "http://[::1]:81/").place == "[::1]:81"


@pytest.mark.parametrize(
    ("call", "arguments", "rule", "not_about"),
    [
        ("write_file", {"path": "notes/a.txt"}, "write_file(notes/**)", {"path": "b.txt"}),
        ("write_file", {"path": "a*.txt"}, r"write_file(a\*.txt)", {"path": "ab.txt"}),
        ("fetch", {"url": "https://a.example:8443/x?q=1"}, "fetch(a.example:8443)", {"url": "https://a.example/"}),
        (
            "http_request",
            {"method": "POST", "url": "https://a.example/v1/items"},
            "http_request(POST a.example/v1/**)",
            {"method": "POST", "url": "https://a.example/admin"},
        ),
        ("python", {"code": "x = 2 * 3\n"}, r"python(x = 2 \* 3)", {"code": "x = 2 * 3\ny = 1"}),
        ("python", {"code": ""}, "python()", {"code": "x = 1"}),
        ("time_now", {}, "time_now", None),
    ],
)
def test_always_is_narrow(call: str, arguments: dict[str, object], rule: str, not_about: dict[str, object]) -> None:
    made = always_rule(TOOLS[call], target_of(TOOLS[call], arguments, FILES))
    assert str(made) == rule
    assert made.matches(TOOLS[call], target_of(TOOLS[call], arguments, FILES), True)
    if not_about is not None:
        assert not made.matches(TOOLS[call], target_of(TOOLS[call], not_about, FILES), True)


@pytest.mark.parametrize(
    ("deny", "ask", "allow", "said"),
    [
        ([], [], ["writefile"], "no such tool. Did you mean write_file?"),
        ([], [], ["exec"], "no such tool. Did you mean execute?"),
        ([], [], ["Write(a.txt)"], "Did you mean write?"),
        (["wiki_*"], [], [], "no such tool"),
        ([], [], ["write_file(/etc/**)"], "outside the workspace"),
        ([], [], ["write_file(../x)"], "outside the workspace"),
        (["read_file(.env)"], [], [], "start with a dot"),
        ([], [], ["write_file(https://example.com)"], "not a host"),
        ([], [], ["fetch(domain:example.com)"], "write fetch(example.com)"),
        ([], [], ["fetch(https://example.com/a)"], "write fetch(example.com)"),
        ([], [], ["fetch(notes/**)"], "names no host"),
        ([], [], ["fetch(example.*)"], "names no host"),
        ([], [], ["fetch(POST example.com)"], "only sends GET"),
        ([], [], ["time_now(x)"], "nothing in brackets"),
        (["write"], [], ["write_file(notes/**)"], "deny write comes first"),
        (["write_file(notes/**)"], [], ["write_file(notes/x/*.md)"], "deny write_file(notes/**) comes first"),
        (["fetch(*.example.com)"], [], ["fetch(a.example.com)"], "comes first"),
        ([], ["network"], ["fetch(a.example.com)"], "ask network comes first"),
        (["python(*import*)"], [], ["python(import os)"], "comes first"),
    ],
)
def test_a_rule_that_can_never_match_is_warned_about(
    deny: list[str], ask: list[str], allow: list[str], said: str
) -> None:
    lines = Policy(parsed(deny), parsed(ask), parsed(allow)).warnings(TOOLS)
    assert len(lines) == 1 and said in lines[0], lines


def test_rules_that_can_match_are_not() -> None:
    deny = ["write_file(notes/*)", "fetch(a.example.com)", "fetch(b.com/v1/*)", "read(private/**)", "python(import*)"]
    ask = ["edit_file"]
    allow = [
        "write_file(notes/**)",
        "fetch(*.example.com)",
        "fetch(b.com)",
        "read",
        "python",
        "time_*",
        "write_file(*)",
    ]
    assert Policy(parsed(deny), parsed(ask), parsed(allow)).warnings(TOOLS) == []
