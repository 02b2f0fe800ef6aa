"""Small Python functions to complete, made from templates; their checks run in the sandbox. None is HumanEval's."""

from functools import lru_cache
from typing import NamedTuple

from lanbot.chat.messages import Conversation, chat
from lanbot.tasks.code_grading import Program, extract
from lanbot.tasks.graded import Graded
from lanbot.tasks.program_templates import TEMPLATES, Template
from lanbot.tasks.registry import register

HELD_OUT = 5
"""Every fifth template is the test split's, so its problems are of kinds that training does not have."""
EXAMPLES = 2


class Problem(NamedTuple):
    name: str
    prompt: str
    """The function's head, with a docstring that says what it does and shows examples."""
    solution: str
    tests: str


@register("programs")
class Programs(Graded):
    """Small Python functions to complete, from built-in templates; their checks run in the sandbox."""

    answer_tokens = 128

    @property
    def problems(self) -> tuple[Problem, ...]:
        return problems(self.split)

    def __len__(self) -> int:
        return len(self.problems)

    def conversation(self, i: int) -> Conversation:
        problem = self.problems[i]
        answer = f"```python\n{problem.prompt}{problem.solution}```"
        return chat(f"Complete this Python function.\n\n{problem.prompt}", answer)

    def program(self, i: int, answer: str) -> Program:
        problem = self.problems[i]
        return extract(answer, problem.prompt, problem.name)

    def tests(self, i: int) -> str:
        return self.problems[i].tests


@lru_cache(maxsize=2)
def problems(split: str) -> tuple[Problem, ...]:
    chosen = [one for i, one in enumerate(TEMPLATES) if (i % HELD_OUT == HELD_OUT - 1) == (split == "test")]
    return tuple(_made(template, value) for template in chosen for value in template.values)


def _made(template: Template, value: object) -> Problem:
    """A template with its slot filled. What the checks expect is computed by the oracle, not by the solution."""
    name = template.name.format(v=_word(value))
    filled = {"v": value, "r": repr(value)}
    expected = [(inputs, template.oracle(value, *inputs)) for inputs in template.inputs]
    calls = [(f"({', '.join(map(repr, inputs))})", repr(result)) for inputs, result in expected]
    shown = "".join(f"    >>> {name}{given}\n    {result}\n" for given, result in calls[:EXAMPLES])
    prompt = (
        f"def {name}({template.arguments}):\n"
        f'    """{template.does.format(**filled)}\n\n{shown}    """\n'
    )  # fmt: skip
    solution = "".join(f"    {line}\n" for line in template.body.format(**filled).strip("\n").split("\n"))
    checks = "".join(f"    assert candidate{given} == {result}\n" for given, result in calls)
    return Problem(name, prompt, solution, f"def check(candidate):\n{checks}")


def _word(value: object) -> str:
    """The value within a function's name."""
    return "".join(c if c.isalnum() else "_" for c in str(value)).strip("_").lower()
