"""`fetch`: a page of the web as text that can be read."""

import html
import re
from importlib.util import find_spec

from lanbot.core.console import visible
from lanbot.tools.tool import ToolError, tool
from lanbot.tools.web import Response, Web
from lanbot.tools.workspace import Workspace

MAX_TEXT = 50_000  # characters of a page
CUT = "\n... [cut]"
TEXTS = ("application/json", "application/xml", "application/javascript", "application/yaml", "application/x-yaml")

# Patterns that read any page in one pass: html.parser takes minutes for a hostile page of 100 KB.
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_UNREAD = re.compile(
    r"<(script|style|noscript|template|svg|head|nav|footer|iframe)\b.*?(?:</\1\b[^<>]*>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_BLOCK = re.compile(
    r"</?(?:address|article|aside|blockquote|br|dd|div|dl|dt|figure|h\d|header|hr|li|main|ol|p|pre|section|table|td|th|tr"
    r"|ul)\b[^<>]*>",
    re.IGNORECASE,
)
_TAG = re.compile(r"<[/!?a-zA-Z][^<>]*>")
_TITLE = re.compile(r"<title\b[^<>]*>([^<]{0,500})", re.IGNORECASE)


class Pages:
    """The tool `fetch`. folder: texts that are read by their names, as an offline search shows them."""

    def __init__(self, web: Web, folder: Workspace | None = None) -> None:
        self.web, self.folder = web, folder

    @tool(kind="network", subject="url")
    def fetch(self, url: str) -> str:
        """Reads a page of the web.

        Args:
            url: Its address.

        Returns:
            its title and its text
        """
        if self.folder is not None and isinstance(url, str) and "://" not in url:
            text = self.folder.read_file(url, lines=MAX_TEXT)
            return shortened(readable(text) if url.endswith((".html", ".htm")) else text)
        response = self.web.get(url)
        if response.status >= 400:
            raise ToolError(f"{response.url} answers {response.status} {response.reason}".rstrip())
        return shortened(page_text(response))


def page_text(response: Response) -> str:
    """The text of an answer: of a page what a reader would read. Raises ToolError if it is no text."""
    kind = response.kind
    if "html" in kind:
        return readable(response.text)
    is_text = kind.startswith("text/") or kind.endswith(("+json", "+xml")) or kind in TEXTS
    if not is_text and (kind or b"\0" in response.body):
        raise ToolError(f"{response.url} is {kind or 'no text'}, which cannot be read as text")
    return response.text


def readable(source: str) -> str:
    """The title and the main text of a page in HTML: by trafilatura if it is installed, else everything but menus."""
    source = _COMMENT.sub("", source)
    found = _TITLE.search(source)
    title = " ".join(html.unescape(found[1]).split()) if found else ""
    text = (_main_text(source) if find_spec("trafilatura") else "") or _all_text(source)
    return text if not title or text.startswith(title) else f"{title}\n\n{text}".strip()


def shortened(text: str) -> str:
    """At most MAX_TEXT characters; control characters are made visible."""
    text = visible(text.replace("\r\n", "\n"))
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - len(CUT)] + CUT


def _main_text(source: str) -> str:
    import logging

    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # pages without a text are no news to the user
    return trafilatura.extract(source, include_comments=False) or ""


def _all_text(source: str) -> str:
    text = html.unescape(_TAG.sub("", _BLOCK.sub("\n", _UNREAD.sub("", source))))
    return "\n".join(line for line in (" ".join(line.split()) for line in text.split("\n")) if line)
