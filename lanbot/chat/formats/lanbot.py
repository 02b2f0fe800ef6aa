"""LanBot's own chat format: how a conversation becomes tokens and a loss mask, and tokens a message.

<|bos|> <|user_start|> 2+2? <|user_end|> <|assistant_start|> It is <|python_start|> 2+2 <|python_end|>
<|output_start|> 4 <|output_end|> 4. <|assistant_end|>
The loss counts what the assistant itself must write: text, calls and the end of its turn, never an output.
"""

from collections.abc import Callable, Sequence

from lanbot.chat.messages import Conversation, Message, Part, parts
from lanbot.core.errors import UserError
from lanbot.tokenizers.bpe import Tokenizer

ROLES = ("system", "user", "assistant")


def render(conversation: Conversation, tokenizer: Tokenizer, bulk: bool = False) -> tuple[list[int], list[int]]:
    """(ids, mask): mask is 1 for tokens that the assistant writes. Both are as long as the conversation.

    bulk: one of many, for which the tokenizer may take a second to make itself ready.
    """
    encode = tokenizer.encode_bulk if bulk else tokenizer.encode
    ids, mask = [tokenizer.bos], [0]
    for message in conversation["messages"]:
        message_ids, message_mask = _render_message(message, tokenizer, encode)
        ids += message_ids
        mask += message_mask
    return ids, mask


def render_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The ids after which the assistant speaks: the messages, and the start of its turn."""
    return [*render({"messages": list(messages)}, tokenizer)[0], tokenizer.special["<|assistant_start|>"]]


def prompt_of(conversation: Conversation, tokenizer: Tokenizer) -> list[int]:
    """The prompt of an evaluation item: its conversation without the last answer."""
    return render_prompt(conversation["messages"][:-1], tokenizer)


def parse(ids: Sequence[int], tokenizer: Tokenizer) -> Message:
    """The assistant's message in what a model generated after a prompt. Never fails: what is left open is closed."""
    special = tokenizer.special
    starts = {special[f"<|{kind}_start|>"]: kind for kind in ("python", "output")}
    ends = {special[f"<|{kind}_end|>"] for kind in ("python", "output")}
    content: list[Part] = []
    kind, run = "text", []  # type: str, list[int]

    def close() -> None:
        if run:
            content.append({"type": kind, "text": tokenizer.decode(run)})
            run.clear()

    for token in ids:
        if token == special["<|assistant_end|>"]:
            break
        if token in starts:
            close()
            kind = starts[token]
        elif token in ends:
            close()
            kind = "text"
        elif token < len(tokenizer.ranks):
            run.append(token)
    close()
    return {"role": "assistant", "content": content}


def _render_message(
    message: Message, tokenizer: Tokenizer, encode: Callable[[str], list[int]]
) -> tuple[list[int], list[int]]:
    role = message["role"]
    if role not in ROLES:
        raise UserError(
            f"a message of the role {role!r} has no place in LanBot's format",
            "Write a tool's result as an output part of the assistant's message.",
        )
    start, end = tokenizer.special[f"<|{role}_start|>"], tokenizer.special[f"<|{role}_end|>"]
    own = int(role == "assistant")
    ids, mask = [start], [0]
    for part in parts(message):
        body = encode(part["text"])
        written = own
        if part["type"] != "text":
            kind = part["type"]
            body = [tokenizer.special[f"<|{kind}_start|>"], *body, tokenizer.special[f"<|{kind}_end|>"]]
            written = int(own and kind == "python")
        ids += body
        mask += [written] * len(body)
    return [*ids, end], [*mask, own]
