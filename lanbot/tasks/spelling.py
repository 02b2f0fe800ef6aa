"""Spelling: SimpleSpelling (letter by letter) and SpellingBee (how many r are in strawberry: spell, then count)."""

import random

from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import Conversation, Message, chat, output, python, spoken, text
from lanbot.synthetic import world
from lanbot.tasks.builtin import as_typed
from lanbot.tasks.registry import register
from lanbot.tasks.task import Task, TaskContext, final_number, spelled, words
from lanbot.tools.calculator import answer


@register("simple_spelling")
class SimpleSpelling(Task):
    """Words letter by letter; simple_spelling:builtin takes the built-in words, not the hub's list."""

    arguments = ("builtin",)

    def __init__(self, split: str, argument: str = "", context: TaskContext | None = None) -> None:
        super().__init__(split, argument, context)
        self.words = words(argument, split, self.context.options)

    def __len__(self) -> int:
        return len(self.words)

    def conversation(self, i: int) -> Conversation:
        return chat(self._asked("spell", i, word=self.words[i]), spelled(self.words[i]))

    def asked(self, i: int, chat_format: ChatFormat) -> Conversation:
        """The built-in words are asked for as people type, in training."""
        conversation = self.conversation(i)
        return as_typed(conversation, self.split, i) if self.argument == "builtin" else conversation

    def _asked(self, section: str, i: int, **slots: str) -> str:
        return world.filled("spelling", section, self.split, i, **slots)


@register("spelling_bee")
class SpellingBee(SimpleSpelling):
    """How many of a letter are in a word: spelled, then counted by the tool. Letters: of the word, or any."""

    def _letter(self, i: int) -> str:
        rng = random.Random(f"bee/{self.split}/{i}")
        return rng.choice("abcdefghijklmnopqrstuvwxyz" if rng.random() < 0.2 else self.words[i])

    def conversation(self, i: int) -> Conversation:
        word, letter = self.words[i], self._letter(i)
        call = f"'{spelled(word)}'.count('{letter}')"
        return chat(
            self._asked("count", i, word=word, letter=letter),
            [text(f"{spelled(word)}: "), python(call), output(answer(call)), text(f"\n#### {word.count(letter)}")],
        )

    def check(self, i: int, answer: Message) -> bool:
        return final_number(spoken(answer)) == str(self.words[i].count(self._letter(i)))
