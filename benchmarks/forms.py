"""What a form costs: tokens/s of free answers, of answers with strict calls and of answers in JSON.

    python benchmarks/forms.py RUN [--repeats 10] [--json]

A run's latest model is asked 1, 8 and 64 questions at once, half of which ask for a file to be written; the call is
answered, so that about half of what is written is calls. All alternate and medians count. Needs the extra `agent`.
"""

import argparse
import json
import statistics
import time
from typing import Any

import torch

from lanbot.chat.declaring import declared
from lanbot.chat.grammar import answer_grammar
from lanbot.config.run import Run
from lanbot.core.console import say, table
from lanbot.inference.constraint import AnswerConstraint, CallConstraint
from lanbot.inference.engine import Engine
from lanbot.inference.sampling import Sampling
from lanbot.web.served import of_run

NEW = 64
STRING = {"type": "string"}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "",
            "parameters": {"type": "object", "properties": dict.fromkeys(names, STRING), "required": names},
        },
    }
    for name, names in (("get_weather", ["city"]), ("read_file", ["path"]), ("write_file", ["path", "text"]))
]
SCHEMA = {
    "type": "object",
    "properties": {"name": STRING, "age": {"type": "integer"}, "tags": {"type": "array", "items": STRING}},
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def question(i: int) -> str:
    return f"Write file note{i}.txt with the text 'hello number {i}'." if i % 2 else f"What is {i + 12} * 7 + {i}?"


def rate(engine: Engine, n: int, bound: AnswerConstraint | CallConstraint | None) -> float:
    prompts = []
    for i in range(n):
        asked: Any = {"messages": [{"role": "user", "content": question(i)}], "tools": TOOLS}
        prompts.append(engine.chat_format.ask(declared(asked, engine.chat_format)))
    bounds = [bound and bound.again() for _ in range(n)]
    handlers = [lambda _: "ok"] * n
    began = time.perf_counter()
    made = engine.generate(prompts, Sampling(NEW, temperature=0.7), 1, constraints=bounds, call_handlers=handlers)
    return sum(len(one.ids) for one in made) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    engine = next(iter(of_run(Run.open(asked.run)).models.values())).engine
    strict = CallConstraint(engine.chat_format, TOOLS, typed=True)
    began = time.perf_counter()
    in_json = AnswerConstraint(engine.chat_format, answer_grammar(None, schema=SCHEMA))
    compiled = time.perf_counter() - began
    ways = {"free": None, "strict calls": strict, "JSON": in_json}
    rates: dict[int, dict[str, list[float]]] = {n: {way: [] for way in ways} for n in (1, 8, 64)}
    for repeat in range(asked.repeats + 1):  # the first one warms up
        for n, found in rates.items():
            for way, bound in ways.items():
                took = rate(engine, n, bound)
                if repeat:
                    found[way].append(took)
    middle = {n: {way: statistics.median(some) for way, some in found.items()} for n, found in rates.items()}
    rows = [
        (str(n), *(f"{found[way]:,.0f} ({found[way] / found['free']:.2f})" for way in ways))
        for n, found in middle.items()
    ]
    print(table(rows, ("answers", *(f"{way}: tokens/s" for way in ways))))
    say(f"compiling the schema: {compiled * 1e3:.1f} ms")
    if asked.json:
        print(json.dumps({"rates": middle, "compile_ms": compiled * 1e3}))


if __name__ == "__main__":
    main()
