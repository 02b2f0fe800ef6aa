"""HumanEval: Python functions to complete (Chen et al. 2021), judged by their tests in the sandbox."""

from collections.abc import Sequence
from typing import Any

from lanbot.chat.messages import Conversation, Message, chat, spoken
from lanbot.data.hub import Source
from lanbot.tasks.code_grading import NO_PROGRAM, Program, extract, judge_all
from lanbot.tasks.registry import register
from lanbot.tasks.task import HubTask


@register("humaneval")
class HumanEval(HubTask):
    """Python functions to complete; their tests run in the sandbox."""

    splits = ("test",)
    runs_code = True
    answer_tokens = 512
    sources = {  # noqa: RUF012
        "test": Source("openai/openai_humaneval", "openai_humaneval/test-*.parquet", "humaneval/HumanEval.jsonl.gz")
    }
    columns = dict.fromkeys(("task_id", "prompt", "entry_point", "canonical_solution", "test"), str)

    def converted(self, row: dict[str, Any]) -> Conversation:
        return chat(
            f"Complete this Python function.\n\n{row['prompt']}",
            f"```python\n{row['prompt']}{row['canonical_solution']}```",
        )

    def check(self, i: int, answer: Message) -> bool:
        return self.faults([i], [answer]) == [""]

    def faults(self, rows: Sequence[int], answers: Sequence[Message | None]) -> list[str]:
        """Why each answer fails, one of code_grading.FAULTS; "": it passes."""
        said = [None if answer is None else spoken(answer) for answer in answers]
        found = [NO_PROGRAM if not text or not text.strip() else "" for text in said]
        asked = [k for k, fault in enumerate(found) if not fault]
        programs = [(self.program(rows[k], said[k] or ""), self.row(rows[k])["test"]) for k in asked]
        verdicts = judge_all(programs, self.context.options.unsafe_exec)
        for k, verdict in zip(asked, verdicts, strict=True):
            found[k], self.sandbox_level = verdict
        return found

    def program(self, i: int, answer: str) -> Program:
        row = self.row(i)
        return extract(answer, row["prompt"], row["entry_point"])
