"""Math word problems, solved step by step with the calculator."""

from dataclasses import dataclass
from functools import cache

from lanbot.chat.messages import Conversation, Part, chat, output, python, text
from lanbot.synthetic.world.grammar import Cell, Row, fill, held_out_row, rng_of, sections
from lanbot.synthetic.world.scene import Scene
from lanbot.tools.calculator import answer

PRACTICE_AT = 3
"""The rows at indices 3, 7, 11, ... of every section are trained on without solutions: RL practises them."""


@dataclass(frozen=True)
class Problem:
    question: str
    solution: list[Part]
    answer: str
    seen: str
    """How training uses its template: "demonstrated", "practised" (answers only) or "never"."""


def word_problem(split: str, index: int, practice: bool = False) -> Problem:
    """A problem from the demonstrated or the practised templates (train), or from all templates (test)."""
    rng = rng_of("problem/practice" if practice else "problem", split, index)
    seen, row = rng.choice(_templates(split, practice))
    scene = Scene(rng, split)
    question, solution = fill(row[0], rng, scene), solve(row[1], scene)
    return Problem(question, solution, scene["r"], seen)


def solve(steps: Cell, scene: Scene) -> list[Part]:
    """The steps as text, call and output. The last result follows "####" and becomes the scene's {r}."""
    said: list[Part] = []
    for step in "".join(map(str, steps)).split("; "):
        label, _, code = step.partition(": ")
        code = code.format_map(scene)
        scene["r"] = answer(code)
        said += [text(("\n" if said else "") + label + ": "), python(code), output(scene["r"])]
    return [*said, text(f"\n#### {scene['r']}")]


def problem_chat(split: str, index: int) -> Conversation:
    problem = word_problem(split, index)
    return chat(problem.question, problem.solution)


@cache
def _templates(split: str, practice: bool) -> tuple[tuple[str, Row], ...]:
    found = []
    for table in sections("problems").values():
        for i, row in enumerate(table):
            seen = "never" if held_out_row(i) else "practised" if i % 4 == PRACTICE_AT else "demonstrated"
            if split == "test" or seen == ("practised" if practice else "demonstrated"):
                found.append((seen, row))
    return tuple(found)
