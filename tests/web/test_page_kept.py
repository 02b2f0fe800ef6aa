"""What the chat page keeps in the browser: conversations, settings, drafts, files."""

import json
from pathlib import Path

import pytest
from pages import bubbles, saved, say

expect = pytest.importorskip("playwright.sync_api").expect


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
