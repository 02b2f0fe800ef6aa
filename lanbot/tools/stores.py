"""Where the files of a workspace are: a dict in memory, or a folder on disk, which nothing leads out of.

Names are relative, with "/" between folders; "" is the top folder.
"""

import os
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from lanbot.tools.tool import ToolError

MAX_FILE = 1_000_000  # characters of a file
MAX_FILES = 1_000  # files of a folder that are searched and listed; the others can only be read by name
MAX_NAME = 100  # bytes of a path, and of each name in it
_STEP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class InMemory:
    """Files in a dict {name: text}."""

    folds_case = False

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
    """The same for files in a folder. Links are not followed, and names that start with a dot are left out.

    Each step to a file is opened in the folder before it, and never a link: it holds even if another program puts a
    link there between the check and the opening.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @cached_property
    def folds_case(self) -> bool:
        """Whether the file system takes Notes.txt and notes.txt for one file."""
        with suppress(OSError):
            for path in [*self.root.iterdir(), self.root, *self.root.parents]:
                other = path.with_name(path.name.swapcase()) if path.name else path
                if other.name != path.name:
                    return other.exists() and other.samefile(path)
        return False

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
            with self._opened(folder) as opened, os.scandir(opened) as found:
                permitted = [entry for entry in found if allowed(entry.name)]
                folders = [entry.name + "/" for entry in permitted if entry.is_dir(follow_symlinks=False)]
                return sorted(folders + [entry.name for entry in permitted if entry.is_file(follow_symlinks=False)])
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
        folder, _, leaf = name.rpartition("/")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe must not be waited for
        try:
            with self._opened(folder) as opened, open(os.open(leaf, flags, dir_fd=opened), "rb") as file:
                about = os.fstat(file.fileno())
                if not stat.S_ISREG(about.st_mode):
                    raise ToolError(f"{name} is no file")
                if about.st_size > 4 * MAX_FILE:
                    raise ToolError(f"{name} is too large")
                text = file.read().decode()
        except UnicodeDecodeError:
            raise ToolError(f"{name} is not text") from None
        except OSError as error:
            raise ToolError(f"{name} cannot be read: {error.strerror}") from None
        if "\0" in text:
            raise ToolError(f"{name} is not text")
        return text

    def write(self, name: str, text: str) -> None:
        """Writes a temporary file, then renames it: the file is complete or unchanged."""
        folder, _, leaf = name.rpartition("/")
        beside = f".{leaf}.{os.getpid()}.tmp"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with self._opened(folder, create=True) as opened:
                try:
                    _replace(opened, beside, leaf, text.encode())
                except OSError:
                    with suppress(OSError):
                        os.unlink(beside, dir_fd=opened)
                    raise
        except OSError as error:
            raise ToolError(f"{name} cannot be written: {error.strerror}") from None

    @contextmanager
    def _opened(self, folder: str, create: bool = False) -> Iterator[int]:
        """A descriptor of a folder, for the calls that take a dir_fd. Raises OSError."""
        opened = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in folder.split("/") if folder else ():
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=opened)
                step = os.open(part, _STEP, dir_fd=opened)
                os.close(opened)
                opened = step
            yield opened
        finally:
            os.close(opened)


def _replace(folder: int, beside: str, leaf: str, data: bytes) -> None:
    """Puts data in the place of a file of a folder, by way of the file `beside`; an older file's mode is kept."""
    with suppress(FileNotFoundError):
        os.unlink(beside, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # does not follow a link that somebody put there
    with open(os.open(beside, flags, 0o666, dir_fd=folder), "wb") as file:
        file.write(data)
        with suppress(FileNotFoundError):
            about = os.stat(leaf, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(about.st_mode):
                os.fchmod(file.fileno(), stat.S_IMODE(about.st_mode))
    os.replace(beside, leaf, src_dir_fd=folder, dst_dir_fd=folder)


def allowed(name: str) -> bool:
    """Whether a file or folder may have this name: one line of text, and no path on any system."""
    odd = any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name)
    drive = len(name) == 2 and name[1] == ":"
    return not odd and not drive and name[:1] != "." and "\\" not in name and len(name.encode()) <= MAX_NAME
