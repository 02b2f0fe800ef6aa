"""HumanEval: Python functions to complete (Chen et al. 2021), judged by their tests in the sandbox."""

from typing import Any

from lanbot.chat.messages import Conversation, chat
from lanbot.data.hub import Source
from lanbot.tasks.code_grading import Program, extract
from lanbot.tasks.graded import Graded
from lanbot.tasks.registry import register
from lanbot.tasks.task import HubTask


@register("humaneval")
class HumanEval(Graded, HubTask):
    """Python functions to complete; their tests run in the sandbox."""

    splits = ("test",)
    answer_tokens = 512
    sources = {  # noqa: RUF012
        "test": Source(
            "openai/openai_humaneval", "openai_humaneval/test-*.parquet", "humaneval/HumanEval.jsonl.gz", "mit"
        )
    }
    columns = dict.fromkeys(("task_id", "prompt", "entry_point", "canonical_solution", "test"), str)

    def converted(self, row: dict[str, Any]) -> Conversation:
        return chat(
            f"Complete this Python function.\n\n{row['prompt']}",
            f"```python\n{row['prompt']}{row['canonical_solution']}```",
        )

    def tests(self, i: int) -> str:
        return str(self.row(i)["test"])

    def program(self, i: int, answer: str) -> Program:
        row = self.row(i)
        return extract(answer, row["prompt"], row["entry_point"])
