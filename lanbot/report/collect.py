"""Reads everything a report shows from a run's folder. Does not import torch, so that reports are written quickly."""

import json
import math
import tomllib
from collections.abc import Sequence
from typing import Any

from lanbot.config import recipe_file
from lanbot.config.recipe import task_label
from lanbot.config.run import Run, read_metrics
from lanbot.models.config import ModelConfig

FIGURES = ("seconds", "tokens", "final_loss", "val_bpb", "peak_memory_bytes")
"""The keys that every phase has in report.json; null where not measured."""
RL_FIGURES = (
    *("reward", "reward_error", "correct", "kl", "clipped", "dropped_groups", "calls", "mean_tokens"),
    *("entropy", "logprob_gap"),
    *("rollout_tokens_per_second", "update_tokens_per_second"),
)
"""What report.json has of the steps of a phase with rewards; and what begins with `term_`, each term's share of it."""
RL_ROWS = 10
"""Of such a phase; each is the mean of a tenth of its steps."""
POINTS = 200  # the approximate number of points of a curve

Point = list[float]  # [seconds of training in this phase, value]


def collect(run: Run) -> dict[str, Any]:
    """All figures of a run, as report.json has them.

    evals[task][phase] is a score, pass[before | after][k] too. what_changed holds the same prompts after each phase,
    transcripts the agent's tasks after the last. rl has the course of phases with
    rewards. contamination counts, for each task with real rows, the items found
    in the training data. compared: the phase whose scores are shown beside the last phase's, if any. imported, of a
    phase, says where it is from: its figures are null, and totals, curves and scores leave it out.
    """
    order = run.recipe.phase_names
    done = [phase for phase in order if run.done(phase)]
    results = evaluated(run)
    evals = scores(results)
    phases = {phase: _figures(results[phase]) if phase in results else _untrained(run, phase) for phase in done}
    of_trained = [phases[phase] for phase in results]
    last: dict[str, Any] = next(reversed(results.values()), {})
    return {
        "name": run.recipe.name,
        "identity": run.recipe.identity.name,
        "creator": run.recipe.identity.creator,
        "personality": run.recipe.identity.personality,
        "parameters": parameters(run),
        "tokens": sum(figures["tokens"] or 0 for figures in of_trained),
        "seconds": round(sum(figures["seconds"] or 0 for figures in of_trained), 2),
        "wall_seconds": _wall_seconds(phases, of_trained),
        "missing": [phase for phase in order if phase not in phases],
        "tokenizer": run.read("tokenizer", "compression.json") or [],
        "phases": phases,
        "planned": _planned(run),
        "evals": evals,
        "compared": list(results)[-2] if last.get("pass") and len(results) > 1 else None,
        "contamination": _contamination(run, evals),
        "pass": last.get("pass", {}),
        "rl": {phase: rows for phase in results if (rows := rl_steps(run, phase))},
        "what_changed": what_changed(results),
        "transcripts": last.get("transcripts", []),
        "curves": curves(run, {phase: phases[phase] for phase in results}),
        "settings": last.get("settings", {}),
        "recipe": tomllib.loads(recipe_file.dump(run.recipe)),
    }


def evaluated(run: Run) -> dict[str, dict[str, Any]]:
    """evals.json of the phases that trained a model and were evaluated. Raises UserError if one is damaged."""
    done = [phase for phase in run.recipe.phase_names if run.done(phase)]
    return {phase: result for phase in done if "tasks" in (result := run.read(phase, "evals.json"))}


