"""lanbot chat and lanbot agent: use a run's model."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lanbot.cli.shared import chosen_phase, open_run
from lanbot.core.errors import UserError

if TYPE_CHECKING:
    from lanbot.agent.loop import Agent
    from lanbot.agent.session import RunTools
    from lanbot.config.run import Run

Workspace = Annotated[Path | None, Parameter(help="The folder of its files; one in the run if left out.")]


def chat(
    run: str,
    *,
    ask: Annotated[list[str] | None, Parameter(negative="")] = None,
    phase: str | None = None,
    workspace: Workspace = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
) -> None:
    """Talk to a run's model. It may use its tools: a calculator, files, a memory.

    Args:
        run: A run's name or folder.
        ask: A question to begin with, in a conversation of its own; may be given more than once.
        phase: mid, sft or rl; the latest if left out.
        temperature: 0: always the likeliest token.
    """
    from lanbot.agent import terminal

    made = open_run(run)
    partner, tools = _agent(made, phase, workspace, temperature, top_k, seed)
    for question in ask or []:
        print(f"> {question}")
        terminal.reply(partner, question)
        partner.new()
    if not ask or sys.stdin.isatty():
        terminal.converse(partner, tools, made.recipe.identity.name)


def agent(
    run: str,
    task: str,
    *,
    phase: str | None = None,
    workspace: Workspace = None,
    transcript: Path | None = None,
    temperature: float | None = None,
    seed: int = 0,
) -> None:
    """Give a run's model a task; it uses its tools until it is done. Exit code 1 if a limit stopped it.

    Each task is a conversation of its own; the files and the memory stay.

    Args:
        run: A run's name or folder.
        task: What to do.
        phase: mid, sft or rl; the latest if left out.
        transcript: A file to write the whole conversation to.
        temperature: The recipe's if left out.
    """
    from lanbot.agent import terminal
    from lanbot.core.files import write_atomic

    made = open_run(run)
    if transcript is not None and (transcript.is_dir() or not transcript.parent.is_dir()):
        raise UserError(f"--transcript {transcript}: cannot be written", "Name a file in a folder that is there.")
    temperature = made.recipe.agent.temperature if temperature is None else temperature
    worker, _ = _agent(made, phase, workspace, temperature, None, seed)
    turn = terminal.show_turn(worker, task, terminal.Lines)
    if transcript is not None:
        write_atomic(transcript, worker.transcript())
    stopped = terminal.limit_reached(worker, turn)
    if stopped is not None:
        raise stopped


def _agent(
    made: "Run", phase: str | None, workspace: Path | None, temperature: float, top_k: int | None, seed: int
) -> "tuple[Agent, RunTools]":
    chosen = chosen_phase(made, phase)
    from lanbot.agent.session import open_agent, open_tools
    from lanbot.distributed.runtime import Runtime

    tools = open_tools(made, workspace)
    return open_agent(made, chosen, tools.calls, temperature, top_k, seed, Runtime.single()), tools
