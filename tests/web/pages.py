"""What the tests of the chat page share: what its models say, and what a person does."""

from typing import Any

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


def say(page: Any, text: str, wait: bool = True) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    if wait:
        page.get_by_role("button", name="Send").wait_for()


def bubbles(page: Any) -> list[str]:
    return page.locator("#thread .bubble").all_inner_texts()


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
