"""An agent of a run: its model, one workspace and one memory, whoever asks and however often."""

from dataclasses import dataclass
from pathlib import Path

from lanbot.agent.loop import Agent
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
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import Workspace


@dataclass
class RunTools:
    """The tools of a run's model, and what they work on."""

    workspace: Workspace
    memory: Memory

    @property
    def calls(self) -> PythonCalls:
        return PythonCalls(Toolset([*self.workspace.tools, *self.memory.tools]))


def open_tools(run: Run, workspace: Path | None = None) -> RunTools:
    """The run's memory, and the files of a folder or the run's own. Raises UserError: there is no such folder."""
    if workspace is not None and not workspace.is_dir():
        raise UserError(f"--workspace {workspace}: no such folder", "Make the folder first, or name another.")
    home = run.folder / "agent"
    return RunTools(Workspace(workspace or home / "files"), Memory(home / "memory.db"))


def open_agent(
    run: Run, phase: str, tools: PythonCalls, temperature: float, top_k: int | None, seed: int, runtime: Runtime
) -> Agent:
    """The run's model after a phase, with its tools and the limits of its recipe."""
    folder = saved.latest(run.phase(phase))
    if folder is None:
        raise UserError(f"{run.folder}: its checkpoints are damaged", "Run the recipe again.")
    engine = Engine(load_model(folder, runtime.dtype, runtime.device), load_format(folder))
    limits = run.recipe.agent
    return Agent(engine, tools, limits.max_steps, Sampling(limits.max_tokens, temperature, top_k), seed=seed)
