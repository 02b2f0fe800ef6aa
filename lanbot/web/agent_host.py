"""The agent of a run behind the server: one turn at a time, in a thread of its own, with its questions to the user."""

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanbot.agent.events import Asked, Event, Streamed, to_json
from lanbot.core.errors import UserError
from lanbot.tools.memory import Memory
from lanbot.tools.permissions import Answer, Ask
from lanbot.tools.question import Question
from lanbot.web.errors import ApiError

if TYPE_CHECKING:
    from lanbot.agent.session import OpenAgent

Tell = Callable[[dict[str, Any] | None], None]
"""Hears what happens in a turn, as JSON; None after the end."""


class Remembered:
    """What the agent remembers, to be read and changed while it works: each call opens the file, as its tools do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[dict[str, Any]]:
        memory = Memory(self.path)
        try:
            return [asdict(entry) for entry in memory.entries()]
        finally:
            memory.close()

    def change(self, number: int | None, text: str | None) -> None:
        """Without a number a text is added, without a text what has the number is forgotten. Raises ToolError."""
        memory = Memory(self.path, "the chat page")
        try:
            if number is None:
                memory.remember(text or "")
            elif text is None:
                memory.forget(number)
            else:
                memory.edit(number, text)
        finally:
            memory.close()


class AgentHost:
    """open: opens the agent, when it is first asked; it is given whom to ask about a call."""

    def __init__(self, open: Callable[[Ask], "OpenAgent"], remembered: Remembered) -> None:
        self._open, self.remembered = open, remembered
        self._opened: OpenAgent | None = None
        self._work = ThreadPoolExecutor(1, "agent")
        self._lock = threading.Lock()
        self._tell: Tell | None = None
        """Of the turn that is not over."""
        self._asked: dict[str, Answer | None] = {}
        """The answer to the question that is open, by its id."""
        self._answered = threading.Condition(self._lock)
        self._left = False

    @property
    def busy(self) -> bool:
        return self._tell is not None

    def begin(self, request: str, session: int, tell: Tell) -> None:
        """Begins a turn of a conversation, 0 for a new one. Raises ApiError if another turn is not over."""
        with self._lock:
            if self._tell is not None:
                raise ApiError(409, "the agent works on another request", code="busy", headers={"Retry-After": "5"})
            self._tell, self._left = tell, False
        self._work.submit(self._turn, request, session)

    def answer(self, question: str, answer: Answer) -> None:
        """Raises ApiError if the question is not open, as after an interruption."""
        with self._lock:
            if question not in self._asked:
                raise ApiError(404, "this question is not open any more")
            self._asked[question] = answer
            self._answered.notify_all()

    def leave(self) -> None:
        """Interrupts the turn; a question that is open is answered by no. Without effect if there is none."""
        with self._lock:
            if self._tell is None:
                return
            self._left = True
        if self._opened is not None:
            self._opened.agent.interrupt()  # first, so that the model does not go on after the answer
        with self._lock:
            self._answered.notify_all()

    def close(self) -> None:
        self.leave()
        self._work.submit(self._close)
        self._work.shutdown()

    # -- the agent's thread

    def _turn(self, request: str, session: int) -> None:
        tell = self._tell
        assert tell is not None
        try:
            tell(self._answer(request, session))
        except UserError as error:
            tell({"event": "done", "session": session, "problem": f"{error.problem}. {error.remedy}"})
        except Exception as error:
            problem = f"a fault of the server's: {type(error).__name__}"
            tell({"event": "done", "session": session, "problem": problem})
        finally:
            with self._lock:
                self._tell = None
            tell(None)

    def _answer(self, request: str, session: int) -> dict[str, Any]:
        if self._opened is None:
            self._opened = self._open(self._ask)
        opened = self._opened
        if session:
            opened.resume(session)
        elif opened.number:
            opened.new()
        if self._left:  # while the model was loaded
            return {"event": "done", "session": session, "problem": "Interrupted."}
        turn = opened.ask(request, self._hear)
        problem = opened.problem_of(turn)
        said = f"{problem.problem}. {problem.remedy}" if problem else ""
        return {"event": "done", "session": opened.number, "reason": turn.ended, "problem": said}

    def _hear(self, event: Event) -> None:
        if self._left and self._opened is not None:
            self._opened.agent.interrupt()  # whoever left may have done so before the turn began
        if isinstance(event, Asked) and self._tell is not None and self._opened is not None:
            self._tell({"event": "begun", "session": self._opened.number})  # known even if the turn is broken off
        if self._tell is not None and not (isinstance(event, Streamed) and event.kind == "piece" and not event.text):
            self._tell(to_json(event))

    def _ask(self, question: Question) -> Answer:
        """Waits for the user; whoever left said no."""
        name = secrets.token_hex(8)
        with self._lock:
            if self._tell is None or self._left:
                return "no"
            self._asked[name] = None
            self._tell({"event": "question", "id": name, **asdict(question)})
            self._answered.wait_for(lambda: self._left or self._asked[name] is not None)
            return self._asked.pop(name) or "no"

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None
