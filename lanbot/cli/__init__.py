"""The commands. Heavy libraries are imported inside them, so that help answers at once."""

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from cyclopts import App, CycloptsError

from lanbot import __version__
from lanbot.cli import chat, data, evaluation, identity
from lanbot.cli.shared import (
    Mirror,
    Overrides,
    UnsafeExec,
    make_options,
    open_run,
    parse_overrides,
)
from lanbot.core.errors import Stopped, UsageError, UserError

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
app.command(chat.chat)
app.command(chat.agent)

STOPPED = "stopped; what was saved is whole: run the same command again to go on"


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


def _dumps(value: Any) -> str:
    return json.dumps(value)


def main(arguments: list[str] | None = None) -> None:
    """Exit codes: 0 complete, 1 failed, 2 wrong usage, 130 after Ctrl-C, 143 after SIGTERM."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    stopped = STOPPED if arguments[:1] == ["run"] else "stopped"

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Stopped(143, stopped)

    signal.signal(signal.SIGTERM, terminate)
    try:
        app(arguments, exit_on_error=False)
    except CycloptsError:
        sys.exit(2)  # cyclopts has said what is wrong
    except UserError as error:
        _fail(error.problem, error.remedy)
        if debug:
            raise
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except Stopped as signalled:
        _fail(str(signalled))
        sys.exit(signalled.exit_code)
    except KeyboardInterrupt:
        _fail(stopped)
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


def _fail(problem: str, remedy: str = "") -> None:
    """Two lines on stderr. What one rank of several has to say is said with its number."""
    rank = int(os.environ.get("RANK", "0"))
    who = f"lanbot (rank {rank})" if rank else "lanbot"
    print(f"{who}: {problem}" + (f"\n{remedy}" if remedy else ""), file=sys.stderr)
