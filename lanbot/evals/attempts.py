"""Attempts: answers that are sampled and checked, of one conversation or, for errands, of several."""

from collections.abc import Callable, Sequence

from lanbot.agent.limits import shortened
from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import Message
from lanbot.inference.engine import Completion, Engine
from lanbot.inference.request import Handler
from lanbot.inference.sampling import Sampling
from lanbot.tasks.agent_tasks import EnvTask
from lanbot.tasks.task import Task
from lanbot.tools.bounded import BoundedCalls

CALLS = 8
"""Tool calls that one request of an errand may make."""


class Attempt:
    """One try at a row of a task. `turns`: what the model generated, a completion for each conversation."""

    def __init__(self, task: Task, row: int) -> None:
        self.task, self.row = task, row
        self.env = task.env(row) if isinstance(task, EnvTask) else None
        self.turns: list[Completion] = []
        self.message: Message | None = None
        """The last answer; None if the context had no room for it."""
        self.ended = False

    @property
    def did_not_fit(self) -> bool:
        """Whether the context had no room for an answer."""
        return self.message is None if self.env is None else self.env.did_not_fit

    @property
    def alike(self) -> tuple[Task, int, int]:
        """Attempts with the same have the same prompt: all at a row, until a conversation has answers of their own."""
        return self.task, self.row, id(self) if self.env is not None and self.env.going_on else 0

    def prompt(self, chat_format: ChatFormat) -> list[int]:
        """Of its next request."""
        if self.env is not None and (request := self.env.request()):
            return chat_format.prompt([*self.env.before(), request])
        return chat_format.prompt_of(self.task.asked(self.row, chat_format))

    def take(self, turn: Completion | None, message: Message | None) -> None:
        """The answer to the last prompt; None if that left no room in the context."""
        self.turns += [turn] if turn else []
        self.message = message
        if self.env is not None and (request := self.env.request()):
            self.env.answered(request, message)
        self.ended = self.env is None or self.env.request() is None


def attempt(
    engine: Engine,
    attempts: Sequence[Attempt],
    sampling: Sampling,
    seed: int,
    keys: Sequence[str],
    on_progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Makes all attempts. keys: what their draws depend on besides the seed. on_progress(n): n are done, but
    for further conversations."""
    waiting, turn = list(zip(attempts, keys, strict=True)), 0
    while waiting:
        prompts: dict[tuple[Task, int, int], list[int]] = {}
        done = len(attempts) - len(waiting)
        for one, _ in waiting:
            if one.alike not in prompts:
                prompts[one.alike] = one.prompt(engine.chat_format)
        asked = [(one, prompts[one.alike], _key(key, turn)) for one, key in waiting]
        _answer(engine, asked, sampling, seed, lambda n, done=done: on_progress(done + n))  # type: ignore[misc]
        waiting, turn = [(one, key) for one, key in waiting if not one.ended], turn + 1
        on_progress(len(attempts) - len(waiting))


def _key(key: str, turn: int) -> str:
    return f"{key}/{turn}" if turn else key


def _answer(
    engine: Engine,
    asked: Sequence[tuple[Attempt, list[int], str]],
    sampling: Sampling,
    seed: int,
    on_finished: Callable[[int], None],
) -> None:
    """The next conversation of each attempt: attempt, prompt, key."""
    fitting = [one for one in asked if len(one[1]) < engine.model.config.context]
    handlers = [_handler(engine, one, sampling) for one, _, _ in fitting]
    prompts, keys = [prompt for _, prompt, _ in fitting], [key for _, _, key in fitting]
    completions = engine.generate(prompts, sampling, seed, keys=keys, call_handlers=handlers, on_finished=on_finished)
    answers = {id(one): answer for (one, _, _), answer in zip(fitting, completions, strict=True)}
    for one, _, _ in asked:
        answer = answers.get(id(one))
        one.take(answer, engine.chat_format.parse(answer.ids, answer.sampled) if answer else None)


def _handler(engine: Engine, one: Attempt, sampling: Sampling) -> Handler:
    """What answers an attempt's calls. An output that would fill the answer is shortened to half of it."""

    def count(text: str) -> int:
        return len(engine.chat_format.tokenizer.encode(text))

    def shorten(output: str) -> str:
        most = sampling.max_tokens
        return output if count(output) < most else shortened(output, most // 2, count)

    return engine.call_handler if one.env is None else BoundedCalls(one.env.tools, CALLS, shorten)


def faults(attempts: Sequence[Attempt]) -> list[str]:
    """The fault of each, "" if it is right. The answers of a task are checked together: programs run in parallel."""
    by_task: dict[Task, list[int]] = {}
    for i, one in enumerate(attempts):
        by_task.setdefault(one.task, []).append(i)
    found = [""] * len(attempts)
    for task, numbers in by_task.items():
        mine = [attempts[i] for i in numbers]
        if isinstance(task, EnvTask):
            said = ["" if one.env is not None and one.env.right() else "wrong" for one in mine]
        else:
            said = task.faults([one.row for one in mine], [one.message for one in mine])
        for i, fault in zip(numbers, said, strict=True):
            found[i] = fault
    return found
