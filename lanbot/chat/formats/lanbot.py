"""LanBot's own chat format.

<|bos|> <|user_start|> 2+2? <|user_end|> <|assistant_start|> It is <|python_start|> 2+2 <|python_end|>
<|output_start|> 4 <|output_end|> 4. <|assistant_end|>
The loss counts what the assistant itself has to write: text, calls and the end of its turn, never an output.
"""

from collections.abc import Collection, Sequence
from typing import ClassVar

from lanbot.chat.formats.base import TOOL_TOKENS, CallForm, ChatFormat, Encode, Rendered, StreamParser
from lanbot.chat.messages import Conversation, Message, parts
from lanbot.chat.turns import folded
from lanbot.core.errors import UserError


def template_of(special_tokens: Sequence[str], roles: Sequence[str]) -> str:
    """The Jinja template of a format with these tokens and roles."""
    return (
        "{%- macro plain(text) %}"
        "{%- if text is not string %}{{- raise_exception('A message or part has no text.') }}{%- endif %}"
        f"{{%- for token in {list(special_tokens)} %}}"
        "{%- if token in text %}{{- raise_exception('Text must not contain ' + token) }}{%- endif %}"
        "{%- endfor %}{{- text }}{%- endmacro %}"
        "{{- '<|bos|>' }}"
        "{%- for message in messages %}"
        f"{{%- if message['role'] not in {list(roles)} or message['tool_calls'] %}}"
        "{{- raise_exception('Not in this format: role ' + message['role'] + ' or tool_calls') }}{%- endif %}"
        "{{- '<|' + message['role'] + '_start|>' }}"
        "{%- if message['content'] is string %}{{- plain(message['content']) }}"
        "{%- else %}{%- set before = namespace(type='') %}{%- for part in message['content'] %}"
        "{%- if part['type'] not in ['text', 'python', 'output'] or part['type'] == before.type == 'text' %}"
        "{{- raise_exception('Not in this format: part ' + part['type'] + ' after ' + before.type) }}{%- endif %}"
        "{%- set before.type = part['type'] %}"
        "{%- if part['type'] == 'text' %}{{- plain(part['text']) }}"
        "{%- else %}{{- '<|' + part['type'] + '_start|>' + plain(part['text']) + '<|' + part['type'] + '_end|>' }}"
        "{%- endif %}{%- endfor %}{%- endif %}"
        "{{- '<|' + message['role'] + '_end|>' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|assistant_start|>' }}{%- endif %}"
    )


class LanBotFormat(ChatFormat):
    """A start and an end token around every message, call and output."""

    name = "lanbot"
    special_tokens: ClassVar[tuple[str, ...]] = (
        "<|bos|>",
        "<|system_start|>",
        "<|system_end|>",
        "<|user_start|>",
        "<|user_end|>",
        "<|assistant_start|>",
        "<|assistant_end|>",
        *TOOL_TOKENS,
    )
    bos_token, end_token = "<|bos|>", "<|assistant_end|>"
    pad_token = "<|output_start|>"
    stop_names = ("<|assistant_end|>", "<|bos|>", "<|user_start|>")
    roles: ClassVar[tuple[str, ...]] = ("system", "user", "assistant")
    template = template_of(special_tokens, roles)

    @property
    def call_form(self) -> CallForm:
        return CallForm("python", *self._around("python"))

    @classmethod
    def recognises(cls, template: str, special: Collection[str]) -> bool:
        return set(cls.special_tokens) <= set(special) and (not template or "<|assistant_start|>" in template)

    def render_message(self, message: Message, encode: Encode) -> Rendered:
        role = message["role"]
        if role not in self.roles:
            raise UserError(
                f"a message of the role {role!r} has no place in the chat format {self.name}",
                "A tool's result follows a call, or is an output part of the assistant's message.",
            )
        start, end = self._around(role)
        own = int(role == "assistant")
        ids, mask = [start], [0]
        for part in parts(message):
            body = encode(part["text"])
            kind, written = part["type"], own
            if kind == "call":
                kind = "python"  # the same call in Python
            if kind != "text":
                opening, closing = self._around(kind)
                body = [opening, *body, closing]
                written = int(own and kind == "python" and part.get("train", True))
            ids += body
            mask += [written] * len(body)
        return Rendered([*ids, end], [*mask, own])

    def render(self, conversation: Conversation, bulk: bool = False) -> Rendered:
        return super().render({**conversation, "messages": folded(conversation["messages"])}, bulk)

    def ask(self, conversation: Conversation) -> list[int]:
        return super().ask({**conversation, "messages": folded(conversation["messages"])})

    def start_of_answer(self) -> list[int]:
        return [self._around("assistant")[0]]

    def stream(self) -> StreamParser:
        kinds = ("python", "output")
        opens, closes = ({self._around(kind)[i]: kind for kind in kinds} for i in (0, 1))
        return StreamParser(self.tokenizer, opens, closes)

    def forced_output(self, results: Sequence[str], room: int, kind: str = "python") -> list[int]:
        opening, closing = self._around("output")
        return [opening, *self.tokenizer.encode("\n".join(results))[: max(0, room - 2)], closing]

    def _around(self, name: str) -> tuple[int, int]:
        return self.tokenizer.special[f"<|{name}_start|>"], self.tokenizer.special[f"<|{name}_end|>"]
