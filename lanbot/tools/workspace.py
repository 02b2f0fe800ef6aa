"""Text files that a model may list, read, write, edit and search: a folder on disk, or a dict in memory.

The outputs of the tools are trained into weights, so they do not change. Errors are short and say how to correct the
call. Nothing outside the folder can be reached: no absolute path, no "..", no link, no name that starts with a dot
(.git/hooks would run as code).
"""

import re
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from itertools import accumulate
from pathlib import Path

from lanbot.tools.calculator import format_value
from lanbot.tools.operations import MAX_SIZE
from lanbot.tools.stores import MAX_FILE, MAX_NAME, InMemory, OnDisk, allowed
from lanbot.tools.tool import ToolError, tool
from lanbot.tools.words import content_words, fold

MAX_SEARCHED = 10_000_000  # characters that one search reads
MAX_PATH = 200
MAX_HITS = 10
MAX_LINE = 200  # characters of a line that a search shows
NAMED = 5  # files that an error lists


class Workspace:
    """Five tools over a folder, which is created by the first write, or over a dict {name: text}."""

    def __init__(self, files: Path | str | dict[str, str]) -> None:
        self.store: InMemory | OnDisk = InMemory(files) if isinstance(files, dict) else OnDisk(Path(files))

    @property
    def tools(self) -> list[Callable[..., str]]:
        return [self.list_files, self.read_file, self.write_file, self.edit_file, self.search_files]

    def names(self) -> list[str]:
        """The names of all files, sorted."""
        return self.store.names()

    @tool(kind="read", subject="path")
    def list_files(self, path: str = ".") -> str:
        """Lists a folder.

        Returns:
            names, one a line, or (empty)
        """
        folder = self.name_of(path)
        kind = self.store.kind(folder)
        if kind == "file":
            raise ToolError(f"{folder} is a file; read_file reads it")
        if not kind and folder:
            raise ToolError(f"no folder {folder}{self._instead(folder)}")
        return "\n".join(self.store.entries(folder)) or "(empty)"

    @tool(kind="read", subject="path")
    def read_file(self, path: str, start: int = 1, lines: int = 200) -> str:
        """Reads a text file, or some lines of a long one.

        Args:
            start: The first line to read, from 1.
            lines: How many lines to read.

        Returns:
            its text
        """
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

    @tool(kind="write", subject="path")
    def write_file(self, path: str, text: str) -> str:
        """Writes a text file, replacing what was there.

        Returns:
            wrote PATH
        """
        name = self._to_write(path)
        self._write(name, text if isinstance(text, str) else format_value(text))
        return f"wrote {name}"

    @tool(kind="write", subject="path")
    def edit_file(self, path: str, old: str, new: str) -> str:
        """Replaces a piece of a text file.

        Args:
            old: The text to replace.
            new: What replaces it.

        Returns:
            edited PATH; old stands in the file exactly once
        """
        name, _, text = self.edited(path, old, new)
        self._write(name, text)
        return f"edited {name}"

    @tool(kind="read", subject="files")
    def search_files(self, query: str) -> str:
        """Finds lines that contain the query as a whole, whole words first; if none, lines with most of its words.

        Returns:
            lines like NAME:LINE: text, or no match
        """
        whole = " ".join(fold(query if isinstance(query, str) else format_value(query)).split())
        if not whole:
            raise ToolError("the query is empty")
        texts, left = [], MAX_SEARCHED
        for name in self.names():
            try:
                text = self.store.read(name)
            except ToolError:  # not text
                continue
            left -= len(text)
            if left < 0:
                break
            texts.append((name, text))
        alone, words = re.compile(rf"(?<!\w){re.escape(whole)}(?!\w)"), content_words(whole)

        def rank(line: str) -> int:
            return (whole in line) + (alone.search(line) is not None)

        def held(line: str) -> int:
            count = sum(word in line for word in words)
            return count if count * 2 > len(words) else 0

        holding = [(name, text) for name, text in texts if whole in fold(text)]
        hits = _ranked(rank, holding) or _ranked(held, texts)
        return "\n".join(hits[:MAX_HITS]) or "no match"

    def edited(self, path: str, old: str, new: str) -> tuple[str, str, str]:
        """The file that `edit_file` would write: its name, and its text before and after. Raises ToolError."""
        if not isinstance(old, str) or not isinstance(new, str):
            raise ToolError("old and new must be text")
        if not old:
            raise ToolError("old is empty")
        name, text = self._read(path)
        pattern = _any_line_end(old)
        found = len(re.findall(f"(?={pattern})", text))  # matches that overlap count too
        if found != 1:
            more = "; give more of the text around it" if found else ""
            raise ToolError(f"old occurs {found} times in {name}{more}")
        if text.count("\r\n") * 2 > text.count("\n"):
            new = re.sub("\r?\n", "\r\n", new)
        return name, text, re.sub(pattern, lambda _: new, text)

    def written(self, path: str, text: str) -> tuple[str, str, str]:
        """The same for `write_file`; before is "" if there is no file, or none that is text."""
        name, before = self._to_write(path), ""
        if self.store.kind(name):
            with suppress(ToolError):  # not text
                before = self.store.read(name)
        return name, before, text if isinstance(text, str) else format_value(text)

    @property
    def folder(self) -> Path | None:
        """Where the files are; None for those in memory."""
        return self.store.root if isinstance(self.store, OnDisk) else None

    @property
    def folds_case(self) -> bool:
        """Whether Notes.txt and notes.txt are one file."""
        return self.store.folds_case

    def name_of(self, path: str) -> str:
        """The name that a path means, "" for the top folder; one that looks the same as an existing one is taken for
        it. Raises ToolError if it leads out of the workspace."""
        name = _relative(path)
        if name.isascii() and (not name or self.store.kind(name)):
            return name
        folder, found = "", []
        for part in name.split("/"):
            there = [entry.rstrip("/") for entry in self.store.entries(folder)]
            alike = [entry for entry in there if _look(entry) == _look(part)]
            found.append(alike[0] if part not in there and len(alike) == 1 else part)
            folder = "/".join(found)
        return folder

    def _file(self, path: str) -> str:
        name = self.name_of(path)
        if not name or path.rstrip().endswith("/"):
            raise ToolError("a file's name is needed")
        return name

    def _to_write(self, path: str) -> str:
        name = self._file(path)
        if self.store.kind(name) == "folder":
            raise ToolError(f"{name} is a folder")
        for folder in list(accumulate(name.split("/"), "{}/{}".format))[:-1]:
            if self.store.kind(folder) == "file":
                raise ToolError(f"{folder} is a file, not a folder")
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
        if re.search("[\0\ud800-\udfff]", text):
            raise ToolError("the text holds a character that no text file can hold")
        self.store.write(name, text)

    def _instead(self, wrong: str) -> str:
        """The end of an error: the name that was probably meant, or what there is."""
        names = self.names()
        alike = {name.lower(): name for name in reversed(names)}
        near = get_close_matches(wrong.lower(), alike, 1)
        if near:
            return f"; did you mean {alike[near[0]]}?"
        if not names:
            return "; there are no files"
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"; there are: {', '.join(names[:NAMED])}{more}"


