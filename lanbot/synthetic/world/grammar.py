"""Templates: tables of English in text files, with alternatives in brackets and slots in braces.

A file has sections, a section has rows, a row has cells divided by " => ". Of every section, the rows at places 1, 5,
9, ... are never trained on; so at least a fifth of every kind of text is new to a model that is tested with it. (What
is told of the cast and the towns must be known to be asked for: there each row has a question that only tests ask.)
"""

import random
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files


class Rng(random.Random):
    """Python's generator with quicker draws: a text takes dozens."""

    def choice(self, seq):  # type: ignore[no-untyped-def]
        return seq[int(self.random() * len(seq))]

    def randint(self, a: int, b: int) -> int:
        return a + int(self.random() * (b - a + 1))


Cell = tuple[str | tuple[str, ...], ...]
"""Text and choices, in turn."""
Row = tuple[Cell, ...]

SPLITS = ("train", "test")
HELD_OUT_EVERY, HELD_OUT_AT = 4, 1
_CHOICE = re.compile(r"\[([^]]*)\]")


def rng_of(kind: str, split: str, index: int) -> Rng:
    """The randomness of one text: it depends on nothing else."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it is 'train' or 'test'")
    return Rng(f"{kind}/{split}/{index}")


def held_out_row(place: int) -> bool:
    return place % HELD_OUT_EVERY == HELD_OUT_AT


@cache
def rows(file: str, section: str, split: str) -> tuple[Row, ...]:
    """The rows of a section that a split may draw: train has those that are not held out, test has all."""
    everything = sections(file)[section]
    return tuple(row for place, row in enumerate(everything) if split == "test" or not held_out_row(place))


@cache
def new_rows(file: str, section: str) -> tuple[Row, ...]:
    """The rows of a section that are never trained on: a test that must be new by its wording alone."""
    return tuple(row for place, row in enumerate(sections(file)[section]) if held_out_row(place))


@cache
def sections(file: str) -> dict[str, tuple[Row, ...]]:
    """All sections of a file of templates: talk is world/talk.txt, identity/asked is identity/asked.txt."""
    found: dict[str, list[Row]] = {}
    rows_here: list[Row] = []
    path = file if "/" in file else f"world/{file}"
    for line in files("lanbot.synthetic").joinpath(f"{path}.txt").read_text("utf-8").split("\n"):
        if line.startswith("[") and line.endswith("]") and "|" not in line:
            rows_here = found.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            rows_here.append(tuple(_cell(cell) for cell in line.split(" => ")))
    return {name: tuple(table) for name, table in found.items()}


def fill(cell: Cell, rng: Rng, scene: Mapping[str, object]) -> str:
    """A cell as text: choices drawn, slots filled from the scene."""
    if len(cell) == 1 and isinstance(cell[0], str):
        return cell[0].format_map(scene)
    return "".join([piece if isinstance(piece, str) else rng.choice(piece) for piece in cell]).format_map(scene)


def filled(file: str, section: str, split: str, index: int, **slots: str) -> str:
    """The first cell of a row of a section, filled: a template alone, for who has a text's content already."""
    rng = rng_of(f"{file}/{section}", split, index)
    return fill(rng.choice(rows(file, section, split))[0], rng, slots)


def _cell(text: str) -> Cell:
    pieces: list[str | tuple[str, ...]] = []
    for i, piece in enumerate(_CHOICE.split(text)):  # text, choices, text, ...
        choices = piece.split("|")
        before = pieces[-1] if pieces else ""
        if i % 2 and "" in choices and isinstance(before, str) and before.endswith(" "):  # nothing: no space either
            pieces[-1] = before[:-1]
            choices = [choice and " " + choice for choice in choices]
        pieces.append(tuple(choices) if i % 2 else piece)
    return tuple(piece for piece in pieces if piece)
