"""A report's tables and its closing word, as text."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from lanbot.config.run import Run
from lanbot.core.console import duration, size, table
from lanbot.evals.footnotes import beneath
from lanbot.report.figures import trained
from lanbot.tasks.code_grading import FAULTS

Score = dict[str, Any]
QUESTION = "How many r are in strawberry?"


def evaluation_table(report: dict[str, Any], md: bool = False) -> str:
    """Every task after every phase; the parts of a task below it, for the last phase."""
    phases = trained(report)
    rows: list[tuple[str, ...]] = []
    for task, by_phase in report["evals"].items():
        rows.append((task, f"{chance(by_phase):.2f}", *(score(by_phase.get(phase)) for phase in phases)))
        for name, part in parts(by_phase, phases).items():
            indented = f"&nbsp;&nbsp;{name.replace('|', '/')}" if md else f"  {name}"
            rows.append((indented, f"{part['chance']:.2f}", *[""] * (len(phases) - 1), score(part)))
    of_text = [report["phases"][phase] for phase in phases]
    rows.append(("val bits per byte", bpb_chance(report), *(bpb(figures, 4) for figures in of_text)))
    shown = table(rows, ("task", "chance", *phases), markdown=md)
    if md:
        return shown
    notes = ["* a sample of the task's items"] if "*)" in shown else []
    last = [(task, by_phase[phases[-1]]) for task, by_phase in report["evals"].items() if phases[-1] in by_phase]
    notes += [note for task, after in last for note in beneath(task, after)]
    return "\n".join([shown, *notes, *bpb_says(report)])


def greedy(report: dict[str, Any]) -> str:
    most = report["settings"].get("max_tokens")
    return f"Answers are greedy{f', of at most {most:,} tokens' if most else ''}."


def bpb(figures: dict[str, Any], digits: int) -> str:
    """1.3669 ± 0.0123, or without an error where a run's evaluation knew none."""
    error = (figures.get("bpb") or {}).get("stderr")
    return fixed(figures["val_bpb"], digits) + ("" if error is None else f" ± {error:.{digits}f}")


def bpb_chance(report: dict[str, Any]) -> str:
    known = _bpb(report)
    return f"{known['chance']:.2f}" if known else ""


def bpb_says(report: dict[str, Any]) -> list[str]:
    """What bits per byte are of and what their chance is, in a sentence; [] if the run's evaluation did not say."""
    known = _bpb(report)
    if not known:
        return []
    documents = f"{known['documents']:,} document{'s' * (known['documents'] != 1)}"
    text = f"{known['n']:,} bytes of held-out text, {documents}, read {known['context']:,} tokens at a time"
    return [f"Bits per byte: of {text}; its chance is a uniform guess over the vocabulary; less is better."]


def _bpb(report: dict[str, Any]) -> dict[str, Any]:
    """Of the last phase; text and chance are the same after each."""
    phases = trained(report)
    return (report["phases"][phases[-1]].get("bpb") if phases else None) or {}


