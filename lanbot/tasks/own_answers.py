"""What a model itself answered to general questions before it was trained: so it keeps what it knew."""

import json
from functools import cached_property

from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import Conversation, chat
from lanbot.synthetic import general
from lanbot.tasks.registry import register
from lanbot.tasks.system_forms import form_of, in_form
from lanbot.tasks.task import Task

FILE = "own_answers.jsonl"
"""In the run's folder: [question, answer] on each line. phases/own_answers.py writes it."""
ROWS = 1_000
NOT_YET = "An answer of the model, which it gives when training begins. " * 3
"""Stands in for each answer until then, so that a plan can count tokens."""


@register("own_answers")
class OwnAnswers(Task):
    """General questions and what the model answered to them before the run trained it (self-distillation). In the
    five forms of the system message, where the chat format has them."""

    kind = "chat"
    splits = ("train",)

    @cached_property
    def rows(self) -> list[tuple[str, str]]:
        path = self.context.folder / FILE if self.context.folder else None
        if path is None or not path.is_file():
            return [(question, NOT_YET.strip()) for question in general.questions(self.split, ROWS)]
        return [(asked, said) for asked, said in map(json.loads, path.read_text("utf-8").split("\n")[:-1])]

    def __len__(self) -> int:
        return len(self.rows)

    def conversation(self, i: int) -> Conversation:
        return chat(*self.rows[i])

    def asked(self, i: int, chat_format: ChatFormat) -> Conversation:
        conversation = self.conversation(i)
        if chat_format.family_system is None:
            return conversation
        form = form_of(conversation, self.split, i)
        return in_form(conversation, form, self.context.identity, chat_format, self.split, i)
