"""What a task is: rows that become conversations, and where it applies a checker that is also RL's reward."""

import gzip
import random
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from lanbot.chat.conversation import Conversation, Message, spoken
from lanbot.data import hub, world
from lanbot.errors import UserError
from lanbot.recipe import Identity


@dataclass(frozen=True)
class Setting:
    """What a task may need to know of the run it serves."""

    identity: Identity = field(default_factory=Identity)
    skip_bad_rows: bool = False


class Task(ABC):
    """A split ("train" or "test") of a data set. Rows are numbered; nothing is read before the first is asked for.

    kind: "generate" (the answer is generated and checked), "choice" (the answer is the likeliest of `letters`),
    "agent" (an errand is done with tools; see agent_tasks.py) or "chat" (for training only). chance: the score of a
    guess. note: a word for the user, of skipped rows say.
    """

    kind: ClassVar[str] = "generate"
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    arguments: ClassVar[tuple[str, ...] | None] = ()
    """What may follow the name and a colon; None: anything, and something must."""
    chance: float = 0.0
    note: str = ""

    def __init__(self, split: str, argument: str = "", setting: Setting | None = None) -> None:
        self.split, self.argument, self.setting = split, argument, setting or Setting()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def conversation(self, i: int) -> Conversation:
        """Row i with its reference answer as the last message."""

    def check(self, i: int, answer: Message) -> bool:
        """Is `answer` right for row i? The default: it says what the reference says."""
        return spoken(answer).strip() == spoken(self.conversation(i)["messages"][-1]).strip()

    def part(self, i: int) -> str:
        """The part of the task that row i belongs to, scored apart too; "": the task has no parts."""
        return ""

    def letters(self, i: int) -> Sequence[str]:
        """kind "choice": the letters that may answer row i."""
        raise NotImplementedError(f"{type(self).__name__} is not multiple choice")


class HubTask(Task):
    """A task whose rows are those of a hub data set, in memory."""

    hub_id: ClassVar[str]
    files: ClassVar[dict[str, str]]
    """split -> the file in a mirror."""

    @property
    def rows(self) -> Sequence[Any]:
        return _rows(hub.find(self.hub_id, self.files[self.split]))

    def __len__(self) -> int:
        return len(self.rows)


@lru_cache(maxsize=16)
def _rows(path: Path) -> Sequence[Any]:
    return [row for _, row in hub.read_jsonl(path)]


LETTERS = "ABCDEFGHIJ"


def multiple_choice(question: str, choices: Sequence[str], answer: int) -> Conversation:
    """A question with lettered choices; the answer is the letter alone.

    The letter stands after its choice, so that a small model only has to copy the one beside what it believes.
    """
    lines = [question, *(f"- {text} = {LETTERS[i]}" for i, text in enumerate(choices)), "Answer with the letter."]
    return {
        "messages": [
            {"role": "user", "content": "\n".join(lines)},
            {"role": "assistant", "content": LETTERS[answer]},
        ]
    }


def final_number(text: str) -> str | None:
    """The number after the last "####", without separators and trailing zeros; None if there is none."""
    _, mark, tail = text.rpartition("####")
    number = tail.strip().split("\n")[0].strip().replace(",", "").replace("$", "").rstrip(".")
    if not mark or not number:
        return None
    try:
        value = float(number)
    except ValueError:
        return None
    return str(int(value)) if value.is_integer() else repr(value)


def words(source: str, split: str) -> Sequence[str]:
    """Distinct words for the spelling tasks, in a seeded order; one in eight is only ever tested on.

    source: "builtin", or "" for the hub's word list. The built-in list is short: made-up words, which nothing tests,
    are trained on besides, so that the model learns the letters of each piece and not of each word.
    """
    return _split_words(None if source == "builtin" else hub.find(*WORD_LIST), split)


MADE_UP = 6_000
WORD_LIST = ("dwyl/english-words", "words/words_alpha.txt.gz")
"""Its hub id, and its path in a mirror."""


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
    if path is None:
        return world.WORDS
    try:
        text = gzip.decompress(path.read_bytes()).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})", "Fetch the file again.") from None
    return [word.strip() for word in text.split("\n") if 2 < len(word.strip()) <= 12]


def spelled(word: str) -> str:
    """s-t-r-a-w-b-e-r-r-y: each letter a piece of its own for any tokenizer of ours."""
    return "-".join(word)
