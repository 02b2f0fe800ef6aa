"""lanbot chat and lanbot agent."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lanbot.cli.shared import chosen_phase, open_run
from lanbot.core.errors import UsageError, UserError

if TYPE_CHECKING:
    from lanbot.agent.session import Session
    from lanbot.config.run import Run

Workspace = Annotated[Path | None, Parameter(help="Folder for its files; default: one in the run.")]


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
        ask: A question to ask first, in a separate conversation; may be given several times.
        phase: mid, sft or rl; default: the latest.
        temperature: 0 always takes the most likely token.
    """
    from lanbot.agent import terminal

    made = open_run(run)
    with _session(made, phase, workspace, temperature, top_k, seed) as session:
        for question in ask or []:
            print(f"> {question}")
            terminal.reply(session.agent, question)
            session.new()
        if not ask or sys.stdin.isatty():
            terminal.converse(session, made.recipe.identity.name)


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
    """Give a run's model a task, which it solves with its tools. Exit code 1 if there is no complete answer.

    Each task is a new conversation; files and memory are kept.

    Args:
        run: A run's name or folder.
        task: What to do.
        phase: mid, sft or rl; default: the latest.
        transcript: File to write the conversation to.
        temperature: Default: the recipe's.
    """
    from lanbot.agent import terminal
    from lanbot.agent.limits import problem_of
    from lanbot.core.files import write_atomic

    if not task.strip():
        raise UsageError("the task is empty", "Say what to do: lanbot agent RUN TASK.")
    made = open_run(run)
    if transcript is not None and (transcript.is_dir() or not transcript.parent.is_dir()):
        raise UserError(f"--transcript {transcript}: cannot be written", "Name a file in an existing folder.")
    temperature = made.recipe.agent.temperature if temperature is None else temperature
    with _session(made, phase, workspace, temperature, None, seed) as session:
        worker = session.agent
        turn = terminal.show_turn(worker, task)
    if transcript is not None:
        write_atomic(transcript, worker.transcript())
    problem = problem_of(turn.ended, worker.limits, worker.model.context_length)
    if problem is not None:
        raise problem


def _session(
    made: "Run", phase: str | None, workspace: Path | None, temperature: float, top_k: int | None, seed: int
) -> "Session":
    chosen = chosen_phase(made, phase)
    from lanbot.agent import session

    return session.open_session(made, chosen, workspace, temperature, top_k, seed)
