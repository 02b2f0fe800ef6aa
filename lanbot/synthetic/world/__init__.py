"""The built-in world: a small, consistent world in simple English, for training without a network.

Every text is a pure function of (split, index). The English is in the .txt files of this folder.
"""

from lanbot.synthetic.world.chats import identity_chat, long_chat, sum_chat, talk
from lanbot.synthetic.world.documents import document
from lanbot.synthetic.world.errands import KINDS, Errand, errand, errand_chat
from lanbot.synthetic.world.grammar import Rng, filled, rng_of
from lanbot.synthetic.world.problems import Problem, problem_chat, word_problem
from lanbot.synthetic.world.scene import WORDS, held_out, made_up

__all__ = [
    "KINDS", "WORDS", "Errand", "Problem", "Rng", "document", "errand", "errand_chat", "filled", "held_out",
    "identity_chat", "long_chat", "made_up", "problem_chat", "rng_of", "sum_chat", "talk", "word_problem",
]  # fmt: skip
