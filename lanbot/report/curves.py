"""The curves of a run: metrics.jsonl, thinned so that a page can carry and an eye can follow them."""

import math
from collections.abc import Sequence
from typing import Any

from lanbot.config.run import Run, read_metrics

POINTS = 200
"""About how many points a curve keeps."""
SERIES = {"base": ("loss", "bpb"), "mid": ("loss", "bpb"), "sft": ("loss", "bpb"), "rl": ("reward",)}
"""RL's loss is an estimate whose height says nothing; its reward does."""

Point = list[float]
"""[seconds of training in this phase, value]"""


def curves(run: Run, phases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each of the phases that are done: its series, `mean_of` (steps that a point is the mean of), val_bpb.

    val_bpb is measured on the same held-out text in all phases, after each of them at least; it is never averaged.
    """
    found = {}
    for phase, figures in phases.items():
        lines = read_metrics(run.phase(phase) / "metrics.jsonl")
        steps = [line for line in lines if "val_bpb" not in line]
        if not steps:
            continue
        every = math.ceil(len(steps) / POINTS)
        curve: dict[str, Any] = {"mean_of": every}
        for name in SERIES.get(phase, ("loss", "bpb")):
            curve[name] = thin([[line["seconds"], line[name]] for line in steps if name in line], every)
        curve["val_bpb"] = [[line["seconds"], line["val_bpb"]] for line in lines if "val_bpb" in line]
        if not curve["val_bpb"] and figures["val_bpb"] is not None:
            curve["val_bpb"] = [[steps[-1]["seconds"], figures["val_bpb"]]]
        found[phase] = curve
    return found


def thin(points: Sequence[Point], every: int) -> list[Point]:
    """The mean time and value of each `every` points in a row: the trend stays, the noise does not hide it."""
    means = []
    for start in range(0, len(points), every):
        group = points[start : start + every]
        means.append([round(sum(p[i] for p in group) / len(group), 6) for i in (0, 1)])
    return means
