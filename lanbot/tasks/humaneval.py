"""HumanEval: Python functions to complete (Chen et al. 2021)."""

from typing import Any

from lanbot.chat.conversation import Conversation, chat
from lanbot.data.hub import Source
from lanbot.tasks.task import HubTask


class HumanEval(HubTask):
    """Python functions to complete. Its programs are not run yet: that needs the sandbox."""

    kind = "chat"
    splits = ("test",)
    sources = {  # noqa: RUF012
        "test": Source("openai/openai_humaneval", "openai_humaneval/test-*.parquet", "humaneval/HumanEval.jsonl.gz")
    }
    columns = dict.fromkeys(("task_id", "prompt", "entry_point", "canonical_solution", "test"), str)

    def converted(self, row: dict[str, Any]) -> Conversation:
        return chat(
            f"Complete this Python function.\n\n{row['prompt']}",
            f"```python\n{row['prompt']}{row['canonical_solution']}```",
        )
