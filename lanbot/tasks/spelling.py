"""Spelling: SimpleSpelling (letter by letter) and SpellingBee (how many r are in strawberry: spell, then count)."""

import random

from lanbot.chat.conversation import Conversation, Message, chat, output, python, spoken, text
from lanbot.data.world.grammar import held_out_row
from lanbot.tasks.task import Setting, Task, final_number, spelled, words
from lanbot.tools.expression import answer

SPELL = (
    "Spell the word: {}",
    "Spell {}",
    "How do you spell {}?",
    "Spell the word {}.",
    "Please spell: {}",
    "How is {} spelled?",
    "Spell {} letter by letter.",
    "Can you spell {}?",
    "Which letters are in the word {}, in order?",
    'How do I spell "{}"?',
    "What is the spelling of {}?",
    'Spell "{}" for me.',
    "Write {} letter by letter.",
)
COUNT = (
    'How many times does the letter "{letter}" occur in "{word}"?',
    "How many {letter} are in {word}?",
    "Count the letter {letter} in the word {word}.",
    "How often is there a {letter} in {word}?",
    "In the word {word}, how many {letter} are there?",
    "How many times does {letter} appear in {word}?",
    "How many {letter}'s are in the word {word}?",
    'How many {letter} does "{word}" have?',
    "How often does {letter} occur in {word}?",
    "Count {letter} in {word}.",
    'Count the {letter}s in "{word}".',
    "What is the number of {letter} in {word}?",
    'How many letters "{letter}" has the word {word}?',
)


def asked(templates: tuple[str, ...], split: str, key: str) -> str:
    """One of the templates; train never has those at places 1, 5, 9, ..., as in the built-in world."""
    places = [place for place in range(len(templates)) if split != "train" or not held_out_row(place)]
    return templates[random.Random(key).choice(places)]


class SimpleSpelling(Task):
    """Words letter by letter; simple_spelling:builtin takes the built-in words, not the hub's list."""

    arguments = ("builtin",)

    def __init__(self, split: str, argument: str = "", setting: Setting | None = None) -> None:
        super().__init__(split, argument, setting)
        self.words = words(argument, split)

    def __len__(self) -> int:
        return len(self.words)

    def conversation(self, i: int) -> Conversation:
        question = asked(SPELL, self.split, f"spell/{self.split}/{i}")
        return chat(question.format(self.words[i]), spelled(self.words[i]))


class SpellingBee(SimpleSpelling):
    """How many of a letter are in a word: spelled, then counted by the tool. Letters: of the word, or any."""

    def _letter(self, i: int) -> str:
        rng = random.Random(f"bee/{self.split}/{i}")
        return rng.choice("abcdefghijklmnopqrstuvwxyz" if rng.random() < 0.2 else self.words[i])

    def conversation(self, i: int) -> Conversation:
        word, letter = self.words[i], self._letter(i)
        question = asked(COUNT, self.split, f"count/{self.split}/{i}")
        call = f"'{spelled(word)}'.count('{letter}')"
        return chat(
            question.format(word=word, letter=letter),
            [text(f"{spelled(word)}: "), python(call), output(answer(call)), text(f"\n#### {word.count(letter)}")],
        )

    def check(self, i: int, answer: Message) -> bool:
        return final_number(spoken(answer)) == str(self.words[i].count(self._letter(i)))
