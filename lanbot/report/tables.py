"""The tables of a report: rows for its templates, and as text."""

from typing import Any

from lanbot.core.console import between, dollars, duration, hours, size, table, visible
from lanbot.evals.score import footnotes, items_asked
from lanbot.report.collect import trained
from lanbot.tasks.code_grading import FAULTS

Score = dict[str, Any]
Row = tuple[str, ...]

CONTAMINATION = ("task", "found in", "items", "contaminated", "scores")
PLANNED = ("phase", "planned", "range", "took", "planned", "cost")
TRAINING = ("phase", "steps", "tokens", "training", "in all", "tok/s", "util", "loss", "peak memory")


def evaluation_table(report: dict[str, Any], md: bool = False) -> str:
    """Every task after every phase; below a task its parts, for the last phase."""
    phases = trained(report)
    rows: list[Row] = []
    for task, by_phase in report["evals"].items():
        rows.append((task, f"{chance(by_phase):.2f}", *(score(by_phase.get(phase)) for phase in phases)))
        for name, part in parts(by_phase, phases).items():
            indented = f"&nbsp;&nbsp;{name.replace('|', '/')}" if md else f"  {name}"
            rows.append((indented, f"{part['chance']:.2f}", *[""] * (len(phases) - 1), score(part)))
    of_text = [report["phases"][phase] for phase in phases]
    rows.append(("val bits per byte", bpb_chance(report), *(bpb(figures, 4) for figures in of_text)))
    if has_mixture_bpb(report):
        rows.append(("bits per byte of its mixture", "", *(mixture_bpb(figures, 4) for figures in of_text)))
        everything = (mixture_bpb(figures, 4, "mixture_bpb_all") for figures in of_text)
        rows.append(("the same, of all its tokens", "", *everything))
    shown = table(rows, ("task", "chance", *phases), markdown=md)
    if md:
        return shown
    notes = ["* a sample of the task's items"] if "*)" in shown else []
    last = [(task, by_phase[phases[-1]]) for task, by_phase in report["evals"].items() if phases[-1] in by_phase]
    notes += [note for task, after in last for note in footnotes(task, after)]
    return "\n".join([shown, *notes, *bpb_note(report)])


def training_table(report: dict[str, Any], md: bool = False) -> str:
    """The phases that trained a model, after those that were imported, whose rows are their origin alone."""
    origins = imported_rows(report)
    rows = [row for row in training_rows(report) if row[0] in trained(report)]
    lines = table([(phase, *[""] * (len(TRAINING) - 1)) for phase, _ in origins] + rows, TRAINING, markdown=md)
    shown = lines.split("\n")
    for i, (phase, origin) in enumerate(origins, 2):
        width = len(shown[1].partition(" ")[0]) if not md else len(shown[1].split(" ")[1])
        cells = [f"{phase:<{width}}", origin.replace("|", "\\|") if md else origin]
        shown[i] = f"| {' | '.join(cells)} |{' |' * (len(TRAINING) - 2)}" if md else "  ".join(cells)
    return "\n".join(shown)


def imported_rows(report: dict[str, Any]) -> list[Row]:
    """(phase, where it was imported from), with what its origin says of it."""
    rows: list[Row] = []
    for phase, figures in report["phases"].items():
        if origin := figures.get("imported"):
            measured = ", ".join(f"{key} {value:g}" for key, value in origin.get("scores", {}).items())
            rows.append((phase, visible(origin.get("note", "imported") + (f"; there: {measured}" if measured else ""))))
    return rows


def training_rows(report: dict[str, Any]) -> list[Row]:
    """Rows for the phases that trained or were timed."""
    return [
        (
            phase,
            f"{p['steps']:,}" if "steps" in p else "",
            "" if p["tokens"] is None else f"{p['tokens']:,}",
            duration(p["seconds"]) if "checkpoint" in p and p["seconds"] is not None else "",
            duration(p["wall_seconds"]) if p.get("wall_seconds") else "",
            f"{p['tokens_per_second']:,.0f}" if p.get("tokens_per_second") else "",
            "" if p.get("utilisation") is None else f"{p['utilisation']:.0%}",
            fixed(p["final_loss"], 3),
            "" if p["peak_memory_bytes"] is None else size(p["peak_memory_bytes"]),
        )
        for phase, p in report["phases"].items()
        if "checkpoint" in p or p.get("wall_seconds")
    ]


