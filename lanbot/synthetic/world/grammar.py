"""Templates: tables of English in text files, with alternatives in brackets and slots in braces.

A file has sections of rows, a row has cells separated by " => ". The rows at indices 1, 5, 9, ... of every section are
never trained on, so at least a fifth of every kind of test text is new to the model. (Facts about people and towns
must be trained on to be known: there, each row has a question that only the test split asks.)
"""

import random
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files


class Rng(random.Random):
    """Python's generator with faster draws."""

    def choice(self, seq):  # type: ignore[no-untyped-def]
        return seq[int(self.random() * len(seq))]

    def randint(self, a: int, b: int) -> int:
        return a + int(self.random() * (b - a + 1))


Cell = tuple[str | tuple[str, ...], ...]
"""Alternating text and choices."""
Row = tuple[Cell, ...]

SPLITS = ("train", "test")
_CHOICE = re.compile(r"\[([^]]*)\]")


def rng_of(kind: str, split: str, index: int) -> Rng:
    """The only source of randomness of one text."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it is 'train' or 'test'")
    return Rng(f"{kind}/{split}/{index}")


def held_out_row(index: int) -> bool:
    return index % 4 == 1


@cache
def rows(file: str, section: str, split: str) -> tuple[Row, ...]:
    """The rows of a section that a split draws from: all for test, those that are not held out for train."""
    all_rows = enumerate(sections(file)[section])
    return tuple(row for i, row in all_rows if split == "test" or not held_out_row(i))


@cache
def new_rows(file: str, section: str) -> tuple[Row, ...]:
    """The rows of a section that are never trained on."""
    return tuple(row for i, row in enumerate(sections(file)[section]) if held_out_row(i))


@cache
def sections(file: str) -> dict[str, tuple[Row, ...]]:
    """All sections of a template file: "talk" is world/talk.txt, "identity/asked" is identity/asked.txt."""
    found: dict[str, list[Row]] = {}
    rows_here: list[Row] = []
    path = file if "/" in file else f"world/{file}"
    for line in files("lanbot.synthetic").joinpath(f"{path}.txt").read_text("utf-8").split("\n"):
        if line.startswith("[") and line.endswith("]") and "|" not in line:
            rows_here = found.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            rows_here.append(tuple(map(cell, line.split(" => "))))
    return {name: tuple(table) for name, table in found.items()}


def fill(cell: Cell, rng: Rng, scene: Mapping[str, object]) -> str:
    """Draws the choices of a cell and fills its slots from the scene."""
    if len(cell) == 1 and isinstance(cell[0], str):
        return cell[0].format_map(scene)
    return "".join([piece if isinstance(piece, str) else rng.choice(piece) for piece in cell]).format_map(scene)


def filled(file: str, section: str, split: str, index: int, **slots: str) -> str:
    """The first cell of a random row of a section, filled with the given slots."""
    rng = rng_of(f"{file}/{section}", split, index)
    return fill(rng.choice(rows(file, section, split))[0], rng, slots)


def cell(text: str) -> Cell:
    """A text with its choices in brackets, parsed."""
    pieces: list[str | tuple[str, ...]] = []
    for i, piece in enumerate(_CHOICE.split(text)):  # text, choices, text, ...
        choices = piece.split("|")
        before = pieces[-1] if pieces else ""
        if (
            i % 2 and "" in choices and isinstance(before, str) and before.endswith(" ")
        ):  # an empty choice drops the space too
            pieces[-1] = before[:-1]
            choices = [choice and " " + choice for choice in choices]
        pieces.append(tuple(choices) if i % 2 else piece)
    return tuple(piece for piece in pieces if piece)
