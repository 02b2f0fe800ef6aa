"""MMLU: exam questions of 57 subjects, four choices (Hendrycks et al. 2021). Training uses its auxiliary set."""

from collections.abc import Sequence

from lanbot.chat.conversation import Conversation
from lanbot.tasks.task import LETTERS, HubTask, multiple_choice


class MMLU(HubTask):
    """Exam questions of 57 subjects, four choices."""

    kind = "choice"
    chance = 0.25
    splits = ("train", "validation", "test")
    hub_id = "cais/mmlu"
    files = {  # noqa: RUF012
        "train": "mmlu/auxiliary_train_partial.jsonl.gz",
        "validation": "mmlu/validation.jsonl.gz",
        "test": "mmlu/test.jsonl.gz",
    }

    def conversation(self, i: int) -> Conversation:
        row = self.rows[i]
        return multiple_choice(row["question"], row["choices"], row["answer"])

    def letters(self, i: int) -> Sequence[str]:
        return LETTERS[: len(self.rows[i]["choices"])]
