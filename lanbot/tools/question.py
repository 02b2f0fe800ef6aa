"""What a user is shown before a call is allowed: exactly what would happen, and nothing that hides it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import unified_diff
from typing import Any

from lanbot.core.console import visible
from lanbot.tools.rules import Address, Files, Rule, Target
from lanbot.tools.tool import Tool
from lanbot.tools.web import checked_url
from lanbot.tools.workspace import Workspace

MAX_SHOWN = 6_000  # characters of one argument; of a longer one the beginning and the end are shown
MAX_COMPARED = 200_000  # characters of a file that is compared line by line
MAX_RULE = 200  # characters of a rule that is shown in full
WHOLE = ("code", "url", "command")
MARK = "  | "
"""Before each line of a text, so that none can look like the question itself."""


@dataclass(frozen=True)
class Question:
    """text: the call in full, all control characters visible. always: the rule that the answer "always" adds."""

    tool: str
    kind: str
    text: str
    always: str


def question(tool: Tool, arguments: Mapping[str, Any], target: Target, files: Workspace, always: Rule) -> Question:
    """Raises ToolError if the call would fail anyway."""
    rest, lines = dict(arguments), [f"{tool.name} ({tool.kind})"]
    if isinstance(target, Files) and tool.subject == "path":
        rest.pop("path", None)
        lines.append(f"  file: {_named(target.names[0])}" if target.names[0] else "  file: the whole workspace")
        lines += _change(tool, rest, arguments, files)
    if isinstance(target, Address):
        rest.pop("method", None)
        lines += [f"  {target.method} {visible(str(checked_url(rest.pop('url'))))}", f"  connects to: {target.place}"]
    for name, value in rest.items():
        lines += _argument(name, value)
    rule = visible(str(always))
    if len(rule) > MAX_RULE or "\n" in rule:
        rule = f"{tool.name} with this {tool.subject}"
    return Question(tool.name, tool.kind, "\n".join(lines), rule)


def _change(tool: Tool, rest: dict[str, Any], arguments: Mapping[str, Any], files: Workspace) -> list[str]:
    """What becomes of a file, in place of the arguments that say it."""
    if tool.name == "write_file":
        _, before, after = files.written(**arguments)
        rest.clear()
    elif tool.name == "edit_file":
        _, before, after = files.edited(**arguments)
        rest.clear()
    else:
        return []
    length = f"  {len(before):,} characters before, {len(after):,} after"
    if not before or len(before) + len(after) > MAX_COMPARED:
        return [length, *_block(after)]
    compared = unified_diff(before.split("\n"), after.split("\n"), "before", "after", lineterm="")
    return [length, *_block("\n".join(compared) or "nothing changes")]


def _argument(name: str, value: Any) -> list[str]:
    if not isinstance(value, str) or "\n" not in value:
        try:
            text = visible(json.dumps(value, ensure_ascii=False))
        except (TypeError, ValueError):
            text = visible(repr(value)).replace("\n", "\\n")
        if len(text) <= MAX_SHOWN and "\n" not in text:
            return [f"  {visible(name)}: {text}"]
        value = value if isinstance(value, str) else text
    return [f"  {visible(name)}: {len(value):,} characters", *_block(value, 10**9 if name in WHOLE else MAX_SHOWN)]


def _block(text: str, limit: int = MAX_SHOWN) -> list[str]:
    return [MARK + line for line in _bounded(visible(text), limit).split("\n")]


def _bounded(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half:,} characters are not shown ...\n{text[-half:]}"


def _named(name: str) -> str:
    """A name, and if it may look like another one, its characters."""
    return visible(name) if name.isascii() else f"{visible(name)} (not ASCII: {name.encode('unicode_escape').decode()})"
