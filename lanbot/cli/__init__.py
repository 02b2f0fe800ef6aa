"""The commands. Heavy libraries are imported inside them, so that help answers at once."""

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from lanbot import __version__
from lanbot.cli import data, evaluation, identity
from lanbot.cli.shared import (
    Mirror,
    Overrides,
    UnsafeExec,
    chosen_phase,
    make_options,
    open_run,
    parse_overrides,
)
from lanbot.core.errors import Stopped, UsageError, UserError

if TYPE_CHECKING:
    from lanbot.agent.loop import Agent
    from lanbot.agent.session import RunTools
    from lanbot.config.run import Run

app = App(
    name="lanbot",
    version=__version__,
    help="Train a chat model of your own, end to end, and put it to work.",
    help_format="plaintext",  # markdown would take a tenth of the time that help may take
    help_epilogue="Errors are two lines; --debug shows where they come from. Runs live in runs/ (LANBOT_RUNS).",
    suppress_keyboard_interrupt=False,  # main says what became of the run
)
runs = App(name="runs", help="The runs here: list them, delete one.")
app.command(data.app)
app.command(identity.app)
app.command(runs)
app.command(evaluation.evaluate, name="eval")

STOPPED = "stopped; what was saved is whole: run the same command again to go on"

Workspace = Annotated[Path | None, Parameter(help="The folder of its files; one in the run if left out.")]


@app.command
def init(path: Path = Path("lanbot.toml"), *, name: str = "", creator: str = "", personality: str = "") -> None:
    """Ask who the bot is and write a recipe for it; its run is named after the file.

    Args:
        path: The recipe to write.
        name: The bot's name; asked for if left out.
        creator: Who makes it; asked for if left out.
        personality: Its manner, in a few words; asked for if left out.
    """
    from lanbot.config import recipe

    if path.exists():
        raise UserError(f"{path}: there already", "Name another file, or delete it.")
    if not path.parent.is_dir():
        raise UserError(f"{path}: no such folder", "Make the folder first, or name another file.")
    default = recipe.Identity()
    name = name.strip() or _ask("Its name", default.name)
    creator = creator or _ask("Who makes it (your name)", os.environ.get("USER", ""))
    personality = personality or _ask("Its personality, in a few words", default.personality)
    folder = "".join(c if c.isalnum() or c in "-_" else "-" for c in path.stem.lower()).strip("-") or "bot"
    text = (recipe.SHIPPED / "demo.toml").read_text()
    _, _, tail = text.partition('name = "demo"')
    identity = "".join(
        f"{key} = {recipe.toml_value(value)}\n"
        for key, value in {"name": name, "creator": creator, "personality": personality}.items()
    )
    before, _, rest = tail.partition("[identity]")
    after = rest[rest.index("\n[") :]
    shown = name if name.isprintable() else folder  # a comment cannot hold a line break
    path.write_text(
        f"# {shown}'s recipe, after the demo's.\n" + f'name = "{folder}"' + before + "[identity]\n" + identity + after
    )
    print(f"Wrote {path}. Next: lanbot run {path}, then lanbot chat {folder}")


def _ask(question: str, default: str) -> str:
    if not sys.stdin.isatty():
        return default
    try:
        return input(f"{question} [{default}]: ").strip() or default
    except EOFError:
        return default


@app.command
def run(
    recipe: str, *overrides: Overrides, phase: str = "all", mirror: Mirror = None, unsafe_exec: UnsafeExec = False
) -> None:
    """Run a recipe: all phases, or some; go on where it stopped.

    Args:
        recipe: A recipe's file, or the name of a shipped one: smoke, demo, laptop, d20.
        phase: base, mid+sft, all: phases joined by +.
    """
    from lanbot.config import recipe as recipes

    options = make_options(mirror, unsafe_exec)
    pairs = parse_overrides(overrides)
    loaded = recipes.load(recipe, pairs)
    from lanbot import report
    from lanbot.config.run import Run
    from lanbot.distributed.runtime import Runtime
    from lanbot.phases import pipeline

    with Runtime.start() as runtime:
        phases = pipeline.parse_phases(phase)
        made = Run(options.runs / loaded.name, loaded, options)
        pipeline.preflight(made, phases, runtime)
        if runtime.main:
            Run.create(loaded, options=options, made_by=pipeline.MADE_BY)
        runtime.barrier()
        pipeline.execute(made, phases, runtime)
        if runtime.main and made.last_model():
            print(report.closing(made, report.write(made)))


def phase_door(phase: str) -> None:
    """What scripts/*.py are: one phase of `lanbot run`, under python or torchrun."""
    main(["run", *sys.argv[1:], "--phase", phase])


@app.command
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


@app.command
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


@app.command
def report(run: str, *, json: bool = False) -> None:
    """Write a run's report anew (a page, a text, JSON) and show its tables.

    Args:
        run: A run's name or folder.
        json: Print report.json.
    """
    from lanbot import report as reports

    made = open_run(run)
    written = reports.write(made)
    if json:
        print(_dumps(written))
        return
    if reports.trained(written):
        print(reports.evaluation_table(written), reports.training_table(written), sep="\n\n", end="\n\n")
    print(reports.closing(made, written))