def programs_table(report: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: of each task whose answers are programs, after each phase, how many passed and how many failed
    for what reason, and the level of the sandbox. No rows if there is none."""
    ran = [
        (task, phase, one)
        for task, by_phase in report["evals"].items()
        for phase, one in by_phase.items()
        if "sandbox_level" in one
    ]
    reasons = [fault for fault in FAULTS if any(fault in one.get("failed", {}) for _, _, one in ran)]
    rows: list[tuple[str, ...]] = []
    for task, phase, one in ran:
        failed = one.get("failed", {})
        counts = [one["n"] - sum(failed.values()), *(failed.get(fault, 0) for fault in reasons)]
        rows.append((task, phase, asked(one), *(f"{count:,}" for count in counts), str(one["sandbox_level"])))
    return ("task", "after", "n", "passed", *reasons, "level"), rows


def programs_say(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """What the reasons and the level mean."""
    said = ["The programs ran in the sandbox: the lower its level, the more it stops."]
    if any(row[-1] == "4" for row in rows):
        said.append("Level 4 is none: there a program can do anything, passing tests included.")
    reasons = [f"{name} ({FAULTS[name]})" for name in header if name in FAULTS]
    return " ".join([*said, f"Why they failed: {'; '.join(reasons)}."] if reasons else said)


CONTAMINATION = ("task", "found in", "items", "contaminated", "scores")


def contamination_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """For each task with real rows: how many of its items are in the training data, and whether scores count them."""
    rows: list[tuple[str, ...]] = []
    for name, task in report["contamination"].get("tasks", {}).items():
        where = ", ".join(f"{source} ({hits['items']:,})" for source, hits in task["sources"].items())
        counted = "without them" if task["dropped"] else "with them" if task["contaminated"] else ""
        rows.append((name, where, f"{task['items']:,}", f"{task['contaminated']:,}", counted))
    return rows


def contamination_says(report: dict[str, Any]) -> str:
    """What the rows are, in words."""
    found = report["contamination"]
    looked = ", ".join(f"{source} ({count(words)})" for source, words in found["words"].items()) or "nothing"
    return (
        f"An item is contaminated if {found['n']} words of its question in a row are in the training data. All items "
        f"of a task were looked for, not only those asked. Looked through, in words: {looked}."
    )


def training_table(report: dict[str, Any], md: bool = False) -> str:
    header = ("phase", "steps", "tokens", "time", "tok/s", "util", "loss", "peak memory")
    return table([training_row(phase, report["phases"][phase]) for phase in trained(report)], header, markdown=md)


def training_row(phase: str, p: dict[str, Any]) -> tuple[str, ...]:
    """A phase's figures as text, in the order of the table's header; "" for what was not measured."""
    return (
        phase,
        f"{p.get('steps') or 0:,}",
        f"{p['tokens'] or 0:,}",
        duration(p["seconds"] or 0),
        f"{p.get('tokens_per_second') or 0:,.0f}",
        fixed(p.get("utilisation"), 2),
        fixed(p["final_loss"], 3),
        "" if p["peak_memory_bytes"] is None else size(p["peak_memory_bytes"]),
    )


def closing(run: Run, report: dict[str, Any]) -> str:
    """What the terminal says at a run's end: what was built, how good it is, where the report lies, what to type."""
    by = f" by {report['creator']}" if report["creator"] else ""
    phases = trained(report)
    lines = [_one_line(report["identity"] + by), "  " + built(report), ""]
    if report["evals"]:
        table_lines = _standing(report["evals"], phases).split("\n")
        lines += ["  " + line for line in table_lines] + [""]
    for counted in ("with them", "without them"):
        rows = [row for row in contamination_rows(report) if row[-1] == counted]
        if rows:
            said = ", ".join(f"{k} of {items} items of {task}" for task, _, items, k, _ in rows)
            lines += [f"  In the training data: {said}; scored {counted}.", ""]
    missing = [phase for phase in run.recipe.phase_names if phase not in report["phases"]]
    if missing:
        lines += [f"  Not yet done: {', '.join(missing)}.", ""]
    lanbot, name = program(), shlex.quote(known_as(run))
    rows = [("report", str(run.folder / "report.html")), ("as text", str(run.folder / "report.md"))]
    if phases:
        rows += [
            ("talk to it", f"{lanbot} chat {name}"),
            ("give it work", f'{lanbot} agent {name} "{QUESTION}"'),
        ]
    rows.append(("make your own", f"{lanbot} init my-bot.toml"))
    return "\n".join(lines + [f"  {what:<13}  {command}" for what, command in rows])


def built(report: dict[str, Any]) -> str:
    """Size, tokens, time, as far as they are known."""
    facts = []
    if report["parameters"]:
        facts.append(f"{count(report['parameters'])} parameters")
    if report["seconds"]:
        facts.append(f"{count(report['tokens'])} tokens in {duration(report['seconds'])} of training")
    if report["wall_seconds"]:
        facts.append(f"{duration(report['wall_seconds'])} with evaluation")
    return ", ".join(facts) or "nothing trained yet"


def _one_line(text: str) -> str:
    """Without what a terminal would obey: line breaks, escapes."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _standing(evals: dict[str, dict[str, Score]], phases: list[str]) -> str:
    """task | score of the last phase, after sft's where rl came after it | n | chance."""
    last = phases[-1]
    compared = last == "rl" and "sft" in phases
    rows = []
    for task, by_phase in evals.items():
        now, before = by_phase.get(last), by_phase.get("sft")
        if now is None:
            continue
        shown = f"{now['score']:.3f} ± {now['stderr']:.3f}"
        if compared:
            shown = (f"{before['score']:.3f} -> " if before else "") + shown
        rows.append((task, shown, asked(now), f"{chance(by_phase):.2f}"))
    return table(rows, ("task", f"{'sft -> rl' if compared else last} ± error", "n", "chance"))


def known_as(run: Run) -> str:
    """What the commands take for this run: its name, where it lies among the runs here."""
    return run.folder.name if run.options.runs.absolute() == run.folder.parent.absolute() else str(run.folder)


def program() -> str:
    """`lanbot`, or where it lies if this shell would not find it: `make demo` activates no environment."""
    beside, found = Path(sys.executable).parent / "lanbot", shutil.which("lanbot")
    if not beside.is_file() or (found and Path(found).resolve() == beside.resolve()):
        return "lanbot"
    here = Path.cwd()
    return shlex.quote(str(beside.relative_to(here) if beside.is_relative_to(here) else beside))


def parts(by_phase: dict[str, Score], phases: list[str]) -> dict[str, Score]:
    """The parts of a task's score after the last phase."""
    return (by_phase.get(phases[-1]) or {}).get("parts") or {}


def chance(by_phase: dict[str, Score]) -> float:
    """Of the last phase: after base fewer items may have been asked."""
    return float(list(by_phase.values())[-1]["chance"])


def score(s: Score | None) -> str:
    """0.600 ± 0.049 (100), or (100*) for a sample of the task's items."""
    return "" if s is None else f"{s['score']:.3f} ± {s['stderr']:.3f} ({s['n']:,}{'*' * ('items' in s)})"


def asked(s: Score) -> str:
    """n; of how many, if it is a sample."""
    return f"{s['n']:,} of {s['items']:,}" if "items" in s else f"{s['n']:,}"


def count(number: float) -> str:
    """Three digits: 950, 448K, 2.36M, 1.1B."""
    rounded = float(f"{number:.3g}")
    for factor, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if rounded >= factor:
            return f"{rounded / factor:g}{unit}"
    return f"{rounded:g}"


def fixed(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
