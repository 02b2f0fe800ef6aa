"""The report of a run: report.json for programs, report.md and report.html for people, a closing word for the shell."""

import json
import re
from typing import Any

from lanbot.config.run import Run
from lanbot.core.console import visible
from lanbot.core.files import write_atomic
from lanbot.report.figures import collect, trained
from lanbot.report.markdown import markdown
from lanbot.report.page import page
from lanbot.report.tables import closing, evaluation_table, training_table

__all__ = ["closing", "collect", "evaluation_table", "markdown", "page", "trained", "training_table", "write"]


def write(run: Run) -> dict[str, Any]:
    """Writes report.json, report.md and report.html; returns what is in the first."""
    report = collect(run)
    write_atomic(run.folder / "report.json", _json(report))
    write_atomic(run.folder / "report.md", visible(markdown(report)))
    write_atomic(run.folder / "report.html", page(report))
    return report


def _json(report: dict[str, Any]) -> str:
    """Indented, but a curve's point on one line. (A line break between brackets is never inside a JSON string.)"""
    return re.sub(r"\[\n +([^\s,]+),\n +([^\s,]+)\n +\]", r"[\1, \2]", json.dumps(report, indent=1)) + "\n"
