"""The chat page on a phone, without a mouse, in the dark, without seeing it."""

import time

import pytest
from browser import serious
from pages import say

expect = pytest.importorskip("playwright.sync_api").expect


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
