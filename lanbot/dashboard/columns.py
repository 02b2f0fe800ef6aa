"""The lines of a metrics.jsonl as columns of numbers."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

CLOCKS = ("step", "seconds", "tokens")
"""What a course is drawn against."""
VALUES = (
    *("loss", "bpb", "grad_norm", "lr_scale", "tokens_per_second", "utilisation", "wait_seconds"),
    *("reward", "correct", "entropy", "kl", "clipped", "dropped_groups", "mean_tokens", "calls", "logprob_gap"),
)
"""What is drawn of each step."""
MEASURED = ("val_bpb", "core")
"""What is measured between steps: a line with one of these is no step."""
NAMES = (*CLOCKS, *VALUES, *MEASURED, "skipped", "spike")

Columns = dict[str, np.ndarray]

_SCHEMA = pa.schema([(name, pa.bool_() if name == "spike" else pa.float64()) for name in NAMES])


def parse(data: bytes) -> tuple[Columns, int]:
    """The columns of whole lines, all of one length, NaN where a line has no such number, and how many lines were
    left out: those that are no JSON object with a step."""
    try:
        columns, bad = _by_arrow(data) if _objects(data) else None, 0
    except pa.ArrowInvalid:  # says nothing of the other lines
        columns = None
    if columns is None:
        columns, bad = _one_by_one(data.split(b"\n"))
    steps = columns["step"]
    known = np.isfinite(steps)
    if known.all():
        return columns, bad
    return {name: column[known] for name, column in columns.items()}, bad + int((~known).sum())


def _objects(data: bytes) -> bool:
    """Whether each line is one flat object. Arrow's reader crashes the process where a line is `null`."""
    lines = data.count(b"\n")
    flat = data.count(b"{") == data.count(b"}") == lines and data.count(b"}\n{") == lines - 1
    return flat and data.startswith(b"{") and data.endswith(b"}\n")


def _by_arrow(data: bytes) -> Columns:
    """Raises ArrowInvalid. Columns without any number are left out, but for the step."""
    table = pyarrow.json.read_json(
        pa.BufferReader(data),
        read_options=pyarrow.json.ReadOptions(block_size=max(1 << 20, data.find(b"\n") + 1)),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="ignore"),
    )
    columns = {}
    for name in NAMES:
        column = table[name]
        if column.null_count < len(column) or name == "step":
            columns[name] = np.concatenate([_values(chunk) for chunk in column.chunks])
    return columns


def _values(chunk: Any) -> np.ndarray:
    """From its buffers: Arrow's own way imports pandas, for a third of a second."""
    start, end = chunk.offset, chunk.offset + len(chunk)
    there, held = chunk.buffers()
    if pa.types.is_boolean(chunk.type):
        values = _bits(held, start, end).astype(float)
    else:
        values = np.frombuffer(held, np.float64)[start:end]
    return values if there is None else np.where(_bits(there, start, end), values, np.nan)


def _bits(buffer: Any, start: int, end: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little")[start:end]


def _one_by_one(lines: Sequence[bytes]) -> tuple[Columns, int]:
    rows: list[dict[str, Any]] = []
    bad = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            bad += 1
    return {name: np.array([_number(row.get(name)) for row in rows], float) for name in NAMES}, bad


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan
