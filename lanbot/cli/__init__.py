"""The command line: one module for each group of commands. Commands import heavy libraries only when they run."""

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from cyclopts import App, CycloptsError

from lanbot import __version__
from lanbot.cli import (
    chat,
    cloud,
    dashboard,
    data,
    doctor,
    evaluation,
    export,
    identity,
    imports,
    init,
    memory,
    plan,
    report,
    run,
    runs,
    serve,
    sessions,
)
from lanbot.core.errors import Stopped, UsageError, UserError

app = App(
    name="lanbot",
    version=__version__,
    help="Train a chat model of your own, end to end, and put it to work.",
    help_format="plaintext",  # markdown takes twice as long
    help_epilogue="Errors are two lines; --debug adds the traceback. Runs are kept in runs/ (or LANBOT_RUNS).",
    suppress_keyboard_interrupt=False,  # main handles it
)
for group in (data.app, identity.app, runs.app, cloud.app):
    app.command(group)
commands = (
    init.init,
    run.run,
    run.prepare,
    plan.plan,
    chat.chat,
    chat.agent,
    serve.serve,
    memory.memory,
    sessions.sessions,
    report.report,
    dashboard.dashboard,
    doctor.doctor,
)
for command in commands:
    app.command(command)
app.command(evaluation.evaluate, name="eval")
app.command(imports.import_model, name="import")
app.command(export.export)

RESUME = "stopped; saved checkpoints are complete: run the same command again to resume"
MIN_COLUMNS = 40
"""rich never finishes writing help for a terminal of two columns or fewer."""


def run_phase(phase: str) -> None:
    """The entry point of scripts/*.py: one phase of `lanbot run`, under python or torchrun."""
    main(["run", *sys.argv[1:], "--phase", phase])


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit codes: 0 complete, 1 failed, 2 wrong usage, 130 after Ctrl-C, 143 after SIGTERM."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    given = [argument.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for argument in given]
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    stopped = RESUME if given[:1] in (["run"], ["prepare"]) and not {"--help", "-h"} & set(given) else "stopped"

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Stopped(143, stopped)

    signal.signal(signal.SIGTERM, terminate)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # characters that the terminal's encoding lacks are replaced
            stream.reconfigure(errors="replace")
    try:
        app(given, exit_on_error=False, result_action="return_value", **_consoles())
        sys.stdout.flush()
    except CycloptsError:
        sys.exit(2)  # cyclopts has printed what is wrong
    except UserError as error:
        _fail(error.problem, error.remedy)
        if debug:
            raise
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except Stopped as error:
        _fail(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _fail(stopped)
        sys.exit(130)
    except BrokenPipeError:
        _discard_output()
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        _fail(*_explain(error))
        _discard_output()
        sys.exit(1)
    sys.exit(0)


def _consoles() -> dict[str, Any]:
    """Consoles for help and errors on a terminal of fewer than MIN_COLUMNS; the default ones otherwise."""
    setting = os.environ.get("COLUMNS", "")
    columns = int(setting) if setting.isdecimal() else shutil.get_terminal_size().columns
    if columns >= MIN_COLUMNS:
        return {}
    from rich.console import Console

    return {"console": Console(width=MIN_COLUMNS), "error_console": Console(width=MIN_COLUMNS, stderr=True)}


def _explain(error: Exception) -> tuple[str, str]:
    """Problem and remedy of an unexpected error."""
    what = f"{type(error).__name__}: {error}"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and _peer_failed(error):
        return f"another rank failed ({what})", "See its own message. The same command resumes."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'output'}: {error.strerror}", "Fix that and run again; --debug adds the traceback."
    return what, "This is a bug in LanBot: run again with --debug for the traceback."


def _peer_failed(error: Exception) -> bool:
    """Whether a collective failed because another rank ended."""
    phrases = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")
    return type(error).__name__.startswith("Dist") or any(phrase in str(error) for phrase in phrases)


def _discard_output() -> None:
    """Prevents the interpreter's flush at exit from failing again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(problem: str, remedy: str = "") -> None:
    """Writes the two lines of an error to stderr, with the rank unless it is 0."""
    rank = int(os.environ.get("RANK", "0"))
    who = f"lanbot (rank {rank})" if rank else "lanbot"
    print(f"{who}: {problem}" + (f"\n{remedy}" if remedy else ""), file=sys.stderr)
