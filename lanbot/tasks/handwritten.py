"""A hundred questions written by hand, independent of all generated training data."""

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from lanbot.chat.messages import Conversation, Message, chat, spoken
from lanbot.tasks.registry import register
from lanbot.tasks.task import Task


@register("handwritten")
class Handwritten(Task):
    """A hundred questions written by hand: identity, spelling, counting, problems, sums, things to know, reading."""

    splits = ("test",)

    def row(self, i: int) -> dict[str, Any]:
        """The question with required ("all") and forbidden ("none") texts of its answer, and the names filled in."""
        who = self.context.identity
        names = {"{name}": who.name, "{maker}": who.creator or "the person who runs me"}

        def fill(text: str) -> str:
            for slot, name in names.items():
                text = text.replace(slot, name)
            return text

        row = _rows()[i]
        return {
            "kind": row["kind"],
            "question": fill(row["question"]),
            "all": [fill(text) for text in row["all"]],
            "none": [fill(text) for text in row["none"]],
        }

    def __len__(self) -> int:
        return len(_rows())

    def conversation(self, i: int) -> Conversation:
        row = self.row(i)
        return chat(row["question"], ", ".join(row["all"]))

    def check(self, i: int, answer: Message) -> bool:
        row, said = self.row(i), spoken(answer)
        return all(says(said, text) for text in row["all"]) and not any(says(said, text) for text in row["none"])

    def part(self, i: int) -> str:
        return str(_rows()[i]["kind"])


def says(answer: str, text: str) -> bool:
    """Whether `text` is in the answer as whole words, ignoring case and how a spelled word is separated."""
    answer, text = re.sub(r"(?<=\d),(?=\d{3})", "", answer).casefold(), text.casefold()
    if re.fullmatch(r"\w(-\w)+", text):  # a word letter by letter: p-l-a-n-t, p l a n t or p, l, a, n, t
        answer = re.sub(r"(?<=\b\w)[-, .]+(?=\w\b)", "-", answer)
    return re.search(rf"(?<![\w-])(?<!\d\.){re.escape(text)}(?![\w-]|\.\d)", answer) is not None


@cache
def _rows() -> list[dict[str, Any]]:
    lines = files("lanbot.tasks").joinpath("handwritten.jsonl").read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()]
