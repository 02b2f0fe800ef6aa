"""What the terminal shows at the end of a run: what was built, how good it is, and what to type next."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from lanbot.config.run import Run
from lanbot.core.console import table
from lanbot.evals.score import items_asked
from lanbot.report import tables
from lanbot.report.collect import trained

QUESTION = "How many r are in strawberry?"


def closing(run: Run, report: dict[str, Any]) -> str:
    by = f" by {report['creator']}" if report["creator"] else ""
    name = "".join(c if c.isprintable() else " " for c in report["identity"] + by)
    lines = [" ".join(name.split()), "  " + tables.built(report), ""]
    if report["evals"]:
        lines += ["  " + line for line in _scores(report).split("\n")] + [""]
    for counted in ("with them", "without them"):
        rows = [row for row in tables.contamination_rows(report) if row[-1] == counted]
        if rows:
            found = ", ".join(f"{k} of {items} items of {task}" for task, _, items, k, _ in rows)
            lines += [f"  In the training data: {found}; scored {counted}.", ""]
    for phase, origin in tables.imported_rows(report)[-1:]:
        lines += [f"  Up to {phase}: {origin}.", ""]
    if report["missing"]:
        lines += [f"  Not yet done: {', '.join(report['missing'])}.", ""]
    lanbot, name = program(), shlex.quote(known_as(run))
    commands = {"report": str(run.folder / "report.html"), "as text": str(run.folder / "report.md")}
    if run.last_model():
        commands |= {"talk to it": f"{lanbot} chat {name}", "give it work": f'{lanbot} agent {name} "{QUESTION}"'}
    commands |= {"make your own": f"{lanbot} init my-bot.toml"}
    return "\n".join(lines + [f"  {what:<13}  {command}" for what, command in commands.items()])


def _scores(report: dict[str, Any]) -> str:
    """Task, score after the last phase (and after the phase it is compared with), n, chance."""
    last, compared = trained(report)[-1], report["compared"]
    rows = []
    for task, by_phase in report["evals"].items():
        if last not in by_phase:
            continue
        before, now = by_phase.get(compared), by_phase[last]
        shown = (f"{before['score']:.3f} -> " if before else "") + f"{now['score']:.3f} {tables.error(now)}"
        rows.append((task, shown, items_asked(now), f"{tables.chance(by_phase):.2f}"))
    return table(rows, ("task", f"{f'{compared} -> ' if compared else ''}{last} ± error", "n", "chance"))


def known_as(run: Run) -> str:
    """The name by which commands find this run, or its path if it is in another folder."""
    return run.folder.name if run.options.runs.absolute() == run.folder.parent.absolute() else str(run.folder)


def program() -> str:
    """`lanbot`, or its path if this shell would not find it: `make demo` activates no environment."""
    beside, found = Path(sys.executable).parent / "lanbot", shutil.which("lanbot")
    if not beside.is_file() or (found and Path(found).resolve() == beside.resolve()):
        return "lanbot"
    here = Path.cwd()
    return shlex.quote(str(beside.relative_to(here) if beside.is_relative_to(here) else beside))
