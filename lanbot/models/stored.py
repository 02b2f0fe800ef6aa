"""The tensors of a model folder, in one safetensors file or several, read one at a time."""

import fnmatch
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lanbot.core.errors import UserError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
END = ".safetensors"
PICKLES = ("pytorch_model*.bin", "consolidated*.pth", "*.pt", "*.ckpt")
DTYPES = ("F32", "BF16", "F16")
AGAIN = "Fetch it again, or train again what made it."
OTHER = "The weights do not belong to the config beside them."
BLOCK = 4_096
"""Rows of two tensors that are compared at a time."""
BUFFER = "rotary_emb.inv_freq"
"""What old files have besides weights: it follows from the config."""


class Entry(NamedTuple):
    path: Path
    shape: tuple[int, ...]


class Stored:
    """The weights of a folder; on construction only the files' headers are read.

    Raises UserError if a file is missing, damaged, or holds what is no weight of 16 or 32 bits.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = folder / (INDEX if (folder / INDEX).is_file() and not (folder / WHOLE).is_file() else WHOLE)
        self.entries: dict[str, Entry] = {}
        for path in self._paths():
            for name, shape, dtype in _header(path):
                if dtype not in DTYPES:
                    remedy = "Take the model that is not quantised; LanBot reads fp32, bf16 and fp16."
                    raise UserError(f"{path}: {name} is of the type {dtype}", remedy)
                if name in self.entries:
                    raise UserError(f"{path}: {name} is in {self.entries[name].path.name} too", AGAIN)
                if not name.endswith(BUFFER):
                    self.entries[name] = Entry(path, shape)

    def _paths(self) -> list[Path]:
        if self.where.name == WHOLE:
            if self.where.is_file():
                return [self.where]
            raise no_weights(str(self.where), [path.name for path in self.folder.glob("*")])
        paths = [self.folder / name for name in shards(self.where)]
        missing = next((path for path in paths if not path.is_file()), None)
        if missing is not None:
            raise UserError(f"{missing}: not there, but in {INDEX}", "Fetch the folder again.")
        return paths

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors of one shape are equal."""
        (path, shape), (other_path, _) = self.entries[one], self.entries[other]
        with _opened(path) as a, _opened(other_path) as b:
            ours, theirs = Rows(a, one), Rows(b, other)
            some = (slice(start, start + BLOCK) for start in range(0, shape[0], BLOCK))
            return all(torch.equal(ours.read(rows).float(), theirs.read(rows).float()) for rows in some)

    def each(self, take: Callable[[str, "Rows"], None]) -> None:
        """Calls take(name, rows) for each tensor, in the order of the files, of which one is open at a time."""
        for path in dict.fromkeys(entry.path for entry in self.entries.values()):
            with _opened(path) as file:
                for name, entry in self.entries.items():
                    if entry.path == path:
                        take(name, Rows(file, name))


class Rows(NamedTuple):
    """A tensor of an open file, not read yet."""

    file: Any
    name: str

    def read(self, rows: slice | None = None) -> Tensor:
        """These rows of it, or all, of the type that they have in the file; nothing else is read."""
        return self.file.get_tensor(self.name) if rows is None else self.file.get_slice(self.name)[rows]


def check_fit(stored: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], where: Path) -> None:
    """Raises UserError unless the stored tensors are the wanted ones, of the same shapes; `where` is their file."""
    missing, unknown = sorted(wanted.keys() - stored.keys()), sorted(stored.keys() - wanted.keys())
    if missing or unknown:
        raise UserError(f"{where}: {f'lacks {missing[0]}' if missing else f'has an unknown {unknown[0]}'}", OTHER)
    wrong = next((name for name in wanted if tuple(stored[name]) != tuple(wanted[name])), None)
    if wrong:
        shapes = f"{tuple(stored[wrong])}, the config says {tuple(wanted[wrong])}"
        raise UserError(f"{where}: {wrong} is {shapes}", OTHER)


def no_weights(where: str, names: Sequence[str]) -> UserError:
    """The error for a folder with these files and no safetensors. where: the folder or the file, for the message."""
    pickles = sorted(name for pattern in PICKLES for name in fnmatch.filter(names, pattern))
    if not pickles:
        return UserError(f"{where}: not there", "Is the folder a model's? It needs its weights as .safetensors.")
    remedy = "Take its .safetensors, or write them with transformers: from_pretrained, save_pretrained."
    return UserError(f"{where}: not there, and {pickles[0]} is a pickle, which may run code when it is read", remedy)


def shards(index: Path) -> list[str]:
    """The files that an index names. Raises UserError if it is none, or names a file elsewhere."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index}: not an index of weights", AGAIN) from None
    wrong = [name for name in names if not isinstance(name, str) or Path(name).name != name or not name.endswith(END)]
    if wrong or not names:
        raise UserError(f"{index}: {wrong[0]!r} is no file beside it" if wrong else f"{index}: names no files", AGAIN)
    return names


def _header(path: Path) -> list[tuple[str, tuple[int, ...], str]]:
    with _opened(path) as file:
        slices = [(name, file.get_slice(name)) for name in file.keys()]  # noqa: SIM118  (it cannot be iterated over)
        return [(name, tuple(one.get_shape()), one.get_dtype()) for name, one in slices]


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error})", AGAIN) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})", AGAIN) from None
