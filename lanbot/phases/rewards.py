"""The terms of RL's reward besides a right answer: small ones for the form of an answer, off by default."""

import ast
import warnings

from lanbot.chat.messages import Message, parts, spoken
from lanbot.config.recipe import RL
from lanbot.evals.attempts import Attempt
from lanbot.tasks.graded import Graded
from lanbot.tasks.task import final_number

LONGEST = 20_000
"""Characters of a program that is parsed here; the parser's stack is finite."""


def reward_terms(attempt: Attempt, settings: RL) -> dict[str, float]:
    """What each term that counts adds to the reward of an answer."""
    holds = dict.fromkeys(settings.terms, False)
    if attempt.message is None:
        return dict.fromkeys(holds, 0.0)
    said = spoken(attempt.message)
    holds["long"] = len(said.split()) > settings.long_words
    if isinstance(attempt.task, Graded):
        tree = parsed(attempt.task.program(attempt.row, said).code)
        holds["compiles"] = tree is not None
        holds["defines"] = tree is not None and any(isinstance(node, ast.FunctionDef) for node in tree.body)
    else:
        holds["tool"] = called_a_tool(attempt.message)
        holds["mark"] = final_number(said) is not None
    return {name: _signed(name, getattr(settings, name)) if holds[name] else 0.0 for name in settings.terms}


def _signed(name: str, size: float) -> float:
    return -size if name == "long" else size


def called_a_tool(message: Message) -> bool:
    """Whether a call was answered, and not by an error."""
    return any(part["type"] == "output" and not part["text"].startswith("error") for part in parts(message))


def parsed(code: str) -> ast.Module | None:
    """The program's syntax tree, which is not executed; None if it does not compile, is empty or too long."""
    if not code.strip() or len(code) > LONGEST:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # invalid escapes
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
