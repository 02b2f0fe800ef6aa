"""report.html: the whole report in one file that asks nothing of a network and runs no script.

All that a user or a model wrote passes through `esc` on its way in.
"""

import html
from pathlib import Path
from string import Template
from typing import Any

from lanbot.chat.messages import Message, Part, parts
from lanbot.core.console import duration, size, visible
from lanbot.report import chart, tables
from lanbot.report.figures import trained
from lanbot.report.markdown import pass_rows
from lanbot.report.talk import split_calls

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>$title</title>
<style>
$css</style>
</head>
<body>
$header
<main>
$sections
</main>
<footer><p>Made with LanBot. The same figures are in report.json and report.md.</p></footer>
</body>
</html>
""")

PHASES_SAY = {
    "base": "continues text",
    "mid": "has learned to answer and to use its tools",
    "sft": "has practised what it is asked for",
    "rl": "was rewarded for being right",
}


def esc(text: object) -> str:
    """Text as HTML text or an attribute's value."""
    return html.escape(visible(str(text)))


def page(report: dict[str, Any]) -> str:
    made = {
        "scores": ("Scores", _scores),
        "curves": ("How it learned", _curves),
        "rl": ("Before and after RL", _rl),
        "changed": ("What changed", _changed),
        "work": ("At work", _transcripts),
        "training": ("Training", _training),
        "settings": ("Settings", _settings),
    }
    bodies = {name: (heading, make(report)) for name, (heading, make) in made.items()}
    bodies = {name: (heading, body) for name, (heading, body) in bodies.items() if body}
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, (heading, _) in bodies.items())
    sections = "\n".join(
        f'<section id="{name}"><h2>{heading}</h2>\n{body}\n</section>' for name, (heading, body) in bodies.items()
    )
    return PAGE.substitute(
        title=f"{esc(report['identity'])}: a report",
        css=Path(__file__).with_name("page.css").read_text(),
        header=_header(report, links),
        sections=sections,
    )


def _header(report: dict[str, Any], links: str) -> str:
    model, tokenizer = report["recipe"]["model"], report["recipe"]["tokenizer"]
    maker = f"made by {esc(report['creator'])}, " if report["creator"] else ""
    facts = [
        ("parameters", tables.count(report["parameters"]) if report["parameters"] else ""),
        ("layers", f"{model['depth']} × {model['dim']} wide"),
        ("vocabulary", f"{tokenizer['vocab_size']:,}"),
        ("context", f"{model['context']:,} tokens"),
        ("trained on", f"{tables.count(report['tokens'])} tokens" if report["tokens"] else ""),
        ("training took", duration(report["seconds"]) if report["seconds"] else ""),
        ("with evaluation", duration(report["wall_seconds"]) if report["wall_seconds"] else ""),
    ]
    listed = "".join(f"<div><dt>{what}</dt><dd>{value}</dd></div>" for what, value in facts if value)
    return (
        '<header><p class="eyebrow">A chat model trained with LanBot</p>\n'
        f'<h1 dir="auto">{esc(report["identity"])}</h1>\n'
        f'<p class="lead" dir="auto">{maker}{esc(report["personality"])}</p>\n<dl class="facts">{listed}</dl>\n'
        f'<nav aria-label="Sections">{links}</nav></header>'
    )


# -- scores ------------------------------------------------------------------------------------------------


def _scores(report: dict[str, Any]) -> str:
    phases = trained(report)
    if not report["evals"]:
        return ""
    last = phases[-1]
    headline = "".join(_headline(task, by_phase, last) for task, by_phase in report["evals"].items())
    limit = report["settings"].get("limit")
    sampled = f" Of a task with more than {limit:,} items a seeded sample is asked." if limit else ""
    return (
        (
            f'<p>What it gets right after <b class="{last}">{last}</b>, on held-out items.</p>\n'
            f'<ul class="scores">{headline}</ul>\n'
            '<p class="note">Whiskers: ± one standard error. Dotted line: what guessing would score. '
            f"{tables.greedy(report)}{sampled}</p>\n<h3>All tasks, phase by phase</h3>\n{_evaluations(report, phases)}"
        )
        + _programs(report)
        + _contamination(report)
    )


