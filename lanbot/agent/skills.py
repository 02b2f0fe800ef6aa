"""Skills, folders with a SKILL.md that says how something is done, and a project's note, AGENTS.md; if they are there.

Both are the user's own words and go into the system message: of a skill its name and description, and what it says when
the model reads it. They are looked for where the file tools cannot write (no name there may start with a dot), but for
AGENTS.md in the workspace itself.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lanbot.core.console import visible
from lanbot.core.errors import UserError
from lanbot.tools.tool import ToolError, tool
from lanbot.tools.workspace import Workspace

FOLDER = Path(".agents", "skills")
"""In a workspace."""
FILE, NOTE = "SKILL.md", "AGENTS.md"
MAX_SKILLS = 50
MAX_NAME, MAX_DESCRIPTION = 64, 1_024  # characters, by the specification
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
SHARE = 4
"""A note takes at most this part of the model's context."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Skill:
    name: str
    description: str
    folder: Path


class Skills:
    """The skills below some folders; of two with a name the first one counts. warn: gets why one is left out."""

    def __init__(self, folders: Iterable[Path], warn: Say) -> None:
        self.skills: dict[str, Skill] = {}
        for file in sorted(file for folder in folders for file in folder.glob(f"*/{FILE}")):
            try:
                made = read_skill_file(file)
            except ValueError as error:
                warn(f"the skill {file.parent} is left out: {error}")
                continue
            if len(self.skills) == MAX_SKILLS:
                warn(f"there are more than {MAX_SKILLS} skills; {made.name} and those after it are left out")
                break
            self.skills.setdefault(made.name, made)

    @property
    def tools(self) -> list[Callable[..., str]]:
        return [self.read_skill] if self.skills else []

    @property
    def text(self) -> str:
        """What the system message says of them; "" if there are none."""
        if not self.skills:
            return ""
        listed = "\n".join(f"- {skill.name}: {skill.description}" for skill in self.skills.values())
        return f'Skills say how something is done. Before a task that one fits, read it: read_skill("NAME").\n{listed}'

    @tool(kind="read")
    def read_skill(self, name: str, file: str = FILE, start: int = 1, lines: int = 200) -> str:
        """Reads the instructions of a skill, or another file of its folder.

        Args:
            file: A file that the instructions name.
            start: The first line to read, from 1.
            lines: How many lines to read.

        Returns:
            its text
        """
        if name not in self.skills:
            raise ToolError(f"no skill {str(name)[:MAX_NAME]}; there are: {', '.join(self.skills)}")
        return Workspace(self.skills[name].folder).read_file(file, start, lines)


def read_skill_file(file: Path) -> Skill:
    """The skill of a SKILL.md. Raises ValueError if it is not as the specification wants it."""
    import yaml

    try:
        found = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", file.read_text("utf-8"), re.S)
        head: Any = yaml.safe_load(found[1]) if found else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ValueError(f"{FILE} cannot be read ({said[:100]})") from None
    if not isinstance(head, dict):
        raise ValueError(f"{FILE} does not begin with name and description between two lines of ---")
    name, description = head.get("name"), head.get("description")
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise ValueError(f"its name {str(name)[:MAX_NAME]!r} is not one of small letters, digits and single hyphens")
    if name != file.parent.name:
        raise ValueError(f"its name is {name}, its folder's is not")
    if not isinstance(description, str) or not description.strip() or len(description) > MAX_DESCRIPTION:
        raise ValueError(f"its description is no text of 1 to {MAX_DESCRIPTION:,} characters")
    return Skill(name, visible(" ".join(description.split())), file.parent)


def find_note(workspace: Path, look_above: bool = True) -> Path | None:
    """The AGENTS.md that counts in a folder: its own, or that of the nearest folder above it in the same repository."""
    here = workspace.resolve()
    above = [here, *(here.parents if look_above else ())]
    root = next((i for i, folder in enumerate(above) if (folder / ".git").exists()), 0)
    return next((file for folder in above[: root + 1] if (file := folder / NOTE).is_file()), None)


def note_text(file: Path, room: int, count: Callable[[str], int], say: Say) -> str:
    """What the system message says of a note: as many of its lines as take `room` tokens by `count`. Raises UserError.

    say: gets that it was read, and how much of it.
    """
    try:
        text = visible(file.read_bytes().decode(errors="replace").replace("\r\n", "\n")).strip()
    except OSError as error:
        raise UserError(f"{file}: cannot be read, {error.strerror}", "Fix that, or move it away.") from None
    if not text:
        return ""
    begin, lines = f"The user's notes on this project ({NOTE}):\n", text.split("\n")
    kept = bisect_right(range(1, len(lines) + 1), room, key=lambda n: count(begin + "\n".join(lines[:n])))
    cut = "" if kept == len(lines) else f"\n[the other {len(lines) - kept} of {len(lines)} lines are left out]"
    read = f"{kept} of its {len(lines)} lines: it is longer than a part of the context" if cut else f"{kept} lines"
    say(f"{file} was read, {read}")
    return begin + "\n".join(lines[:kept]) + cut if kept else ""
