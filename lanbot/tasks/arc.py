"""ARC: science questions with four choices or so, easy and challenging (Clark et al. 2018)."""

from collections.abc import Sequence
from typing import Any

from lanbot.chat.messages import Conversation
from lanbot.data.hub import Source
from lanbot.tasks.registry import register
from lanbot.tasks.task import LETTERS, HubTask, multiple_choice

SPLITS = ("train", "validation", "test")


def files(name: str) -> dict[str, Source]:
    return {
        split: Source("allenai/ai2_arc", f"{name}/{split}-*.parquet", f"arc/{name}/{split}.jsonl.gz", "cc-by-sa-4.0")
        for split in SPLITS
    }


@register("arc_easy")
class ARCEasy(HubTask):
    """Science questions with four choices or so."""

    kind = "choice"
    chance = 0.25
    splits = SPLITS
    sources = files("ARC-Easy")
    columns = {"question": str, "choices": dict, "answerKey": str}  # noqa: RUF012

    def converted(self, row: dict[str, Any]) -> Conversation:
        choices = row["choices"]
        return multiple_choice(row["question"], choices["text"], choices["label"].index(row["answerKey"]))

    def letters(self, i: int) -> Sequence[str]:
        return LETTERS[: len(self.row(i)["choices"]["text"])]


@register("arc_challenge")
class ARCChallenge(ARCEasy):
    """The harder ones of them."""

    sources = files("ARC-Challenge")
