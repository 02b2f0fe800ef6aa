"""rollouts.jsonl: ten rollouts a step to read, of the last steps."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lanbot.chat.messages import readable
from lanbot.config.run import read_metrics
from lanbot.core.files import unwritable, write_atomic
from lanbot.distributed.runtime import Runtime
from lanbot.phases.rollouts import Group, Rollout, is_informative

FILE = "rollouts.jsonl"
PER_STEP = 10
STEPS = 100
"""The file has the rollouts of at least this many steps, of at most twice as many."""
LONGEST = 2_000
"""Characters of a question or an answer."""


class Samples:
    """Rank 0's, written after each step."""

    def __init__(self, phase: Path, step: int, runtime: Runtime) -> None:
        """Continues a file whose run resumes after `step`."""
        self.path, self.main = phase / FILE, runtime.main
        self.lines = [line for line in read_metrics(self.path) if line["step"] <= step] if self.main else []
        if self.main:
            self._rewrite()

    def write(self, step: int, groups: Sequence[Group]) -> None:
        if not self.main:
            return
        new = [_line(step, one) for one in chosen(groups)]
        self.lines += new
        if self.lines[0:1] and self.lines[0]["step"] <= step - 2 * STEPS:
            self.lines = [line for line in self.lines if line["step"] > step - STEPS]
            self._rewrite()
        elif new:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(_text(new))
            except OSError as error:
                raise unwritable(self.path, error) from None

    def _rewrite(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, _text(self.lines))


def chosen(groups: Sequence[Group]) -> list[Rollout]:
    """The best and the worst answer of each group, groups to learn from first."""
    found: list[Rollout] = []
    for group in sorted(groups, key=lambda group: not is_informative(group)):
        best, worst = (of(group, key=lambda one: one.reward) for of in (max, min))
        found += [best, worst] if best is not worst else [best]
    return found[:PER_STEP]


def _line(step: int, one: Rollout) -> dict[str, Any]:
    question, answer = "", readable(one.message) if one.message else ""
    if one.question is not None:
        question = readable(one.question.task.conversation(one.question.row)["messages"][-2])
    return {
        "step": step,
        "question": question[:LONGEST],
        "answer": answer[:LONGEST],
        "reward": round(one.reward, 4),
        "advantage": round(one.advantage, 4),
        "tokens": sum(len(turn.ids) for turn in one.turns),
        "calls": sum(turn.calls for turn in one.turns),
        "finished": one.turns[-1].finished,
    }


def _text(lines: Sequence[dict[str, Any]]) -> str:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return text.encode("utf-8", "replace").decode()  # a user's row may have half a surrogate pair
