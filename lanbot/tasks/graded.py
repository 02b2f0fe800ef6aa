"""Tasks whose answers are programs: one Python function, judged by its tests in the sandbox."""

from abc import abstractmethod
from collections.abc import Sequence

from lanbot.chat.messages import Message, spoken
from lanbot.tasks.code_grading import NO_PROGRAM, Program, judge_all
from lanbot.tasks.task import Task


class Graded(Task):
    """A program and its tests for each row are all that such a task adds."""

    runs_code = True

    @abstractmethod
    def program(self, i: int, answer: str) -> Program:
        """The program in an answer to row i."""

    @abstractmethod
    def tests(self, i: int) -> str:
        """Python that defines check(candidate)."""

    def check(self, i: int, answer: Message) -> bool:
        return self.faults([i], [answer]) == [""]

    def faults(self, rows: Sequence[int], answers: Sequence[Message | None]) -> list[str]:
        """Why each answer fails, one of code_grading.FAULTS; "": it passes."""
        said = [None if answer is None else spoken(answer) for answer in answers]
        found = [NO_PROGRAM if not text or not text.strip() else "" for text in said]
        asked = [k for k, fault in enumerate(found) if not fault]
        programs = [(self.program(rows[k], said[k] or ""), self.tests(rows[k])) for k in asked]
        verdicts = judge_all(programs, self.context.options.unsafe_exec)
        for k, verdict in zip(asked, verdicts, strict=True):
            found[k], self.sandbox_level = verdict
        return found