@runs.default
def list_runs() -> None:
    """List the runs: size, phases done."""
    from lanbot.config.recipe import PHASES
    from lanbot.config.run import Run, list_runs
    from lanbot.core.console import size, table

    rows = []
    for folder in list_runs():
        try:
            made = Run.open(str(folder))
        except UserError as error:
            rows.append((folder.name, error.problem, ""))
            continue
        done = [phase for phase in PHASES if made.done(phase)]
        begun = [f"({phase})" for phase in PHASES if made.begun(phase) and phase not in done]
        rows.append((folder.name, " ".join(done + begun) or "nothing yet", size(made.size())))
    none = f"No runs in {make_options().runs}/ yet: lanbot run RECIPE"
    print(table(rows, ("run", "done (begun)", "size")) if rows else none)


@runs.command
def delete(run: str, *, yes: bool = False) -> None:
    """Delete a run and all that is in it.

    Args:
        yes: Do not ask.
    """
    from lanbot.core.console import size

    made = open_run(run)
    what = f"{made.folder} ({size(made.size())})"
    if not yes and not sys.stdin.isatty():
        raise UserError(f"{what}: not deleted without being sure", "Add --yes.")
    if yes or input(f"Delete {what}? [y/N] ").strip().lower() == "y":
        made.delete()
        print(f"Deleted {what}.")


@app.command
def doctor(*, mirror: Mirror = None, unsafe_exec: UnsafeExec = False) -> None:
    """Say what this machine is and can do, and what is missing."""
    options = make_options(mirror, unsafe_exec)
    import platform
    import shutil

    import torch

    from lanbot.core import hardware
    from lanbot.core.console import size, table
    from lanbot.distributed.runtime import Runtime
    from lanbot.sandbox import sandbox

    runtime = Runtime.single()
    root = next(p for p in [options.runs.absolute(), *options.runs.absolute().parents] if p.exists())
    device = torch.cuda.get_device_name() if runtime.device.type == "cuda" else runtime.device.type
    rows = [
        ("lanbot", __version__),
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        ("device", f"{device}, {torch.get_num_threads()} threads"),
        ("computes in", str(runtime.dtype).removeprefix("torch.")),
        ("matmul", f"{hardware.matmul_ceiling(runtime.device, runtime.dtype) / 1e9:,.0f} GFLOP/s"),
        ("memory free", size(hardware.available())),
        ("disk free", f"{size(shutil.disk_usage(root).free)} at {options.runs}/"),
        ("mirror", "none: data comes from the hub" if options.mirror is None else str(options.mirror)),
        ("cache", f"{options.cache}{', offline' if options.offline else ''}"),
    ]
    print(table(rows, ("what", "is"), left=2))
    print("\n" + sandbox.doctor(options.unsafe_exec))


def _agent(
    made: "Run", phase: str | None, workspace: Path | None, temperature: float, top_k: int | None, seed: int
) -> "tuple[Agent, RunTools]":
    chosen = chosen_phase(made, phase)
    from lanbot.agent.session import open_agent, open_tools
    from lanbot.distributed.runtime import Runtime

    tools = open_tools(made, workspace)
    return open_agent(made, chosen, tools.calls, temperature, top_k, seed, Runtime.single()), tools


def _dumps(value: Any) -> str:
    return json.dumps(value)


def main(arguments: list[str] | None = None) -> None:
    """Exit codes: 0 complete, 1 failed, 2 wrong usage, 130 after Ctrl-C, 143 after SIGTERM."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(arguments, exit_on_error=False)
    except CycloptsError:
        sys.exit(2)  # cyclopts has said what is wrong
    except UserError as error:
        _fail(error.problem, error.remedy)
        if debug:
            raise
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except Stopped as stopped:
        _fail(str(stopped))
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        _fail(STOPPED if arguments[:1] == ["run"] else "stopped")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        what = f"{type(error).__name__}: {error}"
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and _is_of_a_peer(error):
            _fail(f"another rank is gone ({what})", "See what that one said. The same command goes on.")
        else:
            _fail(what, "This is LanBot's fault, not yours: run again with --debug to see where.")
        sys.exit(1)


def _is_of_a_peer(error: Exception) -> bool:
    """Whether an error is what a rank sees of another's end."""
    said = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")
    return type(error).__name__.startswith("Dist") or any(words in str(error) for words in said)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Stopped(143, STOPPED)


def _fail(problem: str, remedy: str = "") -> None:
    """Two lines on stderr. What one rank of several has to say is said with its number."""
    rank = int(os.environ.get("RANK", "0"))
    who = f"lanbot (rank {rank})" if rank else "lanbot"
    print(f"{who}: {problem}" + (f"\n{remedy}" if remedy else ""), file=sys.stderr)
