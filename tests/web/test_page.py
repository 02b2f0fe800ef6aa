"""The chat page in a browser, over the real server; what the model says is scripted."""

import json

import pytest
from pages import bubbles, saved, say

from lanbot.web.security import Access

expect = pytest.importorskip("playwright.sync_api").expect


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


def test_no_event_is_lost_wherever_a_read_ends(open_page) -> None:
    page = open_page()
    heard = page.evaluate(
        """async () => {
          const { frames } = await import(new URL("sse.js", document.querySelector("link").href));
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
