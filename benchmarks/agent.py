"""What the harness adds to a step of an agent, and whether many conversations at once lose anything.

    python benchmarks/agent.py [--steps 8 50 200] [--sessions 200] [--json]

The model answers at once: a step is what the harness does for one call of read_file on a real folder, with
permissions, over LanBot's chat format (rendering and counting included). Reported: wall clock and CPU time of a step,
the medians of a turn; `stored` is with each event in a session's file, `in memory` without. Then so many conversations
run in threads of one process, each with its own session in one file and a model that takes 20 ms a reply; each answer
and each stored conversation is checked.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lanbot.agent.events import Called
from lanbot.agent.limits import Limits
from lanbot.agent.loop import Agent
from lanbot.agent.model import Declarations, Reply
from lanbot.agent.permissions import permit
from lanbot.agent.sessions import Sessions
from lanbot.chat.formats.base import ChatFormat, Event
from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.chat.messages import Message, parts, python, spoken, text
from lanbot.config import agent as config
from lanbot.core.console import Progress, say, table
from lanbot.inference.sampling import Sampling
from lanbot.synthetic import world
from lanbot.tokenizers.bpe_training import train
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.toolbox import Toolbox
from lanbot.tools.workspace import Workspace

VOCABULARY = 1_024


@dataclass
class Reader:
    """A model that reads files 0 to steps - 1 and then says what was in them, after `seconds` each."""

    chat_format: ChatFormat
    steps: int
    seconds: float = 0.0
    context_length: int = 32_768

    def count_tokens(self, messages: Sequence[Message], tools: Declarations = ()) -> int:
        return len(self.chat_format.prompt(messages, tools))

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, seed: int = 0, tools: Declarations = ()
    ) -> Generator[Event, None, Reply]:
        time.sleep(self.seconds)
        read = [part["text"] for part in parts(messages[-1]) if part["type"] == "output"]
        used = {"prompt_tokens": self.count_tokens(messages, tools), "tokens": 20}
        if len(read) < self.steps:
            code = f"read_file('{len(read)}.txt')"
            yield Event("call", "python", code)
            return Reply([python(code)], "call", (code,), **used)
        return Reply([text(" ".join(read))], "stop", (), **used)


class Clock:
    """Notes the time of each result."""

    def __init__(self) -> None:
        self.wall, self.cpu = [time.perf_counter()], [time.process_time()]

    def __call__(self, event: object) -> None:
        if isinstance(event, Called):
            self.wall.append(time.perf_counter())
            self.cpu.append(time.process_time())


def opened(stack: ExitStack, chat_format: ChatFormat, folder: Path, steps: int, seconds: float = 0.0) -> Agent:
    files = Workspace(folder)
    memory = stack.enter_context(closing(Memory()))
    tools = stack.enter_context(Toolbox(config.Agent(), files, memory))
    permit(tools, files, config.Permissions(), folder, None)
    return Agent(Reader(chat_format, steps, seconds), PythonCalls(tools.toolset), Limits(steps + 1, 1_000_000))


def a_step(chat_format: ChatFormat, folder: Path, steps: int, sessions: Sessions | None) -> tuple[float, float]:
    """Milliseconds of wall clock and of CPU, the medians of a turn's steps."""
    with ExitStack() as stack:
        agent, clock = opened(stack, chat_format, folder, steps), Clock()
        session = stack.enter_context(sessions.create()) if sessions else None

        def hear(event: object) -> None:
            if session is not None and event.stored:  # type: ignore[attr-defined]
                session.append(event)  # type: ignore[arg-type]
            clock(event)

        assert agent.turn("Read all files.", hear).ended == "answered"
    wall, cpu = ([1_000 * (b - a) for a, b in pairwise(times)] for times in (clock.wall, clock.cpu))
    return statistics.median(wall), statistics.median(cpu)


def many(chat_format: ChatFormat, folder: Path, sessions: Sessions, count: int) -> tuple[float, int]:
    """Seconds for so many conversations of eight steps, and how many were answered and stored as they should be."""
    files = [folder / f"many/{n}" for n in range(count)]
    for n, place in enumerate(files):
        place.mkdir(parents=True)
        for k in range(8):
            (place / f"{k}.txt").write_text(f"{n}-{k}")

    def one(n: int) -> bool:
        with ExitStack() as stack:
            agent = opened(stack, chat_format, files[n], 8, seconds=0.02)
            session = stack.enter_context(sessions.create())
            turn = agent.turn("Read all files.", session.append)
            expected = [f"{n}-{k}" for k in range(8)]
            stored = [event.output for _, event in sessions.events(session.id) if isinstance(event, Called)]
            return spoken(turn.message) == " ".join(expected) and stored == expected

    began = time.perf_counter()
    with Progress("conversations", count) as progress, ThreadPoolExecutor(count) as threads:
        right = 0
        for n, good in enumerate(threads.map(one, range(count)), 1):
            right += good
            progress.show(n)
    return time.perf_counter() - began, right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 50, 200])
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    chat_format = LanBotFormat(
        train((world.document("train", i) for i in range(300)), VOCABULARY, LanBotFormat.special_tokens)
    )
    rows, results = [], {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for k in range(max(asked.steps)):
            (folder / f"{k}.txt").write_text(world.document("train", k)[:300])
        with Sessions(folder / "sessions.db") as sessions:
            a_step(chat_format, folder, 2, sessions)  # imports and caches
            for steps in asked.steps:
                memory, stored = (a_step(chat_format, folder, steps, to) for to in (None, sessions))
                results[f"{steps} steps"] = {"in_memory_ms": memory, "stored_ms": stored}
                rows.append((f"{steps:,}", *(f"{value:.2f}" for value in (*memory, *stored))))
            seconds, right = many(chat_format, folder, sessions, asked.sessions)
    say("milliseconds a step, medians")
    print(table(rows, ("steps of the turn", "in memory", "its CPU", "stored", "its CPU")))
    say(f"{right} of {asked.sessions} conversations at once are right; {8 * asked.sessions / seconds:,.0f} steps/s")
    results["sessions"] = {"count": asked.sessions, "right": right, "seconds": seconds}
    if asked.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