def scores(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """[task][phase] of `evaluated`."""
    evals: dict[str, dict[str, Any]] = {}
    for phase, result in results.items():
        for task, score in result["tasks"].items():
            evals.setdefault(task, {})[phase] = score
    return evals


def what_changed(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The prompts that were answered after every phase of `evaluated`, each with its answers by phase."""
    changed: dict[str, dict[str, Any]] = {}
    for phase, result in results.items():
        for sample in result["samples"]:
            entry = changed.setdefault(json.dumps(sample["prompt"]), {"prompt": sample["prompt"], "answers": {}})
            entry["answers"][phase] = sample["answer"]
    return list(changed.values())


def _planned(run: Run) -> dict[str, Any]:
    """What plan.json foresaw: the GPUs, their price an hour, and of each phase seconds and dollars, each low, expected
    and high; {} if no plan was saved in the run."""
    plan = run.read("", "plan.json")
    if not plan:
        return {}
    phases = {phase["name"]: {key: phase[key] for key in ("seconds", "dollars")} for phase in plan["phases"]}
    return {"gpus": plan["gpus"], "price": plan["price"], "phases": phases}


def trained(report: dict[str, Any]) -> list[str]:
    """The phases that trained a model and were evaluated."""
    return [phase for phase, figures in report["phases"].items() if "checkpoint" in figures]


def parameters(run: Run) -> int | None:
    """The size of the run's latest model, from its config.json; None if there is none."""
    phase = run.last_model()
    path = run.phase(phase) / run.checkpoint(phase) / "config.json" if phase else None
    return ModelConfig.from_hf(path).params() if path and path.is_file() else None


def _figures(result: dict[str, Any]) -> dict[str, Any]:
    """The figures of a trained phase, from its evals.json."""
    figures = {"val_bpb": result["val_bpb"], "checkpoint": result["checkpoint"], **result["training"]}
    more = {
        name: result[name]
        for name in ("bpb", "mixture_bpb", "mixture_bpb_all", "wall_seconds", "description")
        if name in result
    }
    return dict.fromkeys(FIGURES) | figures | more


def _untrained(run: Run, phase: str) -> dict[str, Any]:
    """The figures of a phase that trained no model here: the tokenizer's, or where an imported phase is from."""
    if origin := run.read(phase, "imported.json"):
        return dict.fromkeys(FIGURES) | {"imported": origin}
    rows, times = run.read(phase, "compression.json"), run.read(phase, "evals.json")
    figures: dict[str, Any] = dict.fromkeys(FIGURES)
    if rows:
        figures |= {"vocab_size": run.recipe.tokenizer.vocab_size, "bytes_per_token": rows[0]["bytes_per_token"]}
    if "wall_seconds" in times:
        figures |= {"seconds": times["wall_seconds"], "wall_seconds": times["wall_seconds"]}
    return figures


def _contamination(run: Run, evals: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """contamination.json by the names of scores; {} if no evaluated task was checked."""
    found = run.read("", "contamination.json")
    tasks = {}
    for spec, task in found.get("tasks", {}).items():
        name = task_label(spec)
        if name in evals:
            last = next(reversed(evals[name].values()))
            tasks[name] = task | {"contaminated": len(task["contaminated"]), "dropped": bool(last.get("left_out"))}
    return {"n": found["plan"]["n"], "words": found["words"], "tasks": tasks} if tasks else {}


def _wall_seconds(phases: dict[str, Any], of_trained: list[dict[str, Any]]) -> float | None:
    """Elapsed time of training and evaluation in all phases; None if a phase has none recorded."""
    if not of_trained or any("wall_seconds" not in figures for figures in of_trained):
        return None
    return round(sum(figures.get("wall_seconds", 0) for figures in phases.values()), 2)


def curves(run: Run, phases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The curves of each phase: loss and bpb, or reward alone if it has one (the loss of a policy gradient has no
    meaningful scale), and val_bpb, which is never averaged. mean_of: the number of steps that a point averages.
    """
    found = {}
    for phase, figures in phases.items():
        lines = read_metrics(run.phase(phase) / "metrics.jsonl")
        steps = [line for line in lines if "val_bpb" not in line]
        if not steps:
            continue
        every = math.ceil(len(steps) / POINTS)
        curve: dict[str, Any] = {"mean_of": every}
        for name in ("reward",) if "reward" in steps[0] else ("loss", "bpb"):
            value = "correct" if "correct" in steps[0] and name == "reward" else name  # without the reward's terms
            curve[name] = thin([[line["seconds"], line[value]] for line in steps if value in line], every)
        own = "mixture_bpb" in figures  # then the phase validates on its own rows, not on the text
        curve["val_bpb"] = [[line["seconds"], line["val_bpb"]] for line in lines if "val_bpb" in line and not own]
        if not curve["val_bpb"]:
            curve["val_bpb"] = [[steps[-1]["seconds"], figures["val_bpb"]]]
        found[phase] = curve
    return found


def rl_steps(run: Run, phase: str) -> list[dict[str, Any]]:
    """The course of a phase with rewards: the means of RL_FIGURES over each tenth of its steps; [] for other phases."""
    lines = [line for line in read_metrics(run.phase(phase) / "metrics.jsonl") if "reward" in line]
    every = max(1, math.ceil(len(lines) / RL_ROWS))
    rows = []
    for start in range(0, len(lines), every):
        some = lines[start : start + every]
        row: dict[str, Any] = {"first": some[0]["step"], "last": some[-1]["step"]}
        for name in (
            *RL_FIGURES,
            *(name for name in some[0] if name.startswith(("term_", "correct", "kl", "clipped"))),
        ):
            values = [line[name] for line in some if name in line]
            row |= {name: round(sum(values) / len(values), 6)} if values else {}
        rows.append(row)
    return rows


def thin(points: Sequence[Point], every: int) -> list[Point]:
    """The mean time and value of each `every` consecutive points."""
    means = []
    for start in range(0, len(points), every):
        group = points[start : start + every]
        means.append([round(sum(p[i] for p in group) / len(group), 6) for i in (0, 1)])
    return means
