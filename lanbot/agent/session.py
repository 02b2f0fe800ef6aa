"""The agent of a run: its model, one workspace and one memory for all its conversations."""

from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from lanbot.agent.local import LocalModel
from lanbot.agent.loop import Agent
from lanbot.agent.model import ModelClient
from lanbot.chat.formats import load_format
from lanbot.config.run import Run
from lanbot.core.errors import UserError
from lanbot.distributed.runtime import Runtime
from lanbot.inference.engine import Engine
from lanbot.inference.sampling import Sampling
from lanbot.models import saved
from lanbot.models.weights import load_model
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.toolbox import Toolbox
from lanbot.tools.workspace import Workspace


@dataclass
class Session:
    """An agent, and what its tools work on."""

    agent: Agent
    workspace: Workspace
    memory: Memory
    tools: Toolbox | None = None

    def new(self) -> None:
        """Starts a new conversation; files and memory stay."""
        self.agent.new()
        self.memory.source = _conversation()

    def close(self) -> None:
        if self.tools is not None:
            self.tools.close()
        self.memory.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_session(
    run: Run, phase: str, workspace: Path | None, temperature: float, top_k: int | None, seed: int
) -> Session:
    """The run's model after a phase, with the tools and limits of its recipe. Raises UserError.

    workspace: the folder of its files; the run's own if left out.
    """
    if workspace is not None and not workspace.is_dir():
        raise UserError(f"--workspace {workspace}: no such folder", "Create the folder first, or name another.")
    home, limits = run.folder / "agent", run.recipe.agent
    files, memory = Workspace(workspace or home / "files"), Memory(home / "memory.db", _conversation())
    sampling = Sampling(limits.max_tokens, temperature, top_k)
    model = open_model(run, phase)
    tools = Toolbox(limits, files, memory, run.options.unsafe_exec)
    agent = Agent(model, PythonCalls(tools.toolset), limits.max_steps, sampling, seed=seed)
    return Session(agent, files, memory, tools)


def _conversation() -> str:
    """A name for a conversation, for what is remembered in it."""
    return uuid4().hex[:8]


def open_model(run: Run, phase: str) -> ModelClient:
    """A run's model after a phase, in this process. Raises UserError if no checkpoint is complete."""
    folder = saved.latest(run.phase(phase))
    if folder is None:
        raise UserError(f"{run.folder}: its checkpoints are damaged", "Run the recipe again.")
    runtime = Runtime.single()
    model = load_model(folder, runtime.dtype, runtime.device, run.needs_masters(phase))
    return LocalModel(Engine(model, load_format(folder)))