def _relative(path: str) -> str:
    """ "./a//b.txt" -> "a/b.txt"; "" for the top folder. Raises ToolError if it leads out or is not allowed."""
    if not isinstance(path, str):
        raise ToolError("the path must be text")
    path = path.strip()
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith(("/", "~/")) or ".." in parts:
        raise ToolError(f"{path[:MAX_NAME]} is outside the workspace; names are like notes.txt")
    name = "/".join(parts)
    if not all(map(allowed, parts)) or len(name.encode()) > MAX_PATH:
        raise ToolError(f"{path[:MAX_NAME]!r} cannot be a file's name")
    return name


def _look(name: str) -> str:
    """A name as it looks: one Unicode form, plain spaces, nothing invisible."""
    return "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf").strip()


def _any_line_end(text: str) -> str:
    """A pattern for the text in which each line may end in \\n or in \\r\\n."""
    return re.escape(text.replace("\r\n", "\n")).replace("\\\n", "(?:\r\n|(?<!\r)\n)")


def _ranked(rank: Callable[[str], int], texts: list[tuple[str, str]]) -> list[str]:
    """The lines with a rank as "name:1: line", those with the highest first. rank: of a folded line."""
    hits = []
    for name, text in texts:
        for number, line in enumerate(text.split("\n"), 1):
            if found := rank(fold(line)):
                hits.append((found, f"{name}:{number}: {line.strip()[:MAX_LINE]}"))
    hits.sort(key=lambda hit: -hit[0])
    return [hit for _, hit in hits]
