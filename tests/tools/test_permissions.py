"""Who decides about a call, what the user is shown before, and that exactly this is done."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from local_site import Site

from lanbot.config.agent import Permissions
from lanbot.core.errors import UserError
from lanbot.sandbox.sandbox import Sandbox
from lanbot.tools import python_tool
from lanbot.tools.api import Apis, open_api
from lanbot.tools.fetch import Pages
from lanbot.tools.permissions import Answer, Ask, Decision, Permitted, Policy
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.python_tool import Python
from lanbot.tools.question import Question
from lanbot.tools.tool import Tool, ToolError, Toolset, tool
from lanbot.tools.waiting import LateError
from lanbot.tools.web import Web
from lanbot.tools.workspace import Workspace


class User:
    """Answers as told, and notes what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.asked = list(answers), list[Question]()

    def __call__(self, question: Question) -> Answer:
        self.asked.append(question)
        return self.answers.pop(0)


def of(tools: list[Any], files: Workspace | None = None, user: Ask | None = None, **rules: Any) -> Permitted:
    further = rules.pop("further", ())
    home = rules.pop("home", None)
    policy = Policy.of(Permissions(**{scope: tuple(texts) for scope, texts in rules.items()}), further, home)
    return Permitted(Toolset(tools), policy, files or Workspace({}), user)


@tool(kind="write")
def send(text: str) -> str:
    """Sends a letter."""
    return f"sent {text}"


def unmarked(text: str = "") -> str:
    return "ran"


# -- who decides ---------------------------------------------------------------------------------------------


def test_what_is_allowed_without_rules() -> None:
    files = Workspace({"a.txt": "tea"})
    tools = of([*files.tools, send, unmarked], files, further=["write_file"])
    assert tools.call("read_file", {"path": "a.txt"}) == "tea"
    assert tools.call("search_files", {"query": "tea"}) == "a.txt:1: tea"
    assert tools.call("write_file", {"path": "b.txt", "text": "x"}) == "wrote b.txt"
    for name, kind in (("edit_file", "write"), ("send", "write"), ("unmarked", "execute")):
        arguments = {"path": "a.txt", "old": "tea", "new": "x"} if name == "edit_file" else {"text": "x"}
        with pytest.raises(ToolError, match=rf"^{name} was not allowed: no rule .*\(kind {kind}\), and nobody can be"):
            tools.call(name, arguments)


def test_deny_is_before_ask_and_ask_before_allow_whatever_is_narrower() -> None:
    rules = {
        "deny": ["write_file(private/**)"],
        "ask": ["write_file(a.txt)"],
        "allow": ["write", "write_file(private/x)"],
    }
    files, user = Workspace({}), User("no")
    tools = of(files.tools, files, user, **rules)
    assert tools.call("write_file", {"path": "b.txt", "text": ""}) == "wrote b.txt"
    with pytest.raises(ToolError, match=r"the rule deny write_file\(private/\*\*\)$"):
        tools.call("write_file", {"path": "private/x", "text": ""})
    assert not user.asked
    with pytest.raises(ToolError, match="the user said no"):
        tools.call("write_file", {"path": "a.txt", "text": ""})


def test_always_holds_for_the_session_and_the_folder_and_never_against_a_denial() -> None:
    files, user = Workspace({}), User("always", "once", "no")
    tools = of(files.tools, files, user, deny=["write_file(notes/no.txt)"], ask=["write"])
    tools.call("write_file", {"path": "notes/a.txt", "text": "1"})
    assert user.asked[0].always == "write_file(notes/**)"
    tools.call("write_file", {"path": "notes/b/c.txt", "text": "2"})
    with pytest.raises(ToolError, match="deny"):
        tools.call("write_file", {"path": "notes/no.txt", "text": "3"})
    tools.call("write_file", {"path": "d.txt", "text": "4"})
    with pytest.raises(ToolError):  # once is once
        tools.call("write_file", {"path": "d.txt", "text": "5"})
    assert len(user.asked) == 3


def test_every_decision_is_told() -> None:
    told: list[Decision] = []
    tools = of([send, unmarked], user=User("once", "no"), allow=["send"], deny=[])
    tools.decided = told.append
    tools.call("send", {"text": "a"})
    tools.call("unmarked", {"text": "b"})
    with pytest.raises(ToolError):
        tools.call("unmarked", {"text": "c"})
    assert [(one.tool, dict(one.arguments), one.answer, one.by) for one in told] == [
        ("send", {"text": "a"}, "allow", "the rule allow send"),
        ("unmarked", {"text": "b"}, "allow", "the user, once"),
        ("unmarked", {"text": "c"}, "deny", "the user said no"),
    ]


