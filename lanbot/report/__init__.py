"""The report of a run: report.json for programs, report.md and report.html for people, a summary for the terminal."""

import json
import re
from typing import Any

from lanbot.config.run import Run
from lanbot.core.files import write_atomic
from lanbot.report.collect import collect, trained
from lanbot.report.page import markdown, page
from lanbot.report.tables import evaluation_table, planned_table, training_table
from lanbot.report.terminal import closing

__all__ = [
    "closing",
    "collect",
    "evaluation_table",
    "markdown",
    "page",
    "planned_table",
    "trained",
    "training_table",
    "write",
]


def write(run: Run) -> dict[str, Any]:
    """Writes report.json, report.md and report.html; returns the content of report.json."""
    report = collect(run)
    write_atomic(run.folder / "report.json", _json(report))
    write_atomic(run.folder / "report.md", markdown(report))
    write_atomic(run.folder / "report.html", page(report))
    return report


def _json(report: dict[str, Any]) -> str:
    """Indented, with each point of a curve on one line. (JSON strings never contain a line break.)"""
    return re.sub(r"\[\n +([^\s,]+),\n +([^\s,]+)\n +\]", r"[\1, \2]", json.dumps(report, indent=1)) + "\n"
