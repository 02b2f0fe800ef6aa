"""The run's agent in the chat page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import serious
from pages import SCRIPT, say
from scripted_client import Scripted as PlayedBack
from scripted_client import calling, said

from lanbot.agent import session
from lanbot.config.recipe_file import load
from lanbot.config.run import Run
from lanbot.web.agent_host import AgentHost, Remembered

expect = pytest.importorskip("playwright.sync_api").expect

WRITE = calling("write_file('a.txt', 'tea')", words="I write. ")


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
