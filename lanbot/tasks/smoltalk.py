"""SmolTalk: chats about everything, for training only."""

from lanbot.chat.conversation import Conversation
from lanbot.tasks.task import HubTask


class SmolTalk(HubTask):
    """Chats about everything."""

    kind = "chat"
    hub_id = "HuggingFaceTB/smol-smoltalk"
    files = {  # noqa: RUF012
        "train": "smoltalk_like/train.jsonl.gz",
        "test": "smoltalk_like/test.jsonl.gz",
    }

    def conversation(self, i: int) -> Conversation:
        return {"messages": self.rows[i]["messages"]}
