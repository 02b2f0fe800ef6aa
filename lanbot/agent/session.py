"""An agent that is open: a model, its tools and their permissions, and conversations that are kept."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lanbot.agent.events import Event, OnEvent, Turn
from lanbot.agent.limits import Limits, problem_of
from lanbot.agent.loop import Agent
from lanbot.agent.model import ModelClient
from lanbot.agent.permissions import merged, permit
from lanbot.agent.sessions import Session, Sessions
from lanbot.agent.skills import FOLDER, SHARE, Skills, find_note, note_text
from lanbot.agent.telemetry import Telemetry, open_telemetry
from lanbot.config.run import Run
from lanbot.core.console import say
from lanbot.core.errors import UserError
from lanbot.inference.sampling import Sampling
from lanbot.tools.memory import Memory
from lanbot.tools.permissions import Answer, Ask, Permitted
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.question import Question
from lanbot.tools.toolbox import Toolbox
from lanbot.tools.workspace import Workspace


@dataclass(frozen=True)
class Options:
    """How an agent is opened. phase: "" for the latest. temperature: None for the recipe's.

    allow, ask, deny: rules besides the recipe's. asks: who is asked about a call; None: what would be asked is refused.
    """

    phase: str = ""
    workspace: Path | None = None
    temperature: float | None = None
    top_k: int | None = None
    seed: int = 0
    allow: Sequence[str] = ()
    ask: Sequence[str] = ()
    deny: Sequence[str] = ()
    asks: Ask | None = None


@dataclass
class OpenAgent:
    """One conversation at a time with an agent; a context manager. Files and memory outlive conversations.

    sessions: where conversations are kept; None if nothing can be written there.
    """

    name: str
    agent: Agent
    workspace: Workspace
    memory: Memory
    tools: Toolbox
    permissions: Permitted
    home: Path
    model_name: str = ""
    sessions: Sessions | None = None
    skills: Skills | None = None
    session: Session | None = field(default=None, init=False)
    """The conversation where it is kept; None before the first request."""
    telemetry: Telemetry | None = field(default=None, init=False)

    def ask(self, request: str, on_event: OnEvent | None = None) -> Turn:
        """Answers a request; see `Agent.turn`. Every event is kept before it is told to on_event."""
        self._keep()
        return self.agent.turn(request, self._listener(on_event))

    def go_on(self, on_event: OnEvent | None = None) -> Turn:
        """Continues a turn that was cut off; see `Agent.go_on`."""
        return self.agent.go_on(self._listener(on_event))

    @property
    def cut_off(self) -> bool:
        """Whether the last turn has no end."""
        return self.agent.cut_off

    @property
    def number(self) -> int:
        """Of the conversation among those that are kept; 0 if it is not."""
        return self.session.id if self.session else 0

    def problem_of(self, turn: Turn) -> UserError | None:
        """Why a turn has no complete answer; None if it has."""
        return problem_of(turn.ended, self.agent.limits, self.agent.model.context_length)

    def new(self) -> None:
        """Starts a new conversation; files and memory stay."""
        self._leave()
        self.agent.new()

    def resume(self, which: int | str = "last") -> None:
        """Goes on with a conversation that was kept. Raises UserError if that cannot be, and nothing changes."""
        if self.sessions is None:
            raise UserError("no conversations are kept here", f"Make {self.home} writable.")
        about = self.sessions.about(which)
        if about.id == self.number:
            return
        opened = self.sessions.open(about.id)
        self._leave()
        self._go_to(opened)

    def compact(self) -> str:
        """Makes room in the context now; returns what was done, "" if nothing could be. See `Agent.compact`."""
        return self.agent.compact(self._listener(None))

    def fork(self, turns: int | None = None) -> int:
        """Goes on with a copy of this conversation, or of its first turns; returns its number. Raises UserError."""
        if self.sessions is None or self.session is None:
            raise UserError("nothing was said yet that could be copied", "Ask something first.")
        number = self.sessions.fork(self.session.id, turns)
        self.resume(number)
        return number

    def close(self) -> None:
        """Ends tools and servers, whatever fails meanwhile. Again does nothing."""
        with ExitStack() as closing:
            for one in (self.agent.model, self.sessions, self.memory, self.tools):
                closing.callback(getattr(one, "close", _nothing))
            closing.callback(self._leave)

    def __enter__(self) -> "OpenAgent":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _keep(self) -> None:
        """Makes the conversation one that is kept, at its first request."""
        if self.session is None and self.sessions is not None:
            agent = self.agent
            self._enter(self.sessions.create(self.model_name, agent.system, agent.tools.declarations))

    def _enter(self, session: Session) -> None:
        self.session, self.memory.source = session, f"session {session.id}"
        self.telemetry = open_telemetry(self.model_name, f"{self.home.parent.name} {session.id}")

    def _go_to(self, session: Session) -> None:
        self._enter(session)
        old = self.agent
        self.agent = Agent(
            old.model, old.tools, old.limits, old.sampling, old.system, old.seed, list(session.events), old.clock
        )

    def _leave(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None
        if self.telemetry is not None:
            self.telemetry.close()
            self.telemetry = None
        self.memory.source = ""

    def _listener(self, on_event: OnEvent | None) -> OnEvent:
        def hear(event: Event) -> None:
            if self.session is not None:
                self.session.append(event)
            if self.telemetry is not None:
                self.telemetry(event)
            if on_event is not None:
                on_event(event)

        return hear


def open_session(run: Run, options: Options = Options()) -> OpenAgent:
    """The agent of a run: its model after a phase or its endpoint, with the tools, rules and limits of its recipe.

    Raises UserError.
    """
    settings, home = run.recipe.agent, run.folder / "agent"
    folder = options.workspace or home / "files"
    if options.workspace is not None and not folder.is_dir():
        raise UserError(f"--workspace {folder}: no such folder", "Create the folder first, or name another.")
    rules = merged(settings.permissions, options.deny, options.ask, options.allow)
    files, skills = Workspace(folder), Skills([folder / FOLDER, home / "skills"], lambda text: say(f"({text})"))
    opened: list[OpenAgent] = []
    asks = None if options.asks is None else _untimed(options.asks, lambda: opened[0].agent)
    with ExitStack() as closing:
        model = open_model(run, options.phase)
        closing.callback(getattr(model, "close", _nothing))
        memory = Memory(home / "memory.db")
        closing.callback(memory.close)
        tools = closing.enter_context(Toolbox(settings, files, memory, run.options.unsafe_exec, skills.tools))
        permitted = permit(tools, files, rules, run.folder, asks, lambda event: opened[0].agent.emit(event))
        temperature = settings.temperature if options.temperature is None else options.temperature
        agent = Agent(
            model,
            PythonCalls(tools.toolset),
            Limits.of(settings),
            Sampling(temperature=temperature, top_k=options.top_k),
            _system(run, model, skills, find_note(folder, look_above=options.workspace is not None)),
            options.seed,
        )
        kept = Sessions(home / "sessions.db") if _writable(home) else None
        closing.pop_all()  # from now on it is the agent that closes them
    name = run.recipe.identity.name
    opened.append(OpenAgent(name, agent, files, memory, tools, permitted, home, _name(run, options), kept, skills))
    return opened[0]


def _nothing() -> None: ...


def _untimed(ask: Ask, agent: Callable[[], Agent]) -> Ask:
    """Asks so that the time until the answer does not count as the turn's."""

    def asked(question: Question) -> Answer:
        clock = agent().clock
        began = clock()
        try:
            return ask(question)
        finally:
            agent().not_counted(clock() - began)

    return asked