def test_what_the_asker_says_otherwise_is_no() -> None:
    tools = of([send], user=lambda question: "yes, always, I am the user")  # type: ignore[arg-type,return-value]
    with pytest.raises(ToolError):
        tools.call("send", {"text": "a"})


@pytest.mark.parametrize("name", ["notes/AGENTS.md", "notes/skills/tea/x.txt", "notes/recipe.toml"])
def test_always_for_a_folder_is_no_yes_to_files_in_it_that_tell_agents_what_to_do(name: str) -> None:
    files, user = Workspace({}), User("always", "always", "no")
    tools = of(files.tools, user=user, files=files)
    for path in ("notes/a.txt", "notes/b.txt", name, name):
        tools.call("write_file", {"path": path, "text": "Do it."})
    assert len(user.asked) == 2 and user.asked[1].always == f"write_file({name})"
    with pytest.raises(ToolError, match="the user said no"):
        tools.call("write_file", {"path": "notes/CLAUDE.md", "text": "Do it."})


@pytest.mark.parametrize("name", ["AGENTS.md", "x/agents.MD", "skills/a/run.py", "a/SKILL.md", "runs/x/recipe.toml"])
def test_files_that_instruct_agents_are_written_only_where_a_rule_names_a_path(name: str) -> None:
    files = Workspace({})
    with pytest.raises(ToolError, match="tells agents what to do"):
        of(files.tools, files, allow=["write"], further=["write_file"]).call("write_file", {"path": name, "text": ""})
    of(files.tools, files, allow=[f"write_file({name})"]).call("write_file", {"path": name, "text": ""})


@pytest.mark.parametrize("workspace", ["", "runs", "runs/demo", "runs/demo/agent"])
def test_the_runs_own_folder_is_never_written(workspace: str, tmp_path: Path) -> None:
    home = tmp_path / "runs" / "demo"
    (home / "agent" / "files").mkdir(parents=True)
    root = tmp_path / workspace
    files = Workspace(root)
    tools = of(files.tools, files, User(), allow=["write", "write_file(**)"], home=home)
    for target in (home / "recipe.toml", home / "agent" / "memory.txt"):
        if target.is_relative_to(root):
            with pytest.raises(ToolError, match="own folder"):
                tools.call("write_file", {"path": str(target.relative_to(root)), "text": ""})
            assert not target.exists()
    own = str((home / "agent" / "files" / "a.txt").relative_to(root))
    assert tools.call("write_file", {"path": own, "text": "x"}) == f"wrote {own}"


# -- what is shown -------------------------------------------------------------------------------------------


def shown(tools: list[Any], name: str, arguments: dict[str, Any], files: Workspace | None = None) -> str:
    user = User("no")
    permitted = of(tools, files, user, ask=["read", "write", "network", "execute"])
    with pytest.raises(ToolError):
        permitted.call(name, arguments)
    return user.asked[0].text


def test_a_written_file_is_shown_as_what_changes() -> None:
    files = Workspace({"a.txt": "one\ntwo\n"})
    text = shown(files.tools, "write_file", {"path": "./a.txt", "text": "one\nthree\n"}, files)
    assert text.startswith("write_file (write)\n  file: a.txt\n  8 characters before, 10 after\n")
    assert "\n  | -two\n  | +three\n" in text
    edited = shown(files.tools, "edit_file", {"path": "a.txt", "old": "two", "new": "three"}, files)
    assert "\n  | -two\n  | +three\n" in edited
    assert "  | hello" in shown(files.tools, "write_file", {"path": "new.txt", "text": "hello"}, files)


def test_nothing_hides_what_is_asked() -> None:
    files = Workspace({})
    hostile = "ok\x1b[2J\x1b[1;1H\rAllow? [o]nce\u202e\u200b\nAllow? [o]nce, [a]lways read, [n]o: o\n\x9b31m\x85"
    for text in (
        shown(files.tools, "write_file", {"path": "a.txt", "text": hostile}, files),
        shown([send], "send", {"text": hostile}),
        shown([python_of(None)], "python", {"code": hostile}),
        shown([unmarked], "unmarked", {"text": {"a": [hostile, hostile * 1_000]}}),
    ):
        assert not any(c in text for c in "\x1b\r\u202e\u200b\x9b\x85")
        assert not any(line.startswith("Allow?") for line in text.split("\n"))
    assert "not ASCII: n\\u043etes.txt" in shown(
        files.tools, "write_file", {"path": "n\u043etes.txt", "text": ""}, files
    )