def planned_rows(report: dict[str, Any]) -> list[Row]:
    """Planned time and cost of each phase, and beside them what it took and cost at the planned price; [] if no plan
    was saved. "*": training alone, as the phase was resumed and its whole time is not known."""
    rows: list[Row] = []
    for phase, one in report["planned"].get("phases", {}).items():
        figures = report["phases"].get(phase, {})
        took, training = figures.get("wall_seconds"), figures.get("seconds")
        seconds, mark = (training, " *") if took is None else (took, "")
        actual = ("", "")
        if seconds is not None:
            cost = dollars(seconds / 3_600 * report["planned"]["price"])
            actual = (hours(seconds) + mark, cost + mark)
        time, money = one["seconds"], one["dollars"]
        rows.append((
            phase, hours(time["expected"]), between(hours(time["low"]), hours(time["high"])), actual[0],
            dollars(money["expected"]), actual[1],
        ))  # fmt: skip
    return rows


def planned_note(report: dict[str, Any]) -> str:
    """Explains the table of planned and actual times."""
    planned = report["planned"]
    note = f"Planned by lanbot plan for {planned['gpus']} at ${planned['price']:,.2f} an hour."
    if any(cell.endswith("*") for row in planned_rows(report) for cell in row):
        note += " *: training alone, as the phase was resumed."
    return note


def planned_table(report: dict[str, Any], md: bool = False) -> str:
    shown = table(planned_rows(report), PLANNED, markdown=md)
    return shown if md else f"{shown}\n{planned_note(report)}"


def programs_table(report: dict[str, Any]) -> tuple[Row, list[Row]]:
    """Header and rows for tasks whose answers are programs: how many passed, how many failed and why, after each
    phase, and the level of the sandbox."""
    ran = [
        (task, phase, one)
        for task, by_phase in report["evals"].items()
        for phase, one in by_phase.items()
        if "sandbox_level" in one
    ]
    reasons = [fault for fault in FAULTS if any(fault in one.get("failed", {}) for _, _, one in ran)]
    rows: list[Row] = []
    for task, phase, one in ran:
        failed = one.get("failed", {})
        counts = [one["n"] - sum(failed.values()), *(failed.get(fault, 0) for fault in reasons)]
        rows.append((task, phase, items_asked(one), *(f"{count:,}" for count in counts), str(one["sandbox_level"])))
    return ("task", "after", "n", "passed", *reasons, "level"), rows


def programs_note(header: Row, rows: list[Row]) -> str:
    """Explains the reasons and the level."""
    notes = ["The programs ran in the sandbox: the lower its level, the more it stops."]
    if any(row[-1] == "4" for row in rows):
        notes.append("Level 4 is none: there a program can do anything, passing tests included.")
    reasons = [f"{name} ({FAULTS[name]})" for name in header if name in FAULTS]
    return " ".join([*notes, f"Why they failed: {'; '.join(reasons)}."] if reasons else notes)


def contamination_rows(report: dict[str, Any]) -> list[Row]:
    """For each task with real rows: how many of its items are in the training data, and whether scores count them."""
    rows: list[Row] = []
    for name, task in report["contamination"].get("tasks", {}).items():
        where = ", ".join(f"{source} ({hits['items']:,})" for source, hits in task["sources"].items())
        counted = "without them" if task["dropped"] else "with them" if task["contaminated"] else ""
        rows.append((name, where, f"{task['items']:,}", f"{task['contaminated']:,}", counted))
    return rows


def contamination_note(report: dict[str, Any]) -> str:
    found = report["contamination"]
    searched = ", ".join(f"{source} ({count(words)})" for source, words in found["words"].items()) or "nothing"
    return (
        f"An item is contaminated if {found['n']} words of its question in a row are in the training data. All items "
        f"of a task are checked, not only those asked. Searched, in words: {searched}."
    )


def pass_rows(report: dict[str, Any]) -> dict[str, dict[str, Score]]:
    """{"pass@1": {"before": score, "after": score}, ...}"""
    rows: dict[str, dict[str, Score]] = {}
    for when, by_k in report["pass"].items():
        for k, one in by_k.items():
            rows.setdefault(k, {})[when] = one
    return rows


def pass_table(report: dict[str, Any]) -> tuple[Row, list[Row]]:
    """Header and rows of pass@k: before, during (where it was measured) and after."""
    by_k, moments = pass_rows(report), tuple(report["pass"])
    return ("metric", *moments), [(k, *(score(of.get(when)) for when in moments)) for k, of in by_k.items()]


def tokenizer_rows(report: dict[str, Any]) -> list[Row]:
    return [(row["text"], f"{row['bytes']:,}", f"{row['bytes_per_token']:.2f}") for row in report["tokenizer"]]


def built(report: dict[str, Any]) -> str:
    """Parameters, tokens and time, as far as known."""
    facts = []
    if report["parameters"]:
        facts.append(f"{count(report['parameters'])} parameters")
    if report["seconds"]:
        facts.append(f"{count(report['tokens'])} tokens in {duration(report['seconds'])} of training")
    if report["wall_seconds"]:
        facts.append(f"{duration(report['wall_seconds'])} with evaluation")
    return ", ".join(facts) or "nothing trained yet"


def greedy(report: dict[str, Any]) -> str:
    most = report["settings"].get("max_tokens")
    return f"Answers are greedy{f', of at most {most:,} tokens' if most else ''}."


def bpb(figures: dict[str, Any], digits: int) -> str:
    """1.3669 ± 0.0123, without an error if it was not measured."""
    stderr = (figures.get("bpb") or {}).get("stderr")
    return fixed(figures["val_bpb"], digits) + ("" if stderr is None else f" ± {stderr:.{digits}f}")


def mixture_bpb(figures: dict[str, Any], digits: int, which: str = "mixture_bpb") -> str:
    """Of held-out rows of the phase's own mixture: of the answers, or of all; "" if not measured."""
    own = figures.get(which)
    return f"{own['bits_per_byte']:.{digits}f}" if own else ""


def has_mixture_bpb(report: dict[str, Any]) -> bool:
    return any("mixture_bpb" in figures for figures in report["phases"].values())


def bpb_chance(report: dict[str, Any]) -> str:
    known = _bpb(report)
    return f"{known['chance']:.2f}" if known else ""


def bpb_note(report: dict[str, Any]) -> list[str]:
    """Explains what bits per byte were measured on, in a sentence; [] if not known."""
    known = _bpb(report)
    if not known:
        return []
    documents = f"{known['documents']:,} document{'s' * (known['documents'] != 1)}"
    text = f"{known['n']:,} bytes of held-out text, {documents}, read {known['context']:,} tokens at a time"
    note = f"Bits per byte: of {text}; its chance is a uniform guess over the vocabulary; less is better."
    return [note, *(["Of its mixture: of the answers in held-out rows."] if has_mixture_bpb(report) else [])]


def _bpb(report: dict[str, Any]) -> dict[str, Any]:
    """Of the last phase; text and chance are the same after each."""
    phases = trained(report)
    return (report["phases"][phases[-1]].get("bpb") if phases else None) or {}


def parts(by_phase: dict[str, Score], phases: list[str]) -> dict[str, Score]:
    """The parts of a task's score after the last phase."""
    return (by_phase.get(phases[-1]) or {}).get("parts") or {}


def chance(by_phase: dict[str, Score]) -> float:
    """Of the last phase: an earlier one may have been asked fewer items."""
    return float(list(by_phase.values())[-1]["chance"])


def score(s: Score | None) -> str:
    """0.600 ± 0.049 (100); (100*) for a sample of the task's items; (100, 3 did not fit)."""
    if s is None:
        return ""
    did_not_fit = f", {s['did_not_fit']:,} did not fit" if s.get("did_not_fit") else ""
    return f"{s['score']:.3f} {error(s)} ({s['n']:,}{'*' * ('items' in s)}{did_not_fit})"


def error(s: Score) -> str:
    return f"± {s['stderr']:.3f}"


def bounds(s: Score) -> tuple[float, float]:
    """The ends of a score's error bar."""
    return max(0.0, s["score"] - s["stderr"]), min(1.0, s["score"] + s["stderr"])


def count(number: float) -> str:
    """Three digits: 950, 448K, 2.36M, 1.1B."""
    rounded = float(f"{number:.3g}")
    for factor, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if rounded >= factor:
            return f"{rounded / factor:g}{unit}"
    return f"{rounded:g}"


def fixed(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
