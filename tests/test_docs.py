"""The documentation names files, commands, make targets and links that exist."""

import re
from pathlib import Path

import pytest

from lanbot.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
]
PATH = re.compile(r"(?<![\w./-])(?:lanbot|tests|benchmarks|scripts|docs)/[\w./*-]*[\w/*]")
CODE = re.compile(r"^```[^\n]*\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^|(?<=[\s;(|]))lanbot((?: [a-z][a-z-]*)+)", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code(page: Path) -> str:
    """All code spans and code blocks of a page, a line each."""
    return "\n".join(block or span for block, span in CODE.findall(page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_paths_exist(page: Path) -> None:
    named = set(PATH.findall(page.read_text(encoding="utf-8")))
    assert not sorted(path for path in named if not any(ROOT.glob(path.rstrip("/"))))


@pages
def test_commands_exist(page: Path) -> None:
    unknown = []
    for words in COMMAND.findall(code(page)):
        command, *rest = words.split()
        if command not in app:
            unknown.append(command)
        elif rest and (group := [name for name in app[command] if not name.startswith("-")]) and rest[0] not in group:
            unknown.append(f"{command} {rest[0]}")
    assert not unknown


@pages
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    lines = re.findall(r"^make ([a-z][a-z -]*[a-z])", code(page), re.MULTILINE)
    assert {target for line in lines for target in line.split()} <= targets


@pages
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)
    assert not broken
