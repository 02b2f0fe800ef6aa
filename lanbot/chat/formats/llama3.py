"""Llama 3.1 and later.

<|begin_of_text|><|start_header_id|>user<|end_header_id|>

2+2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>

<|python_tag|>2+2<|eom_id|><|start_header_id|>ipython<|end_header_id|>

"4"<|eot_id|><|start_header_id|>assistant<|end_header_id|>

4.<|eot_id|>
"""

import json
from collections.abc import Collection, Sequence
from typing import ClassVar

from lanbot.chat.formats.base import CallForm, Event, OpenCall
from lanbot.chat.formats.script import Script
from lanbot.chat.formats.templates import llama3_template
from lanbot.chat.formats.turns import TurnFormat, TurnParser
from lanbot.chat.messages import Conversation, Part, python, text
from lanbot.chat.turns import Turn, read_call, to_json
from lanbot.core.errors import UserError

HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
"""Before every system message of the family's own template, with the date that it falls back to."""
ENVIRONMENT = "Environment: ipython\n"
"""Before the system message where tools are declared."""
TOOLS = (
    "Given the following functions, please respond with a JSON for a function call with its proper arguments that best "
    'answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of argument '
    "name and its value}.Do not use variables.\n\n"
)
"""Before the tools' declarations, in the first user message."""


class Llama3Format(TurnFormat):
    """A call by name is the whole answer; what is said before it is left out, as in the family's template.

    Python calls follow the text, after <|python_tag|>. A default system message replaces the dates.
    """

    name = "llama3"
    special_tokens: ClassVar[tuple[str, ...]] = (
        *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
        *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
    )
    bos_token, end_token, pad_token = "<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>"
    stop_names = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|start_header_id|>")
    end_names = ("<|eot_id|>", "<|eom_id|>")
    family_system = ""
    opening = HEADER.format("assistant")
    results = (HEADER.format("ipython"), "<|eot_id|>" + HEADER.format("ipython"), "<|eot_id|>")
    arguments = "parameters"

    @classmethod
    def recognises(cls, template: str, special: Collection[str]) -> bool:
        return set(cls.special_tokens) <= set(special) and (not template or "<|start_header_id|>" in template)

    @property
    def template(self) -> str:  # type: ignore[override]
        return llama3_template(self)

    @property
    def call_form(self) -> CallForm:
        return CallForm("call", "", "", self.arguments)

    def shown(self, result: str) -> str:
        return to_json(result)

    def unshown(self, written: str) -> str:
        try:
            return str(json.loads(written))
        except ValueError:  # cut
            return written.removeprefix('"')

    def stream(self) -> "Llama3Parser":
        return Llama3Parser(self)

    def write(self, script: Script, turns: Sequence[Turn], conversation: Conversation, begun: bool) -> None:
        tools = conversation.get("tools", ())
        given = turns[0].text.strip() if turns and turns[0].role == "system" else None
        turns = turns[given is not None :]
        script.markup("<|begin_of_text|>")
        if given is not None or conversation.get("system", True):
            script.markup(HEADER.format("system"))
            script.text(ENVIRONMENT if tools else "")
            script.text(DATES if self.default_system is None else "")
            script.text((self.default_system or "") if given is None else given)
            script.markup("<|eot_id|>")
        for i, turn in enumerate(turns):
            if turn.role == "tool":
                self.tool_turn(script, turns, i)
            elif turn.role == "assistant":
                self._answer(script, turn, begun and i + 1 == len(turns))
            else:
                script.markup(HEADER.format(turn.role))
                if tools and i == 0:
                    script.text(
                        TOOLS + "".join(f"{json.dumps(tool, ensure_ascii=False, indent=4)}\n\n" for tool in tools)
                    )
                script.text(turn.text.strip())
                script.markup("<|eot_id|>")

    def _answer(self, script: Script, turn: Turn, begun: bool) -> None:
        own, codes = int(turn.own), [call["text"] for call in turn.calls if call["type"] == "python"]
        if len(turn.calls) > 1:
            raise UserError(f"{self.name}: several calls in one answer", "Write each with its result in turn.")
        script.markup(self.opening)
        if turn.calls and not codes:
            call = turn.calls[0]
            script.text(f'{{"name": "{call["name"]}", "parameters": {to_json(call["arguments"])}}}', own)
        else:
            self.body(script, trimmed(turn.parts, end=not codes), own)
        for code in codes:
            script.markup("<|python_tag|>", own)
            script.text(code, own)
        if not begun:
            script.markup("<|eom_id|>" if codes else "<|eot_id|>", own)


def trimmed(parts: Sequence[Part], end: bool) -> list[Part]:
    """Without white space before the first and, if `end`, after the last, where these are text."""
    made = list(parts)
    if made and made[0]["type"] == "text":
        made[0] = text(made[0]["text"].lstrip())
    if end and made and made[-1]["type"] == "text":
        made[-1] = text(made[-1]["text"].rstrip())
    return made


class Llama3Parser(TurnParser):
    """An answer that begins with { may be a call, and is known at its end; what follows <|python_tag|> is one."""

    tags = ("<|python_tag|>", "")
    spelled = ()

    def finish(self) -> list[Event]:
        raw, self._raw = self._raw, None
        if raw is None or self._tail:
            return super().finish()
        if not self._python:
            return [*super(TurnParser, self)._piece(raw), *self._close()]
        self.parts.append({**python(raw), "open": True})
        return [Event("open", "python"), Event("piece", "python", raw), Event("close", "python")]

    @property
    def open_call(self) -> OpenCall | None:
        if self._raw is None:
            return super().open_call
        return OpenCall("python" if self._python else "call", self._raw, self.format.end_of_turn)

    def _in_turn(self, token: int, sampled: bool) -> list[Event]:
        if token == self._tags[0] and self._raw is None:
            events = self._close()
            self._raw, self._python = "", True
            return events
        if self._raw is not None:
            self._raw += self._text_of(token)
            return []
        return super(TurnParser, self).feed(token, sampled)

    def _piece(self, text: str) -> list[Event]:
        begins = len(self.parts) == self._begins and not self._written
        if begins and self._kind == "text" and text.lstrip()[:1] == "{":
            self._raw, self._python = text, False
            return []
        return super(TurnParser, self)._piece(text)

    def _called(self) -> list[Event]:
        raw, self._raw = self._raw or "", None
        self._decoder.reset()
        part = read_call(raw, self.format.arguments) or (python(raw) if self._python else None)
        if part is None:
            return super(TurnParser, self)._piece(raw)
        self._calls.append(part["text"])
        return self._add(part)
