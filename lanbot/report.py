"""The report of a run: report.json, and report.md for people."""

import json
from typing import Any

from lanbot.console import duration, size, table
from lanbot.recipe import PHASES
from lanbot.run import Run, write_atomic


def collect(run: Run) -> dict[str, Any]:
    """All figures of a run: evals[task][phase], phases[phase], pass, tokenizer, what_changed."""
    results = {phase: run.read(phase, "evals.json") for phase in PHASES[1:] if run.done(phase)}
    evals: dict[str, dict[str, Any]] = {}
    for phase, result in results.items():
        for task, score in result["tasks"].items():
            evals.setdefault(task, {})[phase] = score
    phases = {
        phase: {**result["training"], "val_bpb": result["val_bpb"], "checkpoint": result["checkpoint"]}
        for phase, result in results.items()
    }
    answers: dict[str, dict[str, str]] = {}
    for phase, result in results.items():
        for sample in result["samples"]:
            answers.setdefault(sample["prompt"], {})[phase] = sample["answer"]
    changed = [{"prompt": prompt, "answers": by_phase} for prompt, by_phase in answers.items()]
    return {
        "name": run.recipe.name,
        "identity": run.recipe.identity.name,
        "tokenizer": run.read("tokenizer", "compression.json") or [],
        "phases": phases,
        "evals": evals,
        "pass": results.get("rl", {}).get("pass", {}),
        "what_changed": changed,
        "settings": results[next(iter(results))]["settings"] if results else {},
    }


def write(run: Run) -> dict[str, Any]:
    """Writes report.json and report.md; returns what is in the first."""
    report = collect(run)
    write_atomic(run.folder / "report.json", json.dumps(report, indent=1) + "\n")
    write_atomic(run.folder / "report.md", markdown(report))
    return report


def markdown(report: dict[str, Any]) -> str:
    phases = list(report["phases"])
    sections = [f"# {report['name']}", f"A chat model named {report['identity']}, trained by LanBot."]
    if phases:
        limit = report["settings"].get("limit")
        sections += ["## Evaluations", evaluation_table(report, md=True)]
        sections.append(
            f"Score ± standard error (n items). Items are held out; tasks with more than {limit:,} are sampled by a "
            "fixed seed. Answers are greedy."
        )
    if report["pass"]:
        rows = [
            (k, *(_score(report["pass"].get(when, {}).get(k)) for when in ("before", "after"))) for k in _ks(report)
        ]
        sections += ["## RL", table(rows, ("metric", "before", "after"), markdown=True), "Sampled at temperature 1."]
    if phases:
        sections += ["## Training", training_table(report, md=True)]
    if report["tokenizer"]:
        rows = [(row["text"], f"{row['bytes']:,}", f"{row['bytes_per_token']:.2f}") for row in report["tokenizer"]]
        sections += ["## Tokenizer", table(rows, ("text", "bytes", "bytes/token"), markdown=True)]
    if report["what_changed"]:
        sections += ["## What changed", "The same prompts after each phase. `[2+2 → 4]` is a call and its output."]
        for entry in report["what_changed"]:
            answers = [(phase, _cell(answer)) for phase, answer in entry["answers"].items()]
            lines = "\n".join(f"> {line}" for line in entry["prompt"].split("\n"))
            sections += [lines, table(answers, ("phase", "answer"), markdown=True, left=2)]
    return "\n\n".join(sections) + "\n"


def evaluation_table(report: dict[str, Any], md: bool = False) -> str:
    phases = list(report["phases"])
    rows = []
    for task, by_phase in report["evals"].items():
        chance = next(iter(by_phase.values()))["chance"]
        rows.append((task, f"{chance:.2f}", *(_score(by_phase.get(phase)) for phase in phases)))
    rows.append(("val bits per byte", "", *(f"{report['phases'][phase]['val_bpb']:.4f}" for phase in phases)))
    return table(rows, ("task", "chance", *phases), markdown=md)


def training_table(report: dict[str, Any], md: bool = False) -> str:
    rows = []
    for phase, p in report["phases"].items():
        used = p.get("utilisation")
        rows.append(
            (
                phase,
                f"{p.get('steps', 0):,}",
                f"{p.get('tokens', 0):,}",
                duration(p.get("seconds", 0)),
                f"{p.get('tokens_per_second', 0):,.0f}",
                "" if used is None else f"{used:.2f}",
                "" if p.get("final_loss") is None else f"{p['final_loss']:.3f}",
                size(p.get("peak_memory_bytes", 0)),
            )
        )
    header = ("phase", "steps", "tokens", "time", "tok/s", "util", "loss", "peak memory")
    return table(rows, header, markdown=md)


def _ks(report: dict[str, Any]) -> list[str]:
    return list(next(iter(report["pass"].values())))


def _score(score: dict[str, Any] | None) -> str:
    return "" if score is None else f"{score['score']:.3f} ± {score['stderr']:.3f} ({score['n']:,})"


def _cell(text: str) -> str:
    """A text in one cell of a markdown table."""
    short = text if len(text) <= 200 else text[:200] + " ..."
    return "`" + short.replace("`", "'").replace("|", "\\|").replace("\n", " ⏎ ") + "`" if short else "(nothing)"
