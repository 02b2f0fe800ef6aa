"""SmolTalk: chats about everything, for training only."""

from typing import Any

from lanbot.chat.messages import Conversation
from lanbot.data.hub import Source
from lanbot.tasks.registry import register
from lanbot.tasks.task import HubTask


@register("smoltalk")
class SmolTalk(HubTask):
    """Chats about everything."""

    kind = "chat"
    sources = {  # noqa: RUF012
        split: Source(
            "HuggingFaceTB/smol-smoltalk", f"data/{split}-*.parquet", f"smoltalk_like/{split}.jsonl.gz", "apache-2.0"
        )
        for split in ("train", "test")
    }
    columns = {"messages": list}  # noqa: RUF012

    def converted(self, row: dict[str, Any]) -> Conversation:
        return {"messages": [{"role": message["role"], "content": message["content"]} for message in row["messages"]]}
