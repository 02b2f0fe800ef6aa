"""The chat page in a browser, over the real server; what the model says is scripted."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_client import Scripted as PlayedBack
from scripted_client import calling, said

from lanbot.agent import session
from lanbot.config.recipe_file import load
from lanbot.config.run import Run
from lanbot.web.agent_host import AgentHost, Remembered
from lanbot.web.security import Access
from lanbot.web.served import Models, Served

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
if CHROMIUM is None:
    pytest.skip("no chromium", allow_module_level=True)
api = pytest.importorskip("playwright.sync_api")
expect = api.expect
AXE = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

FLAGS = [
    f"--{flag}"
    for flag in (
        *("no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
    )
]
EVIL = (
    '<img src=x onerror="window.hacked=1"> <script>window.hacked=2</script> [one](javascript:window.hacked=3) '
    '![two](http://evil.invalid/x.png) <a href="javascript:window.hacked=4">three</a> <svg onload="window.hacked=5">'
    '<iframe src="http://evil.invalid/"></iframe> [four](data:text/html,x) <style>*{display:none}</style>\n\n'
    "```html\n<img src=x onerror=window.hacked=6>\n```\n\nend"
)
CODE = (
    "Some **code**:\n\n```python\ndef f(x: int) -> int:\n    return x  # "
    + "long " * 30
    + "\n```\n\n| a | b |\n|--|--|\n| 1 | 2 |"
)
SCRIPT = {
    "Hello": ["Hello! What can I do?"],
    "Goodbye": ["See you soon."],
    "long": ["word " * 80],
    "sum": ["Let me see. ", "<|python_start|>", "12 * (3 + 4)", "<|python_end|>", "It is 84."],
    "again": ["As I said, 84."],
    "code": [CODE],
    "evil": [EVIL],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


Open = Callable[..., Any]


@pytest.fixture
def agent_page(open_page, make_engine, serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """agent_page(*replies): the page over a server whose agent asks before it writes; its model says these."""
    monkeypatch.setenv("LANBOT_RUNS", str(tmp_path / "runs"))
    run = Run.create(load("smoke", {"name": "my-bot"}))

    def start(*replies: Any) -> Any:
        model = PlayedBack(*replies)
        monkeypatch.setattr(session, "open_model", lambda run, phase: model)
        host = AgentHost(
            lambda asks: session.open_session(run, session.Options(ask=["write_file"], asks=asks)),
            Remembered(run.folder / "agent" / "memory.db"),
        )
        page = open_page(url=serve(make_engine(SCRIPT, context=1024), agent=host))
        page.get_by_role("button", name="Agent").click()
        return page

    return start


@pytest.fixture
def open_page(browser, make_engine, serve) -> Iterator[Open]:
    """open_page(access, seconds, width, **of the context) -> the page over a server of four models; fails at the end if
    the page asked another host for anything, or raised an error."""
    contexts, troubles = [], []

    def open_(access: Access = Access(), seconds: float = 0.0, width: int = 1200, url: str = "", **more: Any) -> Any:  # noqa: B008
        if not url:
            engine = make_engine(SCRIPT, context=1024)
            engine.seconds = seconds
            names = ("rl", "sft", "base")
            models = [Served(f"run/{name}", lambda: engine, 1024) for name in names]
            url = serve(engine, access, Models(models, {"run": "run/rl"}))
        context = browser.new_context(viewport={"width": width, "height": 800}, **more)
        context.set_default_timeout(8_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda said: troubles.append(said.text) if "Content Security" in said.text else None)
        page.on("request", lambda sent: troubles.append(sent.url) if not sent.url.startswith((url, "blob:")) else None)
        page.goto(url)
        if not access.keys:
            page.wait_for_selector("[data-ready]", state="attached")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert troubles == []


def say(page: Any, text: str, wait: bool = True) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    if wait:
        expect(page.get_by_role("button", name="Send")).to_be_visible()


def bubbles(page: Any) -> list[str]:
    return page.locator("#thread .bubble").all_inner_texts()


def serious(page: Any) -> list[Any]:
    """What axe-core finds to be in the way of people who do not see the page, or see it badly."""
    found = AXE.run(page).response["violations"]
    bad = [(one["id"], one["impact"], [node["html"][:200] for node in one["nodes"]]) for one in found]
    return [one for one in bad if one[1] in ("serious", "critical")]


def saved(page: Any) -> list[dict[str, Any]]:
    """The conversations in the browser, once what is in work is written."""
    page.wait_for_timeout(400)
    return page.evaluate(
        """() => new Promise((resolve) => {
          const request = indexedDB.open("lanbot");
          request.onsuccess = () => {
            const all = request.result.transaction("conversations").objectStore("conversations").getAll();
            all.onsuccess = () => resolve(all.result);
          };
        })"""
    )


def test_an_answer_streams_in_and_is_there_after_a_reload(open_page) -> None:
    page = open_page(seconds=0.005)
    say(page, "A long one", wait=False)
    answer = page.locator("#thread .bot .bubble")
    expect(answer).to_contain_text("word word")
    assert answer.inner_text().count("word") < 80  # not yet whole
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert answer.inner_text().count("word") == 80
    expect(page.locator("#gauge")).to_contain_text("of 1,024 tokens")
    say(page, "Hello")
    page.reload()
    expect(page.locator("#thread .bubble").last).to_have_text("Hello! What can I do?")
    assert len(bubbles(page)) == 4
    assert page.title() == "A long one · LanBot"


def test_a_stopped_answer_keeps_what_it_said(open_page) -> None:
    page = open_page(seconds=0.01)
    for stop in (lambda: page.get_by_role("button", name="Stop").click(), lambda: page.keyboard.press("Escape")):
        say(page, "A long one", wait=False)
        expect(page.locator("#thread .bot .bubble").last).to_contain_text("word")
        stop()
        expect(page.get_by_text("Stopped.").last).to_be_visible()
        expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert 0 < bubbles(page)[-1].count("word") < 80
    say(page, "Hello")
    assert bubbles(page)[-1] == "Hello! What can I do?"


def test_another_answer_and_an_edit_are_branches(open_page) -> None:
    page = open_page()
    say(page, "Hello")
    say(page, "What is the sum?")
    first = page.locator("#thread .bot").first
    first.get_by_label("Answer again").click()
    expect(first.get_by_label("Version 2 of 2")).to_be_visible()
    expect(page.locator("#thread li")).to_have_count(2)  # the rest belongs to the other answer
    first.get_by_label("Version before").click()
    expect(page.locator("#thread li")).to_have_count(4)
    page.get_by_label("Edit").first.click()
    field = page.get_by_label("Edit the message")
    expect(field).to_be_focused()
    field.press("Escape")
    expect(page.locator("#thread li")).to_have_count(4)
    page.get_by_label("Edit").first.click()
    field.fill("Goodbye")
    field.press("Enter")
    expect(page.locator("#thread .bot .bubble")).to_have_text(["See you soon."])
    page.reload()
    expect(page.locator("#thread .bubble")).to_have_text(["Goodbye", "See you soon."])
    page.locator("#thread .user").get_by_label("Version before").click()
    assert bubbles(page)[0] == "Hello"
    assert len(bubbles(page)) == 4


def test_what_a_model_writes_cannot_do_anything(open_page) -> None:
    page = open_page()
    say(page, "Be evil")
    answer = page.locator("#thread .bot .bubble")
    expect(answer).to_contain_text("end")
    assert answer.locator("img, script, iframe, svg[onload], style, [onerror]").count() == 0
    assert [link.get_attribute("href") for link in answer.locator("a[href]").all()] == ["http://evil.invalid/x.png"]
    assert answer.locator("a[href]").get_attribute("rel") == "noopener noreferrer"
    for word in ("one", "four"):
        answer.get_by_text(word, exact=True).click()
    assert page.evaluate("window.hacked") is None
    assert "<script>window.hacked=2</script>" in answer.inner_text()  # seen as it was written


def test_a_files_conversations_cannot_do_anything(open_page, tmp_path: Path) -> None:
    page = open_page()
    html = "<img src=x onerror='window.hacked=1'>"
    nodes = {
        "__proto__": {"id": "__proto__", "parent": "", "role": "user", "text": html},
        "b": {"id": "b", "parent": "__proto__", "role": "assistant", "model": html, "error": html,
              "parts": [{"type": "text", "text": html}, {"type": "python", "text": html}, {"type": html}, 7]},
        "c": {"id": "c", "parent": "c", "role": "user", "text": "its own parent"},
    }  # fmt: skip
    one = {"title": html, "nodes": nodes, "chosen": {"": "b", "c": "c"}, "settings": {"temperature": "hot"}}
    file = tmp_path / "some.json"
    file.write_text(json.dumps({"format": "lanbot-conversations", "version": 1, "conversations": [one]}))
    page.locator("#file").set_input_files(file)
    expect(page.locator("#thread li")).to_have_count(2)
    assert page.locator("h1").inner_text() == html
    assert page.evaluate("window.hacked") is None
    assert [one["settings"]["temperature"] for one in saved(page)] == [0.7]
    file.write_text("no JSON")
    page.locator("#file").set_input_files(file)
    expect(page.get_by_text("The file is not JSON.")).to_be_visible()


def test_no_event_is_lost_wherever_a_read_ends(open_page) -> None:
    page = open_page()
    heard = page.evaluate(
        """async () => {
          const { frames } = await import(new URL("sse.js", document.querySelector("script[type=module]").src));
          const text = ': ping\\r\\n\\r\\ndata: {"a":"é😀"}\\n\\nevent: x\\r\\ndata: one\\r\\ndata: two' +
            "\\r\\n\\r\\ndata:[DONE]\\n\\ndata: no end";
          const bytes = new TextEncoder().encode(text);
          const all = new Set();
          for (let cut = 0; cut <= bytes.length; cut++) {
            const single = [...bytes].map((byte) => new Uint8Array([byte]));
            for (const reads of [[bytes.slice(0, cut), bytes.slice(cut)], single]) {
              const body = new ReadableStream({ start(to) { reads.forEach((read) => to.enqueue(read)); to.close(); } });
              const got = [];
              for await (const data of frames(body)) got.push(data);
              all.add(JSON.stringify(got));
            }
          }
          return [...all];
        }"""
    )
    assert [json.loads(one) for one in heard] == [['{"a":"é😀"}', "one\ntwo", "[DONE]"]]


def test_calls_are_cards_and_go_back_to_the_model_as_they_were(open_page) -> None:
    page = open_page()
    say(page, "What is the sum?")
    card = page.locator("#thread .card")
    assert card.locator(".call").inner_text() == "12 * (3 + 4)"
    assert card.locator(".out").inner_text() == "84"
    expect(card.locator(".hljs-number").first).to_be_visible()
    with page.expect_request("**/v1/chat/completions") as sent:
        say(page, "Say it again")
    assert sent.value.post_data_json["messages"][1]["parts"] == [
        {"type": "text", "text": "Let me see. "},
        {"type": "python", "text": "12 * (3 + 4)"},
        {"type": "output", "text": "84"},
        {"type": "text", "text": "It is 84."},
    ]
    assert bubbles(page)[-1] == "As I said, 84."


def test_settings_are_sent_and_kept(open_page) -> None:
    page = open_page()
    page.get_by_label("Settings of this conversation").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Top-p").fill("0.5")
    page.get_by_label("Longest answer").fill("3")
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Done").click()
    page.get_by_label("Model", exact=True).select_option("run/sft")
    with page.expect_request("**/v1/chat/completions") as sent:
        say(page, "Hello")
    body = sent.value.post_data_json
    assert {name: body[name] for name in ("model", "temperature", "top_p", "max_tokens", "seed")} == {
        "model": "run/sft",
        "temperature": 0,
        "top_p": 0.5,
        "max_tokens": 3,
        "seed": 7,
    }
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    expect(page.get_by_text("Cut off")).to_be_visible()
    page.wait_for_timeout(400)
    page.reload()
    page.get_by_label("Settings of this conversation").click()
    expect(page.get_by_label("System prompt")).to_have_value("Be brief.")
    expect(page.get_by_label("Seed")).to_have_value("7")
    page.get_by_label("Seed").fill("")
    page.keyboard.press("Escape")
    with page.expect_request("**/v1/chat/completions") as sent:
        say(page, "Goodbye")
    assert "seed" not in sent.value.post_data_json


def test_conversations_are_found_renamed_deleted_and_taken_along(open_page, tmp_path: Path) -> None:
    page = open_page()
    for text in ("Hello", "Goodbye"):
        page.get_by_role("button", name="New conversation").click()
        say(page, text)
    titles = page.locator("#list .open")
    expect(titles).to_have_text(["Goodbye", "Hello"])
    page.keyboard.press("Control+k")
    page.keyboard.type("what can i do")  # in an answer
    expect(titles).to_have_text(["Hello"])
    page.keyboard.press("Enter")
    expect(page.locator("#thread .bubble").first).to_have_text("Hello")
    page.get_by_label("Rename Hello").click()
    page.get_by_label("Name", exact=True).fill("Greetings")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Greetings")
    page.get_by_label("Search the conversations").fill("")
    with page.expect_download() as got:
        page.get_by_role("button", name="Export all").click()
    got.value.save_as(tmp_path / "all.json")
    page.get_by_label("Delete Goodbye").click()
    page.get_by_role("button", name="Cancel").click()
    expect(titles).to_have_count(2)
    page.get_by_label("Delete Goodbye").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(titles).to_have_text(["Greetings"])
    page.reload()
    expect(titles).to_have_text(["Greetings"])

    other = open_page()
    other.locator("#file").set_input_files(tmp_path / "all.json")
    expect(other.locator("#list .open")).to_have_count(2)
    before, after = saved(page), [one for one in saved(other) if one["title"] == "Greetings"]
    said = [[node.get("text") or node["parts"] for node in one["nodes"].values()] for one in (*before, *after)]
    assert said[0] == said[1] == ["Hello", [{"type": "text", "text": "Hello! What can I do?"}]]


def test_drafts_are_kept_for_each_conversation(open_page) -> None:
    page = open_page()
    box = page.get_by_label("Message", exact=True)
    say(page, "Hello")
    box.fill("half a thought")
    page.get_by_role("button", name="New conversation").click()
    expect(box).to_have_value("")
    box.fill("another thought")
    page.locator("#list .open").click()
    expect(box).to_have_value("half a thought")
    page.wait_for_timeout(400)
    page.reload()
    expect(box).to_have_value("half a thought")
    page.get_by_role("button", name="New conversation").click()
    expect(box).to_have_value("another thought")


def test_commands(open_page) -> None:
    page = open_page()
    box = page.get_by_label("Message", exact=True)
    box.fill("/sys")
    expect(page.locator("#hints li")).to_have_count(1)
    box.press("Tab")
    expect(box).to_have_value("/system ")
    say(page, "/system Be kind.")
    with page.expect_request("**/v1/chat/completions") as sent:
        say(page, "Hello")
    assert sent.value.post_data_json["messages"][0]["content"] == "Be kind."
    with page.expect_download() as got:
        say(page, "/export")
    assert json.loads(got.value.path().read_text())["conversations"][0]["system"] == "Be kind."
    say(page, "/help")
    expect(page.get_by_role("dialog")).to_contain_text("Shift+Ctrl+O")
    page.keyboard.press("Escape")
    say(page, "/clear")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#thread li")).to_have_count(0)
    assert saved(page) == []
    say(page, "Goodbye")
    say(page, "/new")
    expect(page.locator("#thread li")).to_have_count(0)
    say(page, "/unknown Hello")  # no command: a message
    assert bubbles(page)[-1] == "Hello! What can I do?"


def test_one_question_to_every_model(open_page) -> None:
    page = open_page()
    page.get_by_label("Compare the models").click()
    columns = page.locator(".column")
    expect(columns.locator("h2")).to_have_text(["base", "sft", "rl"])
    with page.expect_request("**/v1/chat/completions"):
        say(page, "What is the sum?")
    for i in range(3):
        expect(columns.nth(i).locator(".bubble")).to_contain_text("It is 84.")
    columns.nth(1).get_by_role("button", name="Go on with this one").click()
    expect(page.locator("#thread .card .out")).to_have_text("84")
    expect(page.get_by_label("Model", exact=True)).to_have_value("run/sft")
    assert [one["model"] for one in saved(page)] == ["run/sft"]


def test_an_error_says_what_is_wrong_and_can_be_tried_again(open_page) -> None:
    page = open_page()
    say(page, "x " * 2_000)
    expect(page.get_by_role("alert")).to_contain_text("the model's context is 1,024")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.get_by_role("button", name="New conversation").click()
    say(page, "Hello")
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#thread .bot .bubble")).to_have_text("Hello! What can I do?")
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(body='data: {"choices":[{"delta":{"content":"Half"}}]}\n\n'),
    )
    say(page, "Goodbye")
    expect(page.get_by_role("alert")).to_contain_text("broke off")
    assert bubbles(page)[-1] == "Half"


def test_the_page_asks_for_the_key_until_it_is_right(open_page) -> None:
    page = open_page(Access(("right",)))
    field = page.get_by_label("Key", exact=True)
    field.fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_text("That key was not right")).to_be_visible()
    field.fill("right")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Model", exact=True)).to_have_value("run/rl")
    say(page, "Hello")
    assert bubbles(page)[-1] == "Hello! What can I do?"
    page.reload()
    expect(page.get_by_label("Model", exact=True)).to_have_value("run/rl")
    assert page.evaluate("Object.keys(localStorage).some((name) => localStorage[name].includes('right'))") is False


def test_a_phone(open_page) -> None:
    page = open_page(width=360, has_touch=True)
    for text in ("Show code", "x" * 300, "What is the sum?"):
        say(page, text)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("[...document.querySelectorAll('main')].every((one) => one.scrollWidth <= one.clientWidth)")
    expect(page.locator("#side")).not_to_be_visible()
    page.get_by_label("The conversations", exact=True).click()
    expect(page.locator("#side")).to_be_visible()
    expect(page.get_by_role("button", name="New conversation")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#side")).not_to_be_visible()
    expect(page.get_by_label("The conversations", exact=True)).to_be_focused()
    page.get_by_label("The conversations", exact=True).click()
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("#side")).not_to_be_visible()
    expect(page.locator("#thread li")).to_have_count(0)


def test_without_a_mouse(open_page) -> None:
    page = open_page()
    focused = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim()"
    page.keyboard.type("Hello")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("you")
    page.keyboard.press("Enter")
    expect(page.locator("#thread .bot .bubble")).to_have_text("Hello! What can I do?")
    assert page.locator("#thread .user p").inner_text() == "Hello\nyou"
    expect(page.locator("#said")).to_have_text("Hello! What can I do?")  # heard, not only seen
    assert page.evaluate(focused) == "Message"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(focused) == "Answer again"
    page.keyboard.press("Enter")
    expect(page.get_by_label("Version 2 of 2")).to_be_visible()
    page.get_by_label("Version before").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Version 1 of 2")).to_be_visible()
    assert page.evaluate(focused) == "Version after"
    page.keyboard.press("Shift+Control+O")
    expect(page.locator("#thread li")).to_have_count(0)
    page.keyboard.press("Control+k")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == "Hello you"
    page.keyboard.press("Enter")
    expect(page.locator("#thread li")).to_have_count(2)


def test_dark_or_light_is_kept(open_page) -> None:
    page = open_page(color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_label("Dark or light").click()
    dark = page.evaluate(paper)
    assert light != dark
    page.reload()
    assert page.evaluate(paper) == dark
    page.get_by_label("Dark or light").click()
    assert page.evaluate(paper) == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_people_who_cannot_see_it_can_use_it(open_page, scheme: str) -> None:
    page = open_page(color_scheme=scheme, seconds=0.002)

    def check(what: str) -> None:
        assert serious(page) == [], what

    check("nothing said")
    say(page, "Show code")
    say(page, "What is the sum?")
    page.locator("#thread .bot").first.get_by_label("Answer again").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    say(page, "x " * 2_000)
    expect(page.locator(".hljs-keyword").first).to_be_visible()
    check("conversation")
    page.get_by_label("Settings of this conversation").click()
    check("settings")
    page.keyboard.press("Escape")
    say(page, "/help")
    check("help")
    page.keyboard.press("Escape")
    page.get_by_label("Compare the models").click()
    say(page, "What is the sum?")
    check("side by side")
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_label("The conversations", exact=True).click()
    time.sleep(0.3)  # the drawer moves
    check("drawer")


WRITE = calling("write_file('a.txt', 'tea')", words="I write. ")


def test_the_agents_questions_are_answered_in_the_page(agent_page, tmp_path: Path) -> None:
    page = agent_page(WRITE, said("Written."), WRITE, said("I may not."), WRITE, WRITE, said("Twice."), said("Bye."))
    file = tmp_path / "runs" / "my-bot" / "agent" / "files" / "a.txt"
    say(page, "Write it", wait=False)
    question = page.get_by_role("group", name="May it call write_file?")
    expect(question.locator("pre")).to_contain_text("file: a.txt")
    assert serious(page) == []
    expect(question).to_be_focused()
    assert not file.exists()
    question.get_by_role("button", name="Once").click()
    expect(page.locator("#thread .bubble").last).to_contain_text("Written.")
    assert file.read_text() == "tea"
    expect(page.locator("#thread .card .call")).to_contain_text("write_file('a.txt', 'tea')")
    file.unlink()

    say(page, "Write it again", wait=False)
    question.get_by_role("button", name="No").click()
    expect(page.locator("#thread .bubble").last).to_contain_text("I may not.")
    expect(page.locator("#thread .card .out").last).to_contain_text("not allowed")
    assert not file.exists()

    say(page, "Twice", wait=False)
    question.get_by_role("button", name="Always").click()
    expect(page.locator("#thread .bubble").last).to_contain_text("Twice.")  # the second call asked nobody
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.wait_for_timeout(400)
    page.reload()
    expect(page.locator("#thread li")).to_have_count(6)
    with page.expect_request("**/agent/turns") as sent:
        say(page, "Bye")
    assert sent.value.post_data_json["session"] > 0  # the same conversation for the agent
    expect(page.locator("#thread .bubble").last).to_have_text("Bye.")


def test_a_stopped_question_is_a_no(agent_page, tmp_path: Path) -> None:
    page = agent_page(WRITE, said("Hello."), said("Hello."))
    say(page, "Write it", wait=False)
    expect(page.get_by_role("group", name="May it call write_file?")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.")).to_be_visible()
    say(page, "Hello")
    expect(page.locator("#thread .bubble").last).to_have_text("Hello.")
    assert not (tmp_path / "runs" / "my-bot" / "agent" / "files" / "a.txt").exists()


def test_memory_is_seen_and_changed(agent_page) -> None:
    page = agent_page(calling("remember('The cat is Tom')"), said("Noted."), calling("recall('cat')"), said("Tim."))
    say(page, "The cat is Tom")
    expect(page.locator("#thread .bubble").last).to_contain_text("Noted.")
    page.get_by_role("button", name="Memory").click()
    expect(page.get_by_label("Memory 1")).to_have_value("The cat is Tom")
    page.get_by_label("Memory 1").fill("The cat is Tim")
    page.get_by_label("Something new").fill("Tea is green")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Memory 2")).to_have_value("Tea is green")
    page.get_by_label("Forget 2").click()
    expect(page.get_by_label("Memory 2")).to_have_count(0)
    page.get_by_role("button", name="Done").click()
    say(page, "Who is the cat?")
    expect(page.locator("#thread .card .out").last).to_have_text("1: The cat is Tim")
