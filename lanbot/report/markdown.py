"""report.md: the report as a text that reads well as it is."""

from typing import Any

from lanbot.chat.messages import Message, parts
from lanbot.core.console import table
from lanbot.report import tables
from lanbot.report.figures import trained
from lanbot.report.tables import built, evaluation_table, score, training_table


def markdown(report: dict[str, Any]) -> str:
    phases = trained(report)
    by = f", made by {report['creator']}" if report["creator"] else ""
    sections = [f"# {report['name']}", f"A chat model named {report['identity']}{by}, trained by LanBot."]
    if phases:
        limit = report["settings"].get("limit")
        sampled = f"; tasks with more than {limit:,} are sampled by a fixed seed" if limit else ""
        sections += [built(report)[0].upper() + built(report)[1:] + "."]
        sections += ["## Evaluations", evaluation_table(report, md=True)]
        figures = "Score ± standard error (n items, * a sample of the task's)"
        said = [f"{figures}. Items are held out{sampled}. {tables.greedy(report)}", *tables.bpb_says(report)]
        sections.append(" ".join(said))
    header, ran = tables.programs_table(report)
    if ran:
        sections += ["### Programs", table(ran, header, markdown=True, left=2), tables.programs_say(header, ran)]
    if report["contamination"]:
        rows = [tuple(cell.replace("|", "/") for cell in row) for row in tables.contamination_rows(report)]
        sections += ["### Contamination", table(rows, tables.CONTAMINATION, markdown=True, left=2)]
        sections.append(tables.contamination_says(report))
    if report["pass"]:
        rows = [(k, *(score(by_k.get(when)) for when in ("before", "after"))) for k, by_k in pass_rows(report).items()]
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
    if report["transcripts"]:
        sections += ["## At work", f"Tasks of the agent after {phases[-1]}, as they went."]
        for transcript in report["transcripts"]:
            outcome = "right" if transcript["right"] else "wrong"
            text = "\n\n(a new conversation)\n\n".join(_talk(messages) for messages in transcript["conversations"])
            sections += [f"### {_line(transcript['title'])} ({outcome})", _fenced(text)]
    if phases:
        sections.append("Curves and settings are in report.html and report.json.")
    return "\n\n".join(sections) + "\n"


def pass_rows(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{"pass@1": {"before": score, "after": score}, ...}"""
    rows: dict[str, dict[str, Any]] = {}
    for when, by_k in report["pass"].items():
        for k, one in by_k.items():
            rows.setdefault(k, {})[when] = one
    return rows


def _talk(messages: list[Message]) -> str:
    marks = {"text": "", "python": ">>> ", "output": "  = "}
    lines = []
    for message in messages:
        spoken = [marks.get(part["type"], "") + part["text"].strip() for part in parts(message)]
        lines.append(f"{message['role']}: " + "\n".join(spoken).lstrip())
    return "\n".join(lines)


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    """A text in one cell of a markdown table."""
    short = text if len(text) <= 200 else text[:200] + " ..."
    return "`" + short.replace("`", "'").replace("|", "\\|").replace("\n", " ⏎ ") + "`" if short else "(nothing)"
