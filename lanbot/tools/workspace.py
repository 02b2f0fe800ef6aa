"""Text files that a model may list, read, write, edit and search: a folder on disk, or a dict in memory.

What the tools say is trained into weights, so it does not change. Errors are short and say how to mend the call.
Nothing outside the folder can be reached: no absolute path, no "..", no link, no name with a dot at its beginning
(.git/hooks would run as code).
"""

import os
import re
import stat
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

from lanbot.tools.calculator import MAX_SIZE, format_value
from lanbot.tools.tool import ToolError
from lanbot.tools.words import content_words

MAX_FILE = 1_000_000
"""Characters of a file."""
MAX_FILES = 1_000
"""Files of a folder that are searched and named; those beyond are reached by their name only."""
MAX_SEARCHED = 10_000_000
"""Characters that one search looks through."""
MAX_PATH = 200
MAX_NAME = 100
"""Bytes of a path, and of each name in it."""
MAX_HITS = 10
MAX_LINE = 200
"""Characters of a line that a search shows."""
NAMED = 5
"""Files that an error names."""


class Store(Protocol):
    """Where the files are. Names are relative, with "/" between folders; "" is the top."""

    def kind(self, name: str) -> str:
        """ "file", "folder", or "" where there is none."""

    def entries(self, folder: str) -> list[str]:
        """The names in a folder, those of folders with "/" at their end, sorted."""

    def names(self) -> list[str]:
        """The names of all files, sorted."""

    def read(self, name: str) -> str: ...

    def write(self, name: str, text: str) -> None: ...


class Workspace:
    """The five tools over a folder, which is made when something is written, or over a dict {name: text}."""

    def __init__(self, files: Path | str | dict[str, str]) -> None:
        self.store: Store = InMemory(files) if isinstance(files, dict) else OnDisk(Path(files))
        self.functions: dict[str, Callable[..., str]] = {
            "list_files": self.list_files,
            "read_file": self.read_file,
            "write_file": self.write_file,
            "edit_file": self.edit_file,
            "search_files": self.search_files,
        }

    def names(self) -> list[str]:
        """The names of all files, sorted."""
        return self.store.names()

    def list_files(self, path: str = ".") -> str:
        folder = _name(path)
        kind = self.store.kind(folder)
        if kind == "file":
            raise ToolError(f"{folder} is a file; read_file reads it")
        if not kind and folder:
            raise ToolError(f"no folder {folder}{self._instead(folder)}")
        return "\n".join(self.store.entries(folder)) or "(empty)"

    def read_file(self, path: str, start: int = 1, lines: int = 200) -> str:
        if not isinstance(start, int) or not isinstance(lines, int) or start < 1 or lines < 1:
            raise ToolError("start and lines are whole numbers from 1 on")
        name, text = self._read(path)
        if start > 1 or lines <= text.count("\n"):
            rows = text.split("\n")
            count = len(rows) - (rows[-1] == "")
            if start > max(count, 1):
                raise ToolError(f"{name} has {count} lines")
            text = "\n".join(rows[start - 1 : start - 1 + lines])
        if len(text) > MAX_SIZE:
            raise ToolError(f"too long: more than {MAX_SIZE:,} characters; read fewer lines")
        return text

    def write_file(self, path: str, text: str) -> str:
        name = self._file(path)
        if self.store.kind(name) == "folder":
            raise ToolError(f"{name} is a folder")
        at = name.find("/")
        while at > 0:
            if self.store.kind(name[:at]) == "file":
                raise ToolError(f"{name[:at]} is a file, not a folder")
            at = name.find("/", at + 1)
        self._write(name, text if isinstance(text, str) else format_value(text))
        return f"wrote {name}"

    def edit_file(self, path: str, old: str, new: str) -> str:
        if not isinstance(old, str) or not isinstance(new, str):
            raise ToolError("old and new must be text")
        if not old:
            raise ToolError("old is empty")
        name, text = self._read(path)
        found = text.count(old)
        if found == 1 and text.find(old, text.find(old) + 1) >= 0:  # it overlaps with itself
            found = 2
        if found != 1:
            more = "; give more of the text around it" if found else ""
            raise ToolError(f"old occurs {found} times in {name}{more}")
        self._write(name, text.replace(old, new))
        return f"edited {name}"

    def search_files(self, query: str) -> str:
        """Lines with the whole query, as words before within words; if none, lines with most of its words."""
        whole = " ".join(query.lower().split()) if isinstance(query, str) else format_value(query)
        if not whole:
            raise ToolError("the query is empty")
        texts, left = [], MAX_SEARCHED
        for name in self.names():
            try:
                text = self.store.read(name)
            except ToolError:  # no text
                continue
            left -= len(text)
            if left < 0:
                break
            texts.append((name, text))
        hits = _lines_with(whole, texts) or _lines_with_most(content_words(whole), texts)
        hits.sort(key=lambda hit: -hit[0])
        return "\n".join(hit for _, hit in hits[:MAX_HITS]) or "no match"

    def _file(self, path: str) -> str:
        name = _name(path)
        if not name or path.rstrip().endswith("/"):
            raise ToolError("a file's name is needed")
        return name

    def _read(self, path: str) -> tuple[str, str]:
        name = self._file(path)
        kind = self.store.kind(name)
        if kind == "folder":
            raise ToolError(f"{name} is a folder; list_files lists it")
        if not kind:
            raise ToolError(f"no file {name}{self._instead(name)}")
        text = self.store.read(name)
        if len(text) > MAX_FILE:
            raise ToolError(f"{name} is too large")
        return name, text

    def _write(self, name: str, text: str) -> None:
        if len(text) > MAX_FILE:
            raise ToolError(f"too long: {len(text):,} characters of at most {MAX_FILE:,}")
        self.store.write(name, text)

    def _instead(self, wrong: str) -> str:
        """The end of an error: the name that was meant, or what there is."""
        names = self.names()
        alike = {name.lower(): name for name in reversed(names)}
        near = get_close_matches(wrong.lower(), alike, 1)
        if near:
            return f"; did you mean {alike[near[0]]}?"
        if not names:
            return "; there are no files"
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"; there are: {', '.join(names[:NAMED])}{more}"


