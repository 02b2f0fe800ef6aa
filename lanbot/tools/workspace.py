"""Text files that a model may list, read, write, edit and search: a folder on disk, or a dict in memory.

The outputs of the tools are trained into weights, so they do not change. Errors are short and say how to correct the
call. Nothing outside the folder can be reached: no absolute path, no "..", no link, no name that starts with a dot
(.git/hooks would run as code).
"""

import os
import re
import stat
import unicodedata
from collections.abc import Callable
from difflib import get_close_matches
from itertools import accumulate
from pathlib import Path

from lanbot.tools.calculator import format_value
from lanbot.tools.operations import MAX_SIZE
from lanbot.tools.tool import ToolError, tool
from lanbot.tools.words import content_words, fold

MAX_FILE = 1_000_000  # characters of a file
MAX_FILES = 1_000  # files of a folder that are searched and listed; the others can only be read by name
MAX_SEARCHED = 10_000_000  # characters that one search reads
MAX_PATH = 200
MAX_NAME = 100  # bytes of a path, and of each name in it
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

    @tool(kind="read")
    def list_files(self, path: str = ".") -> str:
        """Lists a folder.

        Returns:
            names, one a line, or (empty)
        """
        folder = self._name(path)
        kind = self.store.kind(folder)
        if kind == "file":
            raise ToolError(f"{folder} is a file; read_file reads it")
        if not kind and folder:
            raise ToolError(f"no folder {folder}{self._instead(folder)}")
        return "\n".join(self.store.entries(folder)) or "(empty)"

    @tool(kind="read")
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

    @tool(kind="write")
    def write_file(self, path: str, text: str) -> str:
        """Writes a text file, replacing what was there.

        Returns:
            wrote PATH
        """
        name = self._file(path)
        if self.store.kind(name) == "folder":
            raise ToolError(f"{name} is a folder")
        for folder in list(accumulate(name.split("/"), "{}/{}".format))[:-1]:
            if self.store.kind(folder) == "file":
                raise ToolError(f"{folder} is a file, not a folder")
        self._write(name, text if isinstance(text, str) else format_value(text))
        return f"wrote {name}"

    @tool(kind="write")
    def edit_file(self, path: str, old: str, new: str) -> str:
        """Replaces a piece of a text file.

        Args:
            old: The text to replace.
            new: What replaces it.

        Returns:
            edited PATH; old stands in the file exactly once
        """
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
        self._write(name, re.sub(pattern, lambda _: new, text))
        return f"edited {name}"

    @tool(kind="read")
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

    def _name(self, path: str) -> str:
        """The name that a path means; one that looks the same as an existing one is taken for it."""
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
        name = self._name(path)
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


class InMemory:
    """Files in a dict {name: text}. Names are relative, with "/" between folders; "" is the top folder."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    def kind(self, name: str) -> str:
        """ "file", "folder", or "" if there is neither."""
        if name in self.files:
            return "file"
        inside = f"{name}/" if name else ""
        return "folder" if any(other.startswith(inside) for other in self.files) else ""

    def entries(self, folder: str) -> list[str]:
        """The names in a folder, sorted; those of folders end in "/"."""
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
    """The same for files in a folder. Links are not followed, and names that start with a dot are left out."""

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
                allowed = [entry for entry in found if _allowed(entry.name)]
                folders = [entry.name + "/" for entry in allowed if entry.is_dir(follow_symlinks=False)]
                return sorted(folders + [entry.name for entry in allowed if entry.is_file(follow_symlinks=False)])
        except OSError:  # missing, or not readable
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
        """Writes a temporary file, then renames it: the file is complete or unchanged."""
        path = self.root / name
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.unlink(missing_ok=True)
            with beside.open("xb") as file:  # "x" does not follow a link that somebody put there
                file.write(text.encode())
            if path.exists():
                beside.chmod(stat.S_IMODE(path.stat().st_mode))
            beside.replace(path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise ToolError(f"{name} cannot be written: {error.strerror}") from None


def _allowed(name: str) -> bool:
    """Whether a file or folder may have this name: one line of text, and no path on any system."""
    odd = any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name)
    drive = len(name) == 2 and name[1] == ":"
    return not odd and not drive and name[:1] != "." and "\\" not in name and len(name.encode()) <= MAX_NAME


def _relative(path: str) -> str:
    """ "./a//b.txt" -> "a/b.txt"; "" for the top folder. Raises ToolError if it leads out or is not allowed."""
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
