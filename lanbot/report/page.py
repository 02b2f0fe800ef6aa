"""report.html and report.md from templates. The page is one file that needs no network and runs no script."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

from lanbot.chat.display import blocks, transcript
from lanbot.chat.messages import Message, readable
from lanbot.core.console import duration, size, table, visible
from lanbot.report import course, tables
from lanbot.report.chart import Chart, Series, Span
from lanbot.report.collect import trained

COLOURS = 6  # the style sheet has this many colours for phases: classes p1 to p6


def page(report: dict[str, Any]) -> str:
    colours = css(report)
    return _render("report.html.j2", report, css=colours, charts=charts(report, colours))


def markdown(report: dict[str, Any]) -> str:
    return _render("report.md.j2", report).rstrip() + "\n"


def environment() -> Environment:
    """Everything written by a user or a model is escaped, and its control characters are made visible."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=select_autoescape(("html.j2",)),
        finalize=lambda value: visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = Path(__file__).with_name("static") / "style.css"
    made.globals |= {"t": tables, "course": course, "duration": duration, "size": size, "table": table}
    made.globals |= {"blocks": blocks, "transcript": transcript, "style": style.read_text(encoding="utf-8")}
    made.filters |= {"number": _number, "percent": lambda share: f"{min(1, max(0, share)):.2%}"}
    made.filters |= {"fenced": _fenced, "cell": _cell}
    return made


def _render(template: str, report: dict[str, Any], **more: Any) -> str:
    return environment().get_template(template).render(report=report, trained=trained(report), **report, **more)


def css(report: dict[str, Any]) -> dict[str, str]:
    """The class of each phase, which is its colour."""
    return {phase: f"p{i % COLOURS + 1}" for i, phase in enumerate(trained(report))}


def charts(report: dict[str, Any], css: dict[str, str]) -> list[Chart]:
    """The curves of all phases, one after the other on one time axis."""
    curves = report["curves"]
    spans, end = [], 0.0
    for phase, curve in curves.items():
        measured = [point[0] for points in curve.values() if isinstance(points, list) for point in points]
        start, end = end, end + max([report["phases"][phase]["seconds"] or 0, *measured])
        spans.append(Span(phase, css[phase], start, end))
    if not end:
        return []

    def points(span: Span, name: str) -> list[tuple[float, float]]:
        return [(span.start + seconds, value) for seconds, value in curves[span.name].get(name, [])]

    loss = [Series(f"{span.name} loss", span.css, points(span, "loss")) for span in spans]
    reward = [Series(f"{span.name} reward", span.css, points(span, "reward"), on_right=True) for span in spans]
    bpb = [Series(f"{span.name} training", span.css, points(span, "bpb")) for span in spans]
    held_out = Series("held-out text", "held", [p for span in spans for p in points(span, "val_bpb")], "dots")
    rewarded = any(one.points for one in reward)
    means = [f"{curve['mean_of']} in {phase}" for phase, curve in curves.items() if curve["mean_of"] > 1]
    loss_note = "In chat data only what the assistant writes counts, so its loss does not compare with that of text."
    if means:
        loss_note += f" Each point of a line is the mean of several steps: {', '.join(means)}."
    bpb_note = (
        "Bits that the model needs for a byte of text; less is better. The dots are the same held-out text throughout; "
        "where they rise, the phase forgets raw text in favour of chats."
    )
    right = "share of answers that are right" if rewarded else ""
    title = "Loss and reward" if rewarded else "Loss"
    return [
        Chart(title, "nats per token", right, spans, [*loss, *reward], loss_note),
        Chart("Bits per byte", "bits", "", spans, [*bpb, held_out], bpb_note),
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.6g}"


def _fenced(text: str) -> str:
    """A markdown code block whose fence is longer than any in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"


def _cell(message: Message) -> str:
    """A message in one cell of a markdown table, shortened."""
    text = readable(message)
    short = text if len(text) <= 200 else text[:200] + " ..."
    return "`" + short.replace("`", "'").replace("|", "\\|").replace("\n", " ⏎ ") + "`" if short else "(nothing)"
