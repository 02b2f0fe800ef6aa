"""nanochat's chat format: LanBot's without tokens for system messages.

<|bos|> <|user_start|> SYSTEM, an empty line, 2+2? <|user_end|> <|assistant_start|> 4. <|assistant_end|>
"""

from collections.abc import Sequence

from lanbot.chat.formats.base import Rendered
from lanbot.chat.formats.lanbot import LanBotFormat, template_of
from lanbot.chat.messages import Conversation, Message, spoken


class NanoChatFormat(LanBotFormat):
    """A system message is put before the first user message, with an empty line between them."""

    name = "nanochat"
    roles = ("user", "assistant")
    special_tokens = tuple(name for name in LanBotFormat.special_tokens if "system" not in name)
    template = (
        "{%- if messages and messages[0]['role'] == 'system' %}"
        "{%- if messages | length < 2 or messages[1]['role'] != 'user' or messages[0]['content'] is not string or "
        "messages[1]['content'] is not string %}"
        "{{- raise_exception('Not in this format: a system message without a user message after it') }}{%- endif %}"
        "{%- set first = {'role': 'user', 'content': messages[0]['content'] + '\\n\\n' + messages[1]['content']} %}"
        "{%- set messages = [first] + messages[2:] %}{%- endif %}"
    ) + template_of(special_tokens, roles)

    def render(self, conversation: Conversation, bulk: bool = False) -> Rendered:
        merged: Conversation = {**conversation, "messages": without_system(conversation["messages"])}
        return super().render(merged, bulk)


def without_system(messages: Sequence[Message]) -> list[Message]:
    """The messages with a leading system message put into the first user message."""
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return list(messages)
    system, user, *rest = messages
    return [{**user, "content": f"{spoken(system)}\n\n{spoken(user)}"}, *rest]
