"""GSM8K: grade-school math in words (Cobbe et al. 2021). Its <<48/2=24>> marks become calculator calls."""

import re
from typing import Any

from lanbot.chat.messages import Conversation, Message, Part, chat, output, python, spoken, text
from lanbot.data.hub import Source
from lanbot.tasks.registry import register
from lanbot.tasks.task import HubTask, final_number
from lanbot.tools.calculator import answer

MARK = re.compile(r"<<([^>]*?)=([^=>]*)>>")


@register("gsm8k")
class GSM8K(HubTask):
    """Grade-school math in words, solved with the calculator."""

    sources = {  # noqa: RUF012
        split: Source("openai/gsm8k", f"main/{split}-*.parquet", f"gsm8k/{split}.jsonl.gz", "mit")
        for split in ("train", "test")
    }
    columns = {"question": str, "answer": str}  # noqa: RUF012

    def converted(self, row: dict[str, Any]) -> Conversation:
        return chat(row["question"], with_calls(row["answer"]))

    def check(self, i: int, answer: Message) -> bool:
        number = final_number(spoken(answer))
        return number is not None and number == final_number(self.row(i)["answer"])


def with_calls(solution: str) -> list[Part]:
    """A solution with each mark as a call and its output, where the calculator agrees with the mark.

    Other marks (some are rounded, some are wrong) are dropped; the text around them stays.
    """
    content: list[Part] = []
    words, end = "", 0
    for mark in MARK.finditer(solution):
        words += solution[end : mark.start()]
        end = mark.end()
        result = answer(mark[1])
        if _same(result, mark[2]):
            content += [text(words), python(mark[1]), output(result)]
            words = ""
    words += solution[end:]
    return [part for part in [*content, text(words)] if part["text"]]


def _same(result: str, stated: str) -> bool:
    try:
        return abs(float(result) - float(stated.replace(",", ""))) < 1e-6
    except ValueError:
        return False
