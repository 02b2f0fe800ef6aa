"""ARC: science questions with four choices or so, easy and challenging (Clark et al. 2018)."""

from collections.abc import Sequence

from lanbot.chat.conversation import Conversation
from lanbot.tasks.task import LETTERS, HubTask, multiple_choice


class ARCEasy(HubTask):
    """Science questions with four choices or so."""

    kind = "choice"
    chance = 0.25
    splits = ("train", "validation", "test")
    hub_id = "allenai/ai2_arc"
    files = {split: f"arc/ARC-Easy/{split}.jsonl.gz" for split in ("train", "validation", "test")}  # noqa: RUF012

    def conversation(self, i: int) -> Conversation:
        row = self.rows[i]
        choices = row["choices"]
        return multiple_choice(row["question"], choices["text"], choices["label"].index(row["answerKey"]))

    def letters(self, i: int) -> Sequence[str]:
        return LETTERS[: len(self.rows[i]["choices"]["text"])]


class ARCChallenge(ARCEasy):
    """The harder ones of them."""

    files = {split: f"arc/ARC-Challenge/{split}.jsonl.gz" for split in ("train", "validation", "test")}  # noqa: RUF012