def test_a_long_text_is_shown_by_its_ends_and_its_length_and_code_in_full() -> None:
    text = shown([send], "send", {"text": "first\n" + "x" * 50_000 + "\nlast"})
    assert len(text) < 10_000 and "50,011 characters" in text and "are not shown" in text
    assert "| first" in text and text.endswith("| last")
    code = "\n".join(f"x{n} = {n}" for n in range(1_500))
    assert shown([python_of(None)], "python", {"code": code}).count("\n  | x") == 1_500


def test_an_address_is_shown_as_it_is_sent_with_the_host_that_is_reached() -> None:
    def fetch(url: str) -> str:
        raise AssertionError

    made = Tool.from_function(tool(kind="network", subject="url")(fetch))
    text = shown([made], "fetch", {"url": "HTTPS://ex\u00e4mple.com/a b?q=secret\u00e9#z"})
    assert text.split("\n")[1:] == [
        "  GET https://xn--exmple-cua.com/a%20b?q=secret%C3%A9",
        "  connects to: xn--exmple-cua.com",
    ]


def test_a_call_that_would_fail_is_not_asked_about() -> None:
    files, user = Workspace({}), User()
    with pytest.raises(ToolError, match=r"no file a\.txt"):
        of(files.tools, files, user).call("edit_file", {"path": "a.txt", "old": "x", "new": "y"})
    assert not user.asked


# -- what is shown is what is done ---------------------------------------------------------------------------


def test_arguments_cannot_change_while_the_user_thinks() -> None:
    sent: list[Any] = []

    def post(body: dict[str, Any]) -> str:
        sent.append(body)
        return ""

    arguments = {"body": {"to": "me"}}

    def ask(question: Question) -> Answer:
        arguments["body"]["to"] = "evil"
        return "once"

    of([post], user=ask).call("post", arguments)
    assert sent == [{"to": "me"}]


@pytest.mark.parametrize("change", ["edited", "link"])
def test_a_file_that_changes_while_the_user_thinks_is_not_written(change: str, tmp_path: Path) -> None:
    root, outside = tmp_path / "files", tmp_path / "outside"
    for folder in (root / "notes", outside):
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("old text")
    files = Workspace(root)

    def ask(question: Question) -> Answer:
        if change == "link":
            (root / "notes").rename(root / "moved")
            (root / "notes").symlink_to(outside)
        else:
            (root / "notes" / "a.txt").write_text("old text of mine")
        return "once"

    with pytest.raises(ToolError, match=r"changed while the user was asked|is a link"):
        of(files.tools, files, ask).call("write_file", {"path": "notes/a.txt", "text": "x"})
    assert (outside / "a.txt").read_text() == "old text"


def test_the_time_of_an_answer_is_not_the_tools() -> None:
    def ask(question: Question) -> Answer:
        time.sleep(0.5)
        return "once"

    def slow(text: str) -> str:
        time.sleep(5)
        return text

    tools = of([send, slow], user=ask)
    tools.limit(0.2)
    assert tools.call("send", {"text": "a"}) == "sent a"
    with pytest.raises(LateError):
        tools.call("slow", {"text": "a"})


# -- redirects -----------------------------------------------------------------------------------------------


@pytest.fixture
def two(make_site: Callable[[], Site], monkeypatch: pytest.MonkeyPatch) -> tuple[Site, Site]:
    """good.example and evil.example."""
    good, evil = make_site(), make_site()
    monkeypatch.setattr("lanbot.tools.web.resolve", lambda host, port, seconds: ["127.0.0.1"])
    evil.answers["/"] = b"<p>evil</p>"
    good.answers["/there"] = (302, {"Location": f"http://evil.example:{evil.port}/?q=secret"}, b"")
    good.answers["/here"] = (302, {"Location": "/page"}, b"")
    good.answers["/page"] = b"<p>good</p>"
    return good, evil


def pages(good: Site, evil: Site) -> list[Any]:
    return [Pages(Web([("good.example", good.port), ("evil.example", evil.port)])).fetch]


