"""lanbot chat and lanbot agent."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lanbot.cli.shared import chosen_phase
from lanbot.core.errors import UsageError, UserError

if TYPE_CHECKING:
    from lanbot.agent.session import OpenAgent

Workspace = Annotated[Path | None, Parameter(help="Folder for its files; default: one in the run.")]
Rules = Annotated[list[str] | None, Parameter(negative="")]
Flag = Annotated[bool, Parameter(negative="")]
KeyEnv = Annotated[str, Parameter(help="Environment variable of the endpoint's key; default: LANBOT_API_KEY.")]


def chat(
    run: str,
    *,
    ask: Annotated[list[str] | None, Parameter(negative="")] = None,
    phase: str | None = None,
    workspace: Workspace = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    key_env: KeyEnv = "",
) -> None:
    """Talk to a run's model. It may use its tools: a calculator, files, a memory.

    Args:
        run: A run's name or folder, or an endpoint's model: http://HOST/v1#MODEL.
        ask: A question to ask first, in a separate conversation; may be given several times.
        phase: mid, sft or rl; default: the latest.
        temperature: 0 always takes the most likely token.
    """
    from lanbot.agent import terminal
    from lanbot.agent.live import Live

    live = Live(sys.stdout)
    options = {"temperature": temperature, "top_k": top_k, "seed": seed, "asks": terminal.asking(live)}
    with _open(run, phase, key_env, workspace=workspace, **options) as opened:
        for question in ask or []:
            print(f"> {question}")
            terminal.reply(opened, live, question)
            opened.new()
        if not ask or sys.stdin.isatty():
            terminal.converse(opened, live)


def agent(
    run: str,
    task: str | None = None,
    *,
    phase: str | None = None,
    workspace: Workspace = None,
    resume: str = "",
    allow: Rules = None,
    ask: Rules = None,
    deny: Rules = None,
    json: Flag = False,
    mcp: Flag = False,
    transcript: Path | None = None,
    temperature: float | None = None,
    seed: int = 0,
    key_env: KeyEnv = "",
) -> None:
    """Give a run's model a task, which it solves with its tools. Exit code 1 if there is no complete answer.

    Each task is a new conversation; files and memory are kept. Without a task you talk to it.

    Args:
        run: A run's name or folder, or an endpoint's model: http://HOST/v1#MODEL.
        task: What to do.
        phase: mid, sft or rl; default: the latest.
        resume: The number of an earlier conversation to go on with, or last.
        allow: A rule for calls that are made without asking: write_file(notes/**); may be given several times.
        ask: A rule for calls that you are asked about.
        deny: A rule for calls that are never made.
        json: Print each event as a line of JSON.
        mcp: Be an MCP server on stdin and stdout, with the tool ask.
        transcript: File to write the conversation to.
        temperature: Default: the recipe's.
    """
    from lanbot.agent import terminal
    from lanbot.agent.live import Lines, Live

    if task is not None and not task.strip():
        raise UsageError("the task is empty", "Say what to do: lanbot agent RUN TASK.")
    if mcp and (task is not None or json or resume or transcript):
        raise UsageError("--mcp takes no task: its clients bring them", "Leave out the task and its options.")
    if json and task is None:
        raise UsageError("--json needs a task", "Say what to do: lanbot agent RUN TASK --json.")
    if transcript is not None and (transcript.is_dir() or not transcript.parent.is_dir()):
        raise UserError(f"--transcript {transcript}: cannot be written", "Name a file in an existing folder.")
    live = Live(sys.stdout)
    asks = None if json or mcp else terminal.asking(live)
    rules = {"allow": allow or (), "ask": ask or (), "deny": deny or (), "asks": asks}
    with _open(run, phase, key_env, workspace=workspace, temperature=temperature, seed=seed, **rules) as opened:
        if mcp:
            from lanbot.agent.server import serve

            return serve(opened)
        if resume:
            opened.resume(resume)
        if task is None:
            return terminal.converse(opened, live)
        problem = opened.problem_of(terminal.show_turn(opened, Lines(sys.stdout) if json else live, task))
    if transcript is not None:
        from lanbot.core.files import write_atomic

        write_atomic(transcript, opened.agent.transcript())
    if problem is not None:
        raise problem


def _open(run: str, phase: str | None, key_env: str, **options: Any) -> "OpenAgent":
    from lanbot.agent.runs import agent_run

    made = agent_run(run, key_env)
    if made.recipe.agent.endpoint is None:
        phase = chosen_phase(made, phase)
    elif phase is not None:
        raise UsageError(f"--phase {phase}: the model is an endpoint's", "Leave it out.")
    from lanbot.agent.session import Options, open_session

    return open_session(made, Options(phase=phase or "", **options))
