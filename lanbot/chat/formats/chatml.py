"""ChatML: the format of Qwen 2.5, Qwen 3 and SmolLM2.

<|im_start|>user
2+2?<|im_end|>
<|im_start|>assistant
<tool_call>
{"name": "python", "arguments": {"code": "2+2"}}
</tool_call><|im_end|>
<|im_start|>user
<tool_response>
4
</tool_response><|im_end|>
<|im_start|>assistant
4.<|im_end|>
"""

from collections.abc import Collection, Sequence
from copy import copy
from typing import ClassVar, Self

from lanbot.chat.formats.base import TOOL_TOKENS, CallForm
from lanbot.chat.formats.script import Script
from lanbot.chat.formats.templates import chatml_template
from lanbot.chat.formats.turns import TurnFormat
from lanbot.chat.messages import Conversation, Part, text
from lanbot.chat.turns import Turn, by_name, to_json

TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>",
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>",
)
"""What Qwen's system message says before and after the tools' declarations."""


class ChatMLFormat(TurnFormat):
    """ChatML without a default system message: of base models that have its tokens and no template."""

    name = "chatml"
    special_tokens: ClassVar[tuple[str, ...]] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    bos_token, end_token, pad_token = "<|endoftext|>", "<|im_end|>", "<|endoftext|>"
    stop_names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    end_names = ("<|im_end|>",)
    opening: str = "<|im_start|>assistant\n"
    after_turn = "\n"
    results = (
        "<|im_start|>user\n<tool_response>\n",
        "\n</tool_response>\n<tool_response>\n",
        "\n</tool_response><|im_end|>\n",
    )
    tools: ClassVar[bool] = True
    """Whether the format has words to declare tools."""
    thinks: ClassVar[bool] = False

    @classmethod
    def recognises(cls, template: str, special: Collection[str]) -> bool:
        plain = not any(sign in template for sign in ("tool", "system\\n", "system\n"))
        return {"<|im_start|>", "<|im_end|>"} <= set(special) and (
            not template or ("<|im_start|>" in template and plain)
        )

    @property
    def template(self) -> str:  # type: ignore[override]
        return chatml_template(self)

    @property
    def call_form(self) -> CallForm:
        if self.inline and not self.tools:
            opens, closes = (self.tokenizer.special[name] for name in TOOL_TOKENS[:2])
            return CallForm("python", opens, closes)
        return super().call_form

    @property
    def system(self) -> str | None:
        """Of a conversation without one."""
        return self.family_system if self.default_system is None else self.default_system

    def write(self, script: Script, turns: Sequence[Turn], conversation: Conversation, begun: bool) -> None:
        given = turns[0].text if turns and turns[0].role == "system" else None
        default = self.system if conversation.get("system", True) else None
        self._system_turn(script, default if given is None else given, conversation)
        turns = turns[given is not None :]
        for i, turn in enumerate(turns):
            if turn.role == "tool":
                self.tool_turn(script, turns, i)
            elif turn.role == "assistant":
                self._answer(script, turns, i, begun and i + 1 == len(turns))
            else:
                script.markup(f"<|im_start|>{turn.role}\n")
                script.text(turn.text)
                script.markup("<|im_end|>\n")

    def _system_turn(self, script: Script, system: str | None, conversation: Conversation) -> None:
        tools = conversation.get("tools", ()) if self.tools else ()
        if system is None and not tools:
            return
        script.markup("<|im_start|>system\n")
        script.text(system or "")
        if tools:
            before, after = TOOLS
            script.markup(before if system is None else "\n\n" + before)
            for tool in tools:
                script.text("\n" + to_json(tool))
            script.markup(after)
        script.markup("<|im_end|>\n")

    def _answer(self, script: Script, turns: Sequence[Turn], i: int, begun: bool) -> None:
        turn, own = turns[i], int(turns[i].own)
        script.markup("<|im_start|>assistant\n")
        parts = self._thought(script, turns, i) if self.thinks else turn.parts
        self.body(script, parts, own)
        for n, call in enumerate(map(by_name, turn.calls)):
            script.text("\n" if n or any(part["text"] for part in parts) else "", own)
            script.markup("<tool_call>", own)
            script.text(f'\n{{"name": "{call["name"]}", "arguments": {to_json(call["arguments"])}}}\n', own)
            script.markup("</tool_call>", own)
        if not begun:
            script.markup("<|im_end|>", own)
            script.markup("\n")

    def _thought(self, script: Script, turns: Sequence[Turn], i: int) -> Sequence[Part]:
        """Writes the thought of an answer; returns the rest of it."""
        return turns[i].parts


class Qwen25Format(ChatMLFormat):
    """Qwen 2.5: tools, and a default system message."""

    name = "qwen2.5"
    family_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

    @classmethod
    def recognises(cls, template: str, special: Collection[str]) -> bool:
        signs = ("<|im_start|>", "<tool_call>", "<args-json-object>")
        return all(sign in template for sign in signs) and "reasoning_content" not in template


class Qwen3Format(ChatMLFormat):
    """Qwen 3 without thinking: an answer begins with an empty thought; thoughts before the last question are dropped.

    An answer that was generated with a thought has it in its text.
    """

    name = "qwen3"
    special_tokens = (*ChatMLFormat.special_tokens, "<think>", "</think>")
    opening = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    thinks = True

    @property
    def thinking(self) -> Self:
        made = copy(self)
        made.opening = ChatMLFormat.opening
        return made

    @classmethod
    def recognises(cls, template: str, special: Collection[str]) -> bool:
        signs = ("<|im_start|>", "<tool_call>", "<args-json-object>", "reasoning_content")
        return all(sign in template for sign in signs)

    def _thought(self, script: Script, turns: Sequence[Turn], i: int) -> Sequence[Part]:
        turn, own, thought = turns[i], int(turns[i].own), ""
        parts = turn.parts
        if len(parts) == 1 and "</think>" in parts[0]["text"]:
            before, _, answer = parts[0]["text"].rpartition("</think>")
            thought = before.partition("</think>")[0].rstrip("\n").rpartition("<think>")[2].strip("\n")
            parts = [text(answer.lstrip("\n"))]
        asked = max((n for n, one in enumerate(turns) if one.role == "user"), default=len(turns) - 1)
        if i <= asked or not (thought or i + 1 == len(turns)):
            return parts
        script.markup("<think>\n", own if thought else 0)
        script.text(thought, own)
        script.markup("\n</think>\n\n", own if thought else 0)
        return [
            text(part["text"].lstrip("\n")) if n == 0 and part["type"] == "text" else part
            for n, part in enumerate(parts)
        ]


class SmolLM2Format(ChatMLFormat):
    """SmolLM2: a default system message, no words for tools; a result is a turn of the role tool."""

    name = "smollm2"
    family_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    results = ("<|im_start|>tool\n", "<|im_end|>\n<|im_start|>tool\n", "<|im_end|>\n")
    tools = False

    @classmethod
    def recognises(cls, template: str, special: Collection[str]) -> bool:
        return (
            "<|im_start|>" in template
            and "named SmolLM, trained by Hugging Face" in template
            and "tool" not in template
        )