def _headline(task: str, by_phase: dict[str, Any], last: str) -> str:
    score = by_phase.get(last)
    if score is None:
        return ""
    chance = tables.chance(by_phase)
    label = f"{task}: {score['score']:.3f} ± {score['stderr']:.3f}, chance {chance:.2f}"
    before = f"{by_phase['sft']['score']:.3f} after sft, " if last != "sft" and "sft" in by_phase else ""
    return (
        f'<li><div class="row"><span class="task">{_words(task)}</span>{_figure(score)}</div>'
        f"{chart.bar(score['score'], score['stderr'], chance, last, esc(label))}"
        f'<div class="under">{before}n = {tables.items_asked(score)}, chance {chance:.2f}</div></li>'
    )


def _evaluations(report: dict[str, Any], phases: list[str]) -> str:
    rows, fewer = [], False
    for task, by_phase in report["evals"].items():
        counts = [score["n"] for score in by_phase.values()]  # after base there may be fewer
        asked = tables.items_asked(list(by_phase.values())[-1]) + "*" * (min(counts) < counts[-1])
        fewer = fewer or min(counts) < counts[-1]
        cells = [_figure(by_phase.get(phase)) for phase in phases]
        rows.append(("", [esc(task).replace("_", "_<wbr>"), *cells, asked, f"{tables.chance(by_phase):.2f}"]))
        for name, part in tables.parts(by_phase, phases).items():
            cells = [*[""] * (len(phases) - 1), _figure(part), f"{part['n']:,}", f"{part['chance']:.2f}"]
            rows.append(("part", [esc(name), *cells]))
    bpb = [_bpb(report["phases"][phase]) for phase in phases]
    rows.append(("total", ["held-out bits per byte", *bpb, "", tables.bpb_chance(report)]))
    notes = ["* fewer after base, which cannot answer yet."] * fewer + tables.bpb_says(report)
    note = f'<p class="note">{" ".join(map(esc, notes))}</p>' if notes else ""
    return _table("Scores by phase", ("task", *phases, "n", "chance"), rows, strong=len(phases)) + note


def _bpb(figures: dict[str, Any]) -> str:
    value, _, error = tables.bpb(figures, 3).partition(" ")
    return f'<span class="value">{value} <small>{error}</small></span>' if error else value


def _programs(report: dict[str, Any]) -> str:
    header, ran = tables.programs_table(report)
    if not ran:
        return ""
    rows = [("", [esc(cell) for cell in row]) for row in ran]
    said = f'<p class="note">{esc(tables.programs_say(header, ran))}</p>'
    return "<h3>Programs</h3>" + _table("Programs", header, rows, strong=3) + said


def _contamination(report: dict[str, Any]) -> str:
    rows = [("", [esc(cell) for cell in row]) for row in tables.contamination_rows(report)]
    if not rows:
        return ""
    said = f'<p class="note">{esc(tables.contamination_says(report))}</p>'
    return "<h3>Contaminated items</h3>" + _table("Contaminated items", tables.CONTAMINATION, rows) + said


def _figure(score: dict[str, Any] | None) -> str:
    """0.913 ± 0.020"""
    if score is None:
        return ""
    return f'<span class="value">{score["score"]:.3f} <small>± {score["stderr"]:.3f}</small></span>'


# -- curves and RL -----------------------------------------------------------------------------------------


def _curves(report: dict[str, Any]) -> str:
    curves = report["curves"]
    spans, at = [], 0.0
    for phase, curve in curves.items():
        measured = [point[0] for points in curve.values() if isinstance(points, list) for point in points]
        spans.append(chart.Span(phase, at, at + max([report["phases"][phase]["seconds"] or 0, *measured])))
        at = spans[-1].end
    if not at:
        return ""

    def series(name: str, title: str, kind: str = "line", on_right: bool = False) -> list[chart.Series]:
        return [
            chart.Series(
                title.format(span.name),
                span.name,
                [(span.start + seconds, value) for seconds, value in curves[span.name].get(name, [])],
                kind,
                on_right,
            )
            for span in spans
        ]

    validation = [point for one in series("val_bpb", "") for point in one.points]
    held_out = chart.Series("held-out text", "held", validation, "dots")
    reward = "share of answers that are right" if "rl" in curves else ""
    means = [f"{curve['mean_of']} in {phase}" for phase, curve in curves.items() if curve["mean_of"] > 1]
    mean = f" A point of a line is the mean of several steps: {', '.join(means)}." if means else ""
    return (
        "<p>One clock for all phases: seconds spent training, the evaluations between them left out.</p>\n"
        + chart.figure(
            "Loss" + (" and reward" if reward else ""),
            "nats per token",
            reward,
            spans,
            [*series("loss", "{} loss"), *series("reward", "{} reward", on_right=True)],
            "Base reads all of its text; mid and sft count only what the bot itself has to write, so that their losses "
            f"stand apart.{mean}",
        )
        + chart.figure(
            "Bits per byte",
            "bits",
            "",
            spans,
            [*series("bpb", "{} training"), held_out],
            "How many bits the model needs for a byte of text: less is better. The dots are the same held-out text "
            "throughout; where they rise, the phase forgets raw text for the sake of chats.",
        )
    )