def open_model(run: Run, phase: str) -> ModelClient:
    """The model of a run's endpoint; or the run's own after a phase, in this process. Raises UserError."""
    if run.recipe.agent.endpoint is not None:
        from lanbot.agent.endpoint import EndpointModel

        return EndpointModel(run.recipe.agent.endpoint)
    from lanbot.agent.local import LocalModel
    from lanbot.chat.formats import load_format
    from lanbot.distributed.runtime import Runtime
    from lanbot.inference.engine import Engine
    from lanbot.models import saved
    from lanbot.models.weights import load_model

    chosen = phase or run.last_model()
    if chosen is None:
        raise UserError(f"{run.folder}: no model yet", "Run its recipe first: lanbot run RECIPE.")
    folder = saved.latest(run.phase(chosen))
    if folder is None:
        raise UserError(f"{run.folder}: its checkpoints are damaged", "Run the recipe again.")
    runtime = Runtime.single()
    model = load_model(folder, runtime.dtype, runtime.device, run.needs_masters(phase))
    return LocalModel(Engine(model, load_format(folder)), run.recipe.agent.constrained)


def _name(run: Run, options: Options) -> str:
    """Of the model, for the list of conversations."""
    endpoint = run.recipe.agent.endpoint
    return endpoint.model if endpoint else f"{run.recipe.name} {options.phase}".strip()


def _system(run: Run, model: ModelClient, skills: Skills, note: Path | None) -> str:
    """What skills and notes add to who the bot is; "" if there are none, and the chat format says who it is."""

    def count(words: str) -> int:
        return model.count_tokens([{"role": "system", "content": words}])

    room = model.context_length // SHARE if note else 0
    told = note_text(note, room, count, lambda text: say(f"({text})")) if note else ""
    pieces = [piece for piece in (skills.text, told) if piece]
    return "\n\n".join([run.recipe.identity.system_message, *pieces]) if pieces else ""


def _writable(folder: Path) -> bool:
    """Whether files can be written in a folder, or it can be made."""
    there: Any = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    return os.access(there, os.W_OK)
