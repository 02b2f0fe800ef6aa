"""What a report says, read from a run's folder. No torch here: a report is written in a moment."""

import tomllib
from typing import Any

from lanbot.config import recipe as recipes
from lanbot.config.run import Run
from lanbot.models.config import ModelConfig
from lanbot.report.curves import curves

FIGURES = ("seconds", "tokens", "final_loss", "val_bpb", "peak_memory_bytes")
"""What every phase has in report.json; null where it was not measured or makes no sense."""


def collect(run: Run) -> dict[str, Any]:
    """All figures of a run.

    evals[task][phase], phases[phase] (val_bpb in it with all that is known of it as bpb), pass[before | after][k],
    tokenizer, what_changed (the same prompts after each phase), contamination (of each task with real rows: how many
    items are in the training data and where, and whether the last score is without them), transcripts (of the agent,
    after the last phase), curves[phase], settings (of the evaluations), recipe.
    """
    results = {phase: run.read(phase, "evals.json") for phase in run.recipe.phase_names if run.checkpoint(phase)}
    evals: dict[str, dict[str, Any]] = {}
    answers: dict[str, dict[str, str]] = {}
    for phase, result in results.items():
        for task, score in result["tasks"].items():
            evals.setdefault(task, {})[phase] = score
        for sample in result["samples"]:
            answers.setdefault(sample["prompt"], {})[phase] = sample["answer"]
    phases = _tokenizer(run) | {phase: _figures(result) for phase, result in results.items()}
    trained = [phases[phase] for phase in results]
    last: dict[str, Any] = next(reversed(results.values()), {})
    return {
        "name": run.recipe.name,
        "identity": run.recipe.identity.name,
        "creator": run.recipe.identity.creator,
        "personality": run.recipe.identity.personality,
        "parameters": parameters(run, last),
        "tokens": sum(phase["tokens"] or 0 for phase in trained),
        "seconds": round(sum(phase["seconds"] or 0 for phase in trained), 2),
        "wall_seconds": _wall(phases, list(results)),
        "tokenizer": run.read("tokenizer", "compression.json") or [],
        "phases": phases,
        "evals": evals,
        "contamination": _contamination(run, evals),
        "pass": results.get("rl", {}).get("pass", {}),
        "what_changed": [{"prompt": prompt, "answers": by_phase} for prompt, by_phase in answers.items()],
        "transcripts": last.get("transcripts", []),
        "curves": curves(run, {phase: phases[phase] for phase in results}),
        "settings": last.get("settings", {}),
        "recipe": tomllib.loads(recipes.dump(run.recipe)),
    }


def trained(report: dict[str, Any]) -> list[str]:
    """The phases that trained and were evaluated: all that are done but the tokenizer."""
    return [phase for phase in report["phases"] if phase != "tokenizer"]


def parameters(run: Run, result: dict[str, Any]) -> int | None:
    """Of the model that lies in the run, as its config.json says; None where there is none."""
    phase = run.last_model()
    path = run.phase(phase or "") / result.get("checkpoint", "") / "config.json"
    return ModelConfig.from_hf(path).params() if result and path.is_file() else None


def _figures(result: dict[str, Any]) -> dict[str, Any]:
    """A trained phase's figures, from its evals.json."""
    figures = {"val_bpb": result["val_bpb"], "checkpoint": result["checkpoint"], **result["training"]}
    more = {name: result[name] for name in ("bpb", "wall_seconds") if name in result}
    return dict.fromkeys(FIGURES) | figures | more


def _contamination(run: Run, evals: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """n, words and tasks as contamination.json has them, a task by the name of its score; {} if nothing was checked."""
    found = run.read("", "contamination.json")
    tasks = {}
    for spec, task in found.get("tasks", {}).items():
        name = spec.partition(":")[0]
        if name in evals:
            last = next(reversed(evals[name].values()))
            tasks[name] = task | {"contaminated": len(task["contaminated"]), "dropped": bool(last.get("left_out"))}
    return {"n": found["plan"]["n"], "words": found["words"], "tasks": tasks} if tasks else {}


def _tokenizer(run: Run) -> dict[str, dict[str, Any]]:
    """The tokenizer's figures, if it is done: it has no loss, and its evals.json, where there is one, only times."""
    if not run.done("tokenizer"):
        return {}
    rows, times = run.read("tokenizer", "compression.json"), run.read("tokenizer", "evals.json")
    figures: dict[str, Any] = dict.fromkeys(FIGURES)
    figures |= {"vocab_size": run.recipe.tokenizer.vocab_size}
    if rows:
        figures |= {"bytes_per_token": rows[0]["bytes_per_token"]}
    if "wall_seconds" in times:
        figures |= {"seconds": times["wall_seconds"], "wall_seconds": times["wall_seconds"]}
    return {"tokenizer": figures}


def _wall(phases: dict[str, Any], results: list[str]) -> float | None:
    """Training and evaluation of all phases by the clock; None where one of them was not timed."""
    if not results or any("wall_seconds" not in phases[phase] for phase in results):
        return None
    return round(sum(phase.get("wall_seconds", 0) for phase in phases.values()), 2)
