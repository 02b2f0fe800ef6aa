"""MMLU: exam questions of 57 subjects, four choices (Hendrycks et al. 2021). Training uses its auxiliary set."""

from collections.abc import Sequence
from typing import Any

from lanbot.chat.messages import Conversation
from lanbot.data.hub import Source
from lanbot.tasks.registry import register
from lanbot.tasks.task import LETTERS, HubTask, multiple_choice


@register("mmlu")
class MMLU(HubTask):
    """Exam questions of 57 subjects, four choices."""

    kind = "choice"
    chance = 0.25
    splits = ("train", "validation", "test")
    sources = {  # noqa: RUF012
        split: Source("cais/mmlu", f"all/{name}-*.parquet", f"mmlu/{file}.jsonl.gz", "mit")
        for split, name, file in (
            ("train", "auxiliary_train", "auxiliary_train_partial"),
            ("validation", "validation", "validation"),
            ("test", "test", "test"),
        )
    }
    columns = {"question": str, "choices": list, "answer": int}  # noqa: RUF012

    def converted(self, row: dict[str, Any]) -> Conversation:
        return multiple_choice(row["question"], row["choices"], row["answer"])

    def letters(self, i: int) -> Sequence[str]:
        return LETTERS[: len(self.row(i)["choices"])]