@pytest.mark.parametrize("how", ["rule", "once", "always"])
def test_a_redirect_leads_only_where_the_rules_lead(how: str, two: tuple[Site, Site]) -> None:
    good, evil = two
    allow = [f"fetch(good.example:{good.port})"] if how == "rule" else []
    told: list[Decision] = []
    tools = of(pages(*two), user=User(how, how, how), allow=allow)  # type: ignore[arg-type]
    tools.decided = told.append
    assert tools.call("fetch", {"url": f"http://good.example:{good.port}/here"}) == "good"
    with pytest.raises(ToolError, match=rf"redirected to evil.example:{evil.port}; no rule allows it"):
        tools.call("fetch", {"url": f"http://good.example:{good.port}/there"})
    assert evil.asked == [] and told[-1].answer == "deny"
    tools.policy.deny[:] = Policy.of(Permissions(deny=("fetch(good.example/page)",))).deny
    with pytest.raises(ToolError, match="deny"):
        tools.call("fetch", {"url": f"http://good.example:{good.port}/here"})


def test_a_redirect_to_a_host_that_is_allowed_too_is_followed(two: tuple[Site, Site]) -> None:
    good, _ = two
    assert of(pages(*two), allow=["fetch(*)", "network"]).call(
        "fetch", {"url": f"http://good.example:{good.port}/there"}
    )


def test_an_api_is_held_to_method_and_path(two: tuple[Site, Site], tmp_path: Path) -> None:
    good, _ = two
    base = f"http://good.example:{good.port}"
    (tmp_path / "api.yaml").write_text(
        f"openapi: 3.1.0\nservers: [{{url: '{base}'}}]\n"
        "paths: {/page: {get: {}, delete: {}}, /here: {get: {}}, /admin: {get: {}}}\n"
    )
    apis = Apis(Web([("good.example", good.port)]), [open_api(str(tmp_path / "api.yaml"))])
    tools = of(apis.tools, allow=[f"http_request(GET good.example:{good.port}/page)"])
    assert "good" in tools.call("http_request", {"method": "GET", "url": f"{base}/page"})
    for method, path in (("DELETE", "page"), ("GET", "here"), ("GET", "admin")):
        with pytest.raises(ToolError, match="was not allowed"):
            tools.call("http_request", {"method": method, "url": f"{base}/{path}"})
    tools = of(apis.tools, allow=[f"http_request(good.example:{good.port}/here)"])
    with pytest.raises(ToolError, match="redirected"):
        tools.call("http_request", {"method": "GET", "url": f"{base}/here"})
    assert [one.path for one in good.asked] == ["/page", "/here"]


def test_an_offline_folder_is_read_and_the_web_is_not(site: Site) -> None:
    made = replace(Tool.from_function(Pages(site.web, Workspace({"tea.txt": "hot"})).fetch), subject="page")
    tools = of([made])
    assert tools.call("fetch", {"url": "tea.txt"}) == "hot"
    with pytest.raises(ToolError, match="was not allowed"):
        tools.call("fetch", {"url": site.url})
    with pytest.raises(ToolError, match="deny fetch"):
        of([made], deny=["fetch"]).call("fetch", {"url": "tea.txt"})
    user = User("always", "no")
    tools = of([made], user=user, ask=["fetch"])
    tools.call("fetch", {"url": "tea.txt"})
    assert user.asked[0].always == "fetch(tea.txt)"
    with pytest.raises(ToolError, match="said no"):
        tools.call("fetch", {"url": site.url})
    assert site.asked == []


# -- programs ------------------------------------------------------------------------------------------------


def python_of(box: Sandbox | None) -> Tool:
    return Tool.from_function(Python(box).run)  # type: ignore[arg-type]


def test_a_program_asks_like_the_model_and_the_answer_takes_none_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        box = Sandbox(1)
    except UserError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(python_tool, "SECONDS", 1.0)
    answers: list[Answer] = ["once", "no"]

    def ask(question: Question) -> Answer:
        time.sleep(1.3)
        return answers.pop(0)

    with box:
        python = Python(box)
        tools = Permitted(Toolset([python.run, send]), Policy.of(Permissions(), ["python"]), Workspace({}), ask)
        python.toolset = tools
        code = "print(send('a'))\ntry:\n    send('b')\nexcept Exception as error:\n    print(error)"
        assert PythonCalls(tools)(code) == "sent a\nsend was not allowed: the user said no"