def _rl(report: dict[str, Any]) -> str:
    rows = []
    for k, by_when in pass_rows(report).items():
        bars = "".join(
            f'<div class="when"><span>{when}</span>'
            f"{chart.bar(s['score'], s['stderr'], s['chance'], css, esc(f'{k} {when}: ' + tables.score(s)))}"
            f"{_figure(s)}</div>"
            for when, css in (("before", "sft"), ("after", "rl"))
            if (s := by_when.get(when))
        )
        rows.append(f'<div class="pass"><h3>{esc(k)}</h3>{bars}</div>')
    if not rows:
        return ""
    asked = tables.items_asked(next(iter(next(iter(report["pass"].values())).values())))
    return (
        f"<p>The same {asked} held-out questions, several answers to each, sampled at temperature 1. pass@1: how often "
        "one answer is right. pass@k: for how many questions at least one of k is.</p>\n"
        f'<div class="passes">{"".join(rows)}</div>'
    )


# -- what it says ------------------------------------------------------------------------------------------


def _changed(report: dict[str, Any]) -> str:
    if not report["what_changed"]:
        return ""
    said = "; ".join(f'<b class="{p}">{p}</b> {PHASES_SAY.get(p, "")}' for p in trained(report))
    articles = []
    for entry in report["what_changed"]:
        answers = "".join(
            f'<div><dt class="{esc(phase)}">{esc(phase)}</dt><dd dir="auto">{_answer(answer)}</dd></div>'
            for phase, answer in entry["answers"].items()
        )
        articles.append(
            f'<article class="changed"><h3 dir="auto">{esc(entry["prompt"])}</h3><dl>{answers}</dl></article>'
        )
    return (
        f"<p>The same prompts after each phase: {said}. "
        '<code class="call">A call</code><samp class="out">and what came back</samp> look like this.</p>\n'
        + "\n".join(articles)
    )


def _answer(answer: str) -> str:
    marks = {
        "text": "{}",
        "python": '<code class="call"><span class="aside">calls </span>{}</code>',
        "output": '<samp class="out"><span class="aside">gets back </span>{}</samp>',
    }
    pieces = [marks[part["type"]].format(esc(part["text"])) for part in split_calls(answer)]
    return "".join(pieces) or '<span class="nothing">(nothing)</span>'


def _transcripts(report: dict[str, Any]) -> str:
    if not report["transcripts"]:
        return ""
    name, articles = report["identity"], []
    for transcript in report["transcripts"]:
        right = transcript["right"]
        outcome = '<span class="mark right">✓ right</span>' if right else '<span class="mark wrong">✗ wrong</span>'
        talks = [_chat(messages, name) for messages in transcript["conversations"]]
        new = '<p class="new">a new conversation: only what it remembered is left</p>'
        articles.append(
            f'<article class="talk"><h3 dir="auto">{esc(transcript["title"])} {outcome}</h3>{new.join(talks)}</article>'
        )
    return f"<p>Tasks given to {esc(name)} with its tools, as they went.</p>\n" + "\n".join(articles)


def _chat(messages: list[Message], name: str) -> str:
    bubbles = []
    for message in messages:
        role = "bot" if message["role"] == "assistant" else "tool" if message["role"] == "tool" else "user"
        who = name if role == "bot" else message["role"]
        said = "".join(_part(part) for part in parts(message))
        bubbles.append(f'<li class="{role}"><span class="who">{esc(who)}</span><div class="bubble">{said}</div></li>')
    return f'<ol class="chat">{"".join(bubbles)}</ol>'