class InMemory:
    """Files in a dict {name: text}."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    def kind(self, name: str) -> str:
        if name in self.files:
            return "file"
        inside = f"{name}/" if name else ""
        return "folder" if any(other.startswith(inside) for other in self.files) else ""

    def entries(self, folder: str) -> list[str]:
        inside = f"{folder}/" if folder else ""
        names = [name[len(inside) :] for name in self.files if name.startswith(inside)]
        return sorted({first + slash for first, slash, _ in (name.partition("/") for name in names)})

    def names(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> str:
        return self.files[name]

    def write(self, name: str, text: str) -> None:
        self.files[name] = text


class OnDisk:
    """Files in a folder. Links are not followed, and names with a dot at their beginning are not there."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def kind(self, name: str) -> str:
        path, mode = self.root, stat.S_IFDIR
        for part in name.split("/") if name else ():
            path = path / part
            try:
                mode = os.lstat(path).st_mode
            except (FileNotFoundError, NotADirectoryError):
                return ""
            if stat.S_ISLNK(mode):
                raise ToolError(f"{name} is a link, which is not followed")
        if stat.S_ISDIR(mode):
            return "folder"
        if not stat.S_ISREG(mode):
            raise ToolError(f"{name} is no file")
        return "file"

    def entries(self, folder: str) -> list[str]:
        try:
            with os.scandir(self.root / folder) as found:
                return sorted(
                    entry.name + "/" * entry.is_dir(follow_symlinks=False)
                    for entry in found
                    if _allowed(entry.name)
                    and (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False))
                )
        except OSError:  # not there, or closed to us
            return []

    def names(self) -> list[str]:
        names: list[str] = []
        folders = [""]
        while folders and len(names) < MAX_FILES:
            folder = folders.pop()
            for entry in self.entries(folder.rstrip("/")):
                (folders if entry.endswith("/") else names).append(folder + entry)
        return sorted(names[:MAX_FILES])

    def read(self, name: str) -> str:
        path = self.root / name
        try:
            if path.stat().st_size > 4 * MAX_FILE:
                raise ToolError(f"{name} is too large")
            text = path.read_bytes().decode()
        except UnicodeDecodeError:
            raise ToolError(f"{name} is not text") from None
        except OSError as error:
            raise ToolError(f"{name} cannot be read: {error.strerror}") from None
        if "\0" in text:
            raise ToolError(f"{name} is not text")
        return text

    def write(self, name: str, text: str) -> None:
        """Written beside, then renamed: whole or as before."""
        path = self.root / name
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.unlink(missing_ok=True)
            with beside.open("xb") as file:  # never through a link that somebody put there
                file.write(text.encode())
            if path.exists():
                beside.chmod(stat.S_IMODE(path.stat().st_mode))
            beside.replace(path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise ToolError(f"{name} cannot be written: {error.strerror}") from None


def _allowed(name: str) -> bool:
    """May a file or folder be called so?"""
    plain = name[:1] != "." and name.isprintable() and "\\" not in name and ":" not in name
    return plain and len(name.encode()) <= MAX_NAME


def _name(path: str) -> str:
    """ "./a//b.txt" -> "a/b.txt"; "" for the top. Raises ToolError: it leads out, or no file is called so."""
    if not isinstance(path, str):
        raise ToolError("the path must be text")
    path = path.strip()
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith(("/", "~/")) or ".." in parts:
        raise ToolError(f"{path[:MAX_NAME]} is outside the workspace; names are like notes.txt")
    name = "/".join(parts)
    if not all(map(_allowed, parts)) or len(name.encode()) > MAX_PATH:
        raise ToolError(f"{path[:MAX_NAME]!r} cannot be a file's name")
    return name


def _lines_with(whole: str, texts: list[tuple[str, str]]) -> list[tuple[int, str]]:
    """(rank, "name:1: line") of the lines that hold the whole query."""
    hits = []
    for name, text in texts:
        if whole in text.lower():
            for number, line in enumerate(text.split("\n"), 1):
                if whole in line.lower():
                    alone = re.search(rf"(?<!\w){re.escape(whole)}(?!\w)", line.lower())
                    hits.append((int(alone is not None), _hit(name, number, line)))
    return hits


def _lines_with_most(words: list[str], texts: list[tuple[str, str]]) -> list[tuple[int, str]]:
    """(words held, "name:1: line") of the lines that hold more than half of the query's words."""
    hits = []
    for name, text in texts:
        for number, line in enumerate(text.split("\n"), 1):
            lower = line.lower()
            held = sum(word in lower for word in words)
            if held * 2 > len(words):
                hits.append((held, _hit(name, number, line)))
    return hits


def _hit(name: str, number: int, line: str) -> str:
    return f"{name}:{number}: {line.strip()[:MAX_LINE]}"
