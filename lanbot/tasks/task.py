"""What a task is: rows that become conversations, and where it applies a checker that is also RL's reward."""

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

from lanbot.chat.messages import Conversation, Message, spoken, validate
from lanbot.config.recipe import Identity
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.data import hub
from lanbot.data.rows import Rows, open_rows, read
from lanbot.synthetic import world


@dataclass(frozen=True)
class TaskContext:
    """What a task may need to know of the run it serves."""

    identity: Identity = field(default_factory=Identity)
    skip_bad_rows: bool = False
    options: Options = field(default_factory=Options.from_environment)


class Task(ABC):
    """A split ("train" or "test") of a data set. Rows are numbered; nothing is read before the first is asked for.

    kind: "generate" (the answer is generated and checked), "choice" (the answer is the likeliest of `letters`),
    "agent" (an errand is done with tools; see agent_tasks.py) or "chat" (for training only). chance: about what
    a guess scores; `guess` says it of a row. note: a word for the user, of skipped rows say.
    """

    kind: ClassVar[str] = "generate"
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    arguments: ClassVar[tuple[str, ...] | None] = ()
    """What may follow the name and a colon; None: anything, and something must."""
    chance: float = 0.0
    real: ClassVar[bool] = False
    """Its rows were written elsewhere, LanBot does not make them: one that is tested on may be in training data."""
    note: str = ""
    skipped: int = 0
    """Bad rows that were left out, and are not among the rows."""
    runs_code: ClassVar[bool] = False
    """Its checker runs what the model wrote, in the sandbox."""
    sandbox_level: int | None = None
    """The sandbox's in which it did so."""
    answer_tokens: ClassVar[int] = 0
    """What a right answer may need; an evaluation allows at least as many."""

    def __init__(self, split: str, argument: str = "", context: TaskContext | None = None) -> None:
        self.split, self.argument, self.context = split, argument, context or TaskContext()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def conversation(self, i: int) -> Conversation:
        """Row i with its reference answer as the last message."""

    def check(self, i: int, answer: Message) -> bool:
        """Is `answer` right for row i? The default: it says what the reference says."""
        return spoken(answer).strip() == spoken(self.conversation(i)["messages"][-1]).strip()

    def faults(self, rows: Sequence[int], answers: Sequence[Message | None]) -> list[str]:
        """Of each row's answer what is wrong with it, "" if it is right; None: there was no room for one."""
        both = zip(rows, answers, strict=True)
        return ["" if answer is not None and self.check(row, answer) else "wrong" for row, answer in both]

    def guess(self, i: int) -> float:
        """What a guess scores in row i, from 0 to 1."""
        return 1 / len(self.letters(i)) if self.kind == "choice" else self.chance

    def digest(self) -> str:
        """Of the files that a user gave, so that a phase does not resume with others; "" for all other tasks."""
        return ""

    def part(self, i: int) -> str:
        """The part of the task that row i belongs to, scored apart too; "": the task has no parts."""
        return ""

    def letters(self, i: int) -> Sequence[str]:
        """kind "choice": the letters that may answer row i."""
        raise NotImplementedError(f"{type(self).__name__} is not multiple choice")


class HubTask(Task):
    """A task whose rows are those of a hub data set, or of a mirror's files."""

    real = True
    sources: ClassVar[dict[str, hub.Source]]
    """Of each split."""
    columns: ClassVar[dict[str, type]]
    """What a row must have."""

    @cached_property
    def rows(self) -> Rows:
        return open_rows(hub.files(self.sources[self.split], self.context.options))

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, i: int) -> dict[str, Any]:
        """Raises UserError, with file and row, if it lacks a column or one is of another type."""
        row, problem = self.rows[i], ""
        if not isinstance(row, dict):
            raise UserError(f"{self.rows.where(i)}: not a row of columns", BAD_ROW)
        for name, kind in self.columns.items():
            if name not in row:
                problem = f"no column {name!r} (it has {', '.join(row)})"
            elif not isinstance(row[name], kind) or row[name] == "":
                problem = f"{name} is {str(row[name])[:40]!r}, not {_KINDS[kind]}"
            if problem:
                raise UserError(f"{self.rows.where(i)}: {problem}", BAD_ROW)
        return row

    def conversation(self, i: int) -> Conversation:
        """Raises UserError, with file and row, for a row that is none."""
        row, where = self.row(i), self.rows.where(i)
        try:
            return validate(self.converted(row), where)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise UserError(f"{where}: no row of {self.sources[self.split].id} ({what})", BAD_ROW) from None

    @abstractmethod
    def converted(self, row: dict[str, Any]) -> Conversation:
        """A row with its reference answer as the last message."""