def _part(part: Part) -> str:
    kind, text = part["type"], esc(part["text"].strip("\n"))
    if kind == "python":
        return f'<div class="act"><span class="aside">calls</span><pre class="call" tabindex="0">{text}</pre></div>'
    if kind == "output":
        return f'<div class="act"><span class="aside">gets back</span><pre class="out" tabindex="0">{text}</pre></div>'
    return f'<p dir="auto">{text}</p>' if text.strip() else ""


# -- training and settings ---------------------------------------------------------------------------------


def _training(report: dict[str, Any]) -> str:
    header = ("phase", "training", "in all", "tokens", "tokens/s", "utilisation", "peak memory", "last loss", "val bpb")
    rows = [("", _training_row(phase, p)) for phase, p in report["phases"].items() if phase != "tokenizer" or _clock(p)]
    if not rows:
        return ""
    total = ["together", duration(report["seconds"]), _clock(report), f"{report['tokens']:,}"]
    rows.append(("total", [*total, *[""] * 5]))
    return (
        _table("Training by phase", header, rows)
        + '<p class="note">In all: by the clock, evaluation too. Utilisation: the share of the fastest matrix product '
        "that this machine could do at that moment. RL's tokens are those that it wrote itself, and the height of its "
        "loss says nothing.</p>" + _tokenizer(report)
    )


def _training_row(phase: str, p: dict[str, Any]) -> list[str]:
    used, peak = p.get("utilisation"), p["peak_memory_bytes"]
    return [
        f'<b class="{phase}">{phase}</b>',
        "" if p["seconds"] is None or phase == "tokenizer" else duration(p["seconds"]),
        _clock(p),
        f"{p['tokens']:,}" if p["tokens"] else "",
        f"{p['tokens_per_second']:,.0f}" if p.get("tokens_per_second") else "",
        "" if used is None else f"{used:.0%}",
        "" if peak is None else size(peak),
        tables.fixed(p["final_loss"], 3),
        tables.fixed(p["val_bpb"], 3),
    ]


def _clock(timed: dict[str, Any]) -> str:
    return duration(timed["wall_seconds"]) if timed.get("wall_seconds") else ""


def _tokenizer(report: dict[str, Any]) -> str:
    if not report["tokenizer"]:
        return ""
    rows = [
        ("", [esc(row["text"]), f"{row['bytes']:,}", f"{row['bytes_per_token']:.2f}"]) for row in report["tokenizer"]
    ]
    return "<h3>Tokenizer</h3>" + _table("Tokenizer", ("text", "bytes", "bytes per token"), rows)


def _settings(report: dict[str, Any]) -> str:
    recipe = report["recipe"]
    general = {key: value for key, value in recipe.items() if not isinstance(value, dict)}
    sections = {"general": general} | {key: value for key, value in recipe.items() if isinstance(value, dict)}
    cards = []
    for name, values in sections.items():
        listed = "".join(f"<div><dt>{esc(key)}</dt><dd>{_setting(value)}</dd></div>" for key, value in values.items())
        cards.append(f'<div class="settings"><h3>{esc(name)}</h3><dl>{listed}</dl></div>')
    return f'<p>All of it, as recipe.toml in the run\'s folder has it.</p>\n<div class="cards">{"".join(cards)}</div>'


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return "<br>".join(_setting(item) for item in value)
    if isinstance(value, dict) and "task" in value:  # a share of a mixture
        given = [f"{value['rows']:,}&nbsp;rows"] if "rows" in value else []
        given += [f"{value['epochs']:,}&nbsp;times"] if value.get("epochs", 1) > 1 else []
        return " ".join([esc(value["task"]), *given])
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,.0f}" if value == int(value) else f"{value:.6g}"
    return esc(value)


# -- pieces ------------------------------------------------------------------------------------------------


def _table(label: str, header: tuple[str, ...], rows: list[tuple[str, list[str]]], strong: int = 0) -> str:
    """A table of cells that are HTML already, each row with its class, in a box that scrolls by itself.

    strong: the column that stands out.
    """
    head = "".join(f'<th scope="col">{esc(name)}</th>' for name in header)
    body = "".join(
        f'<tr class="{css}"><th scope="row">{first}</th>'
        + "".join(f'<td class="last">{x}</td>' if i == strong else f"<td>{x}</td>" for i, x in enumerate(rest, 1))
        + "</tr>\n"
        for css, (first, *rest) in rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{esc(label)}" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _words(task: str) -> str:
    return esc(task.replace("_", " "))
