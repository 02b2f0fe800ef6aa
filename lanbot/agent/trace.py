"""What happened in a session, step by step, with tokens, times and costs: as data, and as text."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lanbot.agent.events import Asked, Called, Calling, Compacted, Ended, Event, Permission, Replied
from lanbot.agent.sessions import About
from lanbot.chat.display import blocks
from lanbot.core.console import table, visible

SHOWN = 56  # characters of a text in a table


@dataclass
class Call:
    """A call and its output; None while it has none. refused: why it was not run. decided: by permissions."""

    code: str
    output: str | None = None
    seconds: float = 0.0
    refused: str = ""
    decided: list[str] = field(default_factory=list)


@dataclass
class Step:
    """A reply of the model and the calls that it made; the calls follow the reply. start: seconds of the turn before
    it. compacted: what was done to the context before."""

    reply: Replied
    start: float
    calls: list[Call] = field(default_factory=list)
    compacted: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What the model said, without its calls."""
        said = blocks({"role": "assistant", "content": self.reply.parts})
        return " ".join(block.text for block in said if block.kind == "text")

    @property
    def calling(self) -> float:
        """Seconds of its calls."""
        return sum(call.seconds for call in self.calls)


@dataclass
class Turn:
    """A request and the steps to its answer. when: it was made, in UTC. ended: why; "" if it has not."""

    request: str
    when: str
    steps: list[Step] = field(default_factory=list)
    ended: str = ""

    @property
    def seconds(self) -> float:
        return sum(step.reply.seconds + step.calling for step in self.steps)


@dataclass(frozen=True)
class Trace:
    about: About
    turns: list[Turn]

    @property
    def steps(self) -> list[Step]:
        return [step for turn in self.turns for step in turn.steps]

    def total(self, figure: str) -> float:
        """The sum of a figure of the replies: prompt_tokens, cached_tokens, tokens, seconds or cost."""
        return sum(getattr(step.reply, figure) for step in self.steps)

    def facts(self) -> dict[str, str]:
        """The totals, by what they are."""
        calls = sum(len(step.calls) for step in self.steps)
        facts = {
            "turns": f"{len(self.turns):,}",
            "replies": f"{len(self.steps):,}",
            "calls": f"{calls:,}",
            "prompt tokens": f"{self.total('prompt_tokens'):,}",
            "of these cached": f"{self.total('cached_tokens'):,}",
            "tokens written": f"{self.total('tokens'):,}",
            "in the model": seconds(self.total("seconds")),
            "in calls": seconds(sum(step.calling for step in self.steps)),
        }
        return facts | ({"cost": cost(self.total("cost"))} if self.total("cost") else {})


def trace(about: About, events: Iterable[tuple[float, Event]]) -> Trace:
    """The trace of a session's events, each with the time of day in seconds."""
    turns: list[Turn] = []
    calls: dict[int, Call] = {}
    compacted: list[str] = []  # before the step that comes
    for when, event in events:
        steps = turns[-1].steps if turns else []
        if isinstance(event, Asked):
            turns.append(Turn(event.text, f"{datetime.fromtimestamp(when, UTC):%Y-%m-%d %H:%M:%S}"))
        elif isinstance(event, Replied) and turns:
            steps.append(Step(event, turns[-1].seconds, compacted=compacted))
            compacted = []
        elif isinstance(event, Calling) and steps:
            calls[event.number] = Call(event.code)
            steps[-1].calls.append(calls[event.number])
        elif isinstance(event, Called) and steps:
            if event.number not in calls:  # it was refused before it was begun
                calls[event.number] = Call("")
                steps[-1].calls.append(calls[event.number])
            call = calls[event.number]
            call.output, call.seconds, call.refused = event.output, event.seconds, event.refused
        elif isinstance(event, Permission) and steps and steps[-1].calls:
            arguments = ", ".join(f"{name}={value!r}" for name, value in event.arguments.items())
            steps[-1].calls[-1].decided.append(f"{event.answer} ({event.by}): {event.tool}({arguments})")
        elif isinstance(event, Compacted):
            compacted = [*compacted, f"{event.how}: {event.before:,} to {event.after:,} tokens"]
        elif isinstance(event, Ended) and turns:
            turns[-1].ended = event.reason
    return Trace(about, turns)


def as_text(made: Trace) -> str:
    """The trace to read in a terminal: a table for each turn, texts shortened."""
    about = made.about
    origin = f", forked from {about.parent}" if about.parent else ""
    lines = [f"session {about.id} | {visible(about.model) or 'model unknown'} | {about.created}{origin}"]
    priced, number, tables = made.total("cost") > 0, 0, []
    for turn in made.turns:
        tables.append([row for i, step in enumerate(turn.steps, number + 1) for row in _rows(i, step, priced)])
        number += len(turn.steps)
    columns = zip(*(row for rows in tables for row in rows), strict=True)
    widths = [max(map(len, column)) for column in columns]  # of all turns, so that their tables are aligned alike
    names = ("step", "what", "prompt", "cached", "wrote", "seconds", *(("cost",) if priced else ()))
    header = [f"{name:{'<' if name == 'what' else '>'}{width}}" for name, width in zip(names, widths, strict=False)]
    for i, (turn, rows) in enumerate(zip(made.turns, tables, strict=True), 1):
        lines += [
            "",
            f"turn {i}, {turn.when}: {_short(turn.request)}",
            *([table(rows, header, left=2)] if rows else []),
        ]
        lines += [f"{visible(turn.ended) or 'not ended'} after {seconds(turn.seconds)}"]
    return "\n".join([*lines, "", ", ".join(f"{name} {fact}" for name, fact in made.facts().items())])


def _rows(number: int, step: Step, priced: bool) -> list[tuple[str, ...]]:
    reply, rest = step.reply, ("",) * priced
    figures = (f"{reply.prompt_tokens:,}", f"{reply.cached_tokens:,}", f"{reply.tokens:,}", f"{reply.seconds:.2f}")
    said = _short(step.text) or ("(calls)" if step.calls else "(nothing)")
    cut = "" if reply.finished in ("stop", "call") else f" ({reply.finished})"
    rows = [("", f"({_short(note)})", "", "", "", "", *rest) for note in step.compacted]
    rows += [(str(number), said + cut, *figures, *((cost(reply.cost),) if priced else ()))]
    for call in step.calls:
        rows.append(("", f"  >>> {_short(call.code)}", "", "", "", f"{call.seconds:.2f}", *rest))
        rows += [("", f"      {_short(decision)}", "", "", "", "", *rest) for decision in call.decided]
        result = "(no result)" if call.output is None else _short(call.output) or "(nothing)"
        refused = f" (not run: {visible(call.refused)})" if call.refused else ""
        rows.append(("", f"      {result}{refused}", "", "", "", "", *rest))
    return rows


def seconds(amount: float) -> str:
    return f"{amount:.2f} s"


def cost(amount: float) -> str:
    return f"${amount:.4f}"


def _short(text: str) -> str:
    """On one line."""
    line = " ".join(visible(text[: 4 * SHOWN]).split())
    return line if len(line) <= SHOWN else line[: SHOWN - 4] + " ..."
