"""How a run stands: its phase, its last figures, what it takes, what is left, what it has cost."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lanbot.cloud import records
from lanbot.config.run import FAILED, Run
from lanbot.core.errors import UserError
from lanbot.dashboard import process

TAIL = 1 << 16
"""Bytes at the end of a metrics.jsonl that tell the present loss and speed."""
MEAN = 10
"""Steps of which a loss is the mean."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Tail:
    """What the last lines of a metrics.jsonl say. None: not known."""

    step: int | None = None
    steps: int | None = None
    """Of the whole phase."""
    figures: Row | None = None
    seconds: float = 0.0
    left: float | None = None
    """Seconds to the end of the phase."""
    progress: float = 0.0


def read_tail(path: Path) -> Tail:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            lines = file.read().split(b"\n")[1 if size > TAIL else 0 :]
    except OSError:
        return Tail()
    rows = [row for row in map(_row, lines) if row]
    steps = [row for row in rows if "progress" in row]
    if not steps:
        return Tail()
    first, last = steps[0], steps[-1]
    figures = {name: _mean(steps[-MEAN:], name) for name in ("loss", "bpb", "reward", "utilisation")}
    figures["val_bpb"] = next((row["val_bpb"] for row in reversed(rows) if _number(row, "val_bpb") is not None), None)
    seconds, progress = _number(last, "seconds") or 0.0, _number(last, "progress") or 0.0
    took, went = seconds - (_number(first, "seconds") or 0.0), progress - (_number(first, "progress") or 0.0)
    if len(steps) == 1:
        took, went = seconds, progress
    tokens = (_number(last, "tokens") or 0.0) - (_number(first, "tokens") or 0.0)
    figures["tokens_per_second"] = tokens / took if took > 0 and tokens > 0 else _number(last, "tokens_per_second")
    step = int(_number(last, "step") or 0)
    return Tail(
        step,
        round(step / progress) if progress > 0 else None,
        figures,
        seconds,
        max(0.0, 1 - progress) * took / went if went > 0 and took > 0 else None,
        progress,
    )


def state(run: Run, tails: Mapping[str, Tail], held: Mapping[int, int] | None, read: Callable[[Path], Row]) -> Row:
    """A run's row of the table. tails: of its phases that have metrics. held: process.holders(). read: read_json.

    status: running, finished, stopped or failed, or waiting (nothing was done yet).
    """
    names = run.recipe.phase_names
    done = [name for name in names if run.done(name)]
    open_phases = [name for name in names if name not in done and run.begun(name)]
    pid = process.trainer(run.folder, held)
    failure = read(run.folder / FAILED)
    record, money = _record(run), None
    away = bool(record and record.live)  # a rented machine trains it
    if pid or (away and len(done) < len(names)):
        status = "running"
    elif len(done) == len(names):
        status = "finished"
    else:
        status = "failed" if failure else "stopped" if done or open_phases else "waiting"
    phase = open_phases[-1] if open_phases else done[-1] if done else None
    tail = tails.get(phase or "", Tail())
    left = tail.left if status == "running" and phase in open_phases else None
    results = {name: read(run.phase(name) / "evals.json") for name in done}
    peaks = [of.get("training", {}).get("peak_memory_bytes") for of in results.values()]
    if record:
        money = {"spent": record.before + record.spent_by_now, "cap": record.before + record.budget, "of": "cloud"}
    else:
        took = {name: of.get("wall_seconds") for name, of in results.items()}
        money = _planned(read(run.folder / "plan.json"), took, tails)
    return {
        "status": status,
        "problem": f"{failure.get('problem', '')}" if status == "failed" else "",
        "phase": phase,
        "evaluating": status == "running" and phase in open_phases and tail.progress >= 1,
        "step": tail.step,
        "steps": tail.steps,
        **dict.fromkeys(("loss", "bpb", "val_bpb", "reward", "utilisation", "tokens_per_second")),
        **(tail.figures or {}),
        "seconds": sum(one.seconds for one in tails.values()),
        "left": left,
        "memory": process.memory(pid) if pid else None,
        "peak": max((peak for peak in peaks if peak), default=None),
        "money": money,
        "phases": {name: "done" if name in done else "begun" if name in open_phases else "" for name in names},
    }


def _record(run: Run) -> records.Record | None:
    try:
        return records.load(run.folder.parent / ".cloud", run.folder.name)
    except UserError:
        return None


def _planned(plan: Row, took: Mapping[str, Any], tails: Mapping[str, Tail]) -> Row | None:
    """What a run without a launch has cost at the price of its saved plan, and the most that the plan foresaw."""
    try:
        seconds = sum(took.get(name) or tail.seconds for name, tail in tails.items())
        cap = sum(phase["dollars"]["high"] for phase in plan["phases"])
        return {"spent": seconds / 3_600 * plan["price"], "cap": cap, "of": "plan"}
    except (KeyError, TypeError):
        return None


def read_json(path: Path) -> Row:
    """An object; {} if it is not there or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _row(line: bytes) -> Row | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _number(row: Row, name: str) -> float | None:
    value = row.get(name)
    known = isinstance(value, int | float) and abs(value) < float("inf")
    return value if known and not isinstance(value, bool) else None


def _mean(rows: list[Row], name: str) -> float | None:
    values = [value for row in rows if (value := _number(row, name)) is not None]
    return sum(values) / len(values) if values else None