BAD_ROW = "Fetch the file again, or mend it; in a mixture's part, skip_bad_rows = true leaves bad rows out."
_KINDS = {str: "text", int: "a whole number", list: "a list", dict: "a group of columns"}


LETTERS = "ABCDEFGHIJ"


def multiple_choice(question: str, choices: Sequence[str], answer: int) -> Conversation:
    """A question with lettered choices; the answer is the letter alone.

    The letter stands after its choice, so that a small model only has to copy the one beside what it believes.
    """
    if not 0 <= answer < len(choices) <= len(LETTERS) or not all(isinstance(text, str) for text in choices):
        raise ValueError(f"answer {answer} of the choices {choices}")
    lines = [question, *(f"- {text} = {LETTERS[i]}" for i, text in enumerate(choices)), "Answer with the letter."]
    return {
        "messages": [
            {"role": "user", "content": "\n".join(lines)},
            {"role": "assistant", "content": LETTERS[answer]},
        ]
    }


_NUMBER = re.compile(r"[\s*_`]*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[-+]?\d+)?)(?!\.?\d)", re.IGNORECASE)


def final_number(text: str) -> str | None:
    """The number after the last "####", without separators and trailing zeros; None if there is none.

    What follows the number (a unit, %, a word) is ignored, as by the strict match of GSM8K's paper and of lm-eval,
    `#### (\\-?[0-9\\.\\,]+)`; a currency sign or Markdown emphasis before it is ignored too.
    """
    _, mark, tail = text.rpartition("####")
    found = _NUMBER.match(tail.strip().split("\n")[0].replace(",", "").replace("$", "")) if mark else None
    if not found:
        return None
    try:
        value = float(found[1])
    except ValueError:
        return None
    return str(int(value)) if value.is_integer() else repr(value)


def words(source: str, split: str, options: Options) -> Sequence[str]:
    """Distinct words for the spelling tasks, in a seeded order; one in eight is only ever tested on.

    source: "builtin", or "" for the hub's word list. The built-in list is short: made-up words, which nothing tests,
    are trained on besides, so that the model learns the letters of each piece and not of each word.
    """
    return _split_words(None if source == "builtin" else hub.url_file(*WORD_LIST, options), split)


MADE_UP = 6_000
WORD_LIST = (
    "https://raw.githubusercontent.com/dwyl/english-words/refs/heads/master/words_alpha.txt",
    "words/words_alpha.txt.gz",
)
"""Its address, and its path in a mirror."""


@lru_cache(maxsize=8)
def _split_words(path: Path | None, split: str) -> Sequence[str]:
    chosen = [word for word in _words(path) if world.held_out(word) == (split == "test")]
    if path is None and split == "train":
        rng = world.Rng("made-up words")
        chosen = list(dict.fromkeys([*chosen, *(world.made_up(rng) for _ in range(MADE_UP))]))
    random.Random("words").shuffle(chosen)
    return chosen


@lru_cache(maxsize=2)
def _words(path: Path | None) -> Sequence[str]:
    """Raises UserError for a file that is no list of words: what a server says of itself may come in its place."""
    if path is None:
        return world.WORDS
    try:
        text = read(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read ({error})", "Fetch the file again.") from None
    everything = [word.strip() for word in text.split("\n") if word.strip()]
    wrong = next((word for word in everything if not (word.isalpha() and word.islower())), None)
    if wrong is not None or not everything:
        raise UserError(f"{path}: no list of words ({str(wrong)[:40]!r})", "Delete the file; it is fetched again.")
    return [word for word in everything if 2 < len(word) <= 12]


def spelled(word: str) -> str:
    """s-t-r-a-w-b-e-r-r-y: each letter a piece of its own for any tokenizer of ours."""
    return "-".join(word)
