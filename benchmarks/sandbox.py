"""How fast model-written programs run in the sandbox, and which resources 5,000 of them leak.

    python benchmarks/sandbox.py [--level 1 2] [--runs 5000] [--workers 2] [--repeats 3] [--json]

The program is like HumanEval's: a function, a few assertions, one printed line. start: time until a worker is ready.
Latency is measured with one worker, one program at a time; runs/s with a pool (the median of --repeats, then the best).
CPU ms a run, summed over all processes, shows the runs/s possible on an otherwise idle machine.
Then --runs programs run, some of which fail, print a lot, start threads or write files. Before and after them, the
benchmark counts child processes, zombies, its file descriptors and temporary files, and measures the memory of the
zygotes (their private pages, after the first and the last run).
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from lanbot.core.console import say, size, table
from lanbot.sandbox import canary
from lanbot.sandbox.sandbox import Sandbox
from lanbot.sandbox.worker import Worker

PROGRAM = '''
from typing import List

def below_zero(operations: List[int]) -> bool:
    """Whether the balance ever falls below zero."""
    balance = 0
    for operation in operations:
        balance += operation
        if balance < 0:
            return True
    return False

def check(candidate):
    assert candidate([1, 2, -3, 1, 2, -3]) is False
    assert candidate([1, 2, -4, 5, 6]) is True
    assert candidate([1, -1, 2, -2, 5, -5, 4, -5]) is True

check(below_zero)
print("passed")
'''
MIXED = [
    PROGRAM,
    "open('left', 'w').write('x' * 1000)",
    "import threading; threading.Thread(target=print).start()",
    "1 / 0",
    "import os; os._exit(3)",
    "print('x' * 100_000)",
    "x = [bytes(1000) for _ in range(10_000)]",
    PROGRAM,
]


def state(process: str) -> tuple[int, str]:
    """(parent, state) of a process, from its folder in /proc."""
    fields = Path(process, "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[1]), fields[0]


def below(root: int) -> dict[int, str]:
    """{pid: state} of all descendants of a process."""
    every = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                every[int(entry.name)] = state(entry.path)
            except OSError:
                continue
    found: dict[int, str] = {}
    while more := {pid: s for pid, (parent, s) in every.items() if parent in (root, *found) and pid not in found}:
        found |= more
    return found


def own_pages(pids: list[int]) -> int:
    """Private bytes of these processes."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        total += sum(1_024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return total


def cpu_seconds() -> float:
    """Of this process and its descendants, including those that have been waited for."""
    ticks = 0
    for pid in (os.getpid(), *below(os.getpid())):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:13] if pid == os.getpid() else fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def left(folder: str) -> dict[str, int]:
    states = below(os.getpid())
    return {
        "processes": len(states),
        "zombies": sum(s == "Z" for s in states.values()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "files": len(os.listdir(folder)),
    }


def measure(level: int, runs: int, workers: int, repeats: int, folder: str) -> dict[str, object]:
    starts, latencies, rates = [], [], []
    for _ in range(5):
        began = time.perf_counter()
        worker = Worker(level)
        starts.append(time.perf_counter() - began)
        worker.close()
    with Sandbox(1, level) as box:
        for _ in range(300):
            began = time.perf_counter()
            assert box.run(PROGRAM).stdout == "passed\n"
            latencies.append(time.perf_counter() - began)
    with Sandbox(workers, level) as box:
        assert all(result.stdout == "passed\n" for result in box.map([PROGRAM] * 2 * workers))
        cpu = cpu_seconds()
        for _ in range(repeats):
            began = time.perf_counter()
            assert all(result.stdout == "passed\n" for result in box.map([PROGRAM] * 500))
            rates.append(500 / (time.perf_counter() - began))
        cpu = (cpu_seconds() - cpu) / (500 * repeats)
    before, memory = left(folder), [0, 0]
    began = time.perf_counter()
    with Sandbox(workers, level) as box:
        assert all(not result.ended for result in box.map([PROGRAM] * 2 * workers))
        memory[0] = own_pages(list(below(os.getpid())))
        for number, result in enumerate(box.map((MIXED[i % len(MIXED)] for i in range(runs)), timeout=30)):
            assert not result.ended, (number, result)
        memory[1] = own_pages(list(below(os.getpid())))
        zombies_within = left(folder)["zombies"]
    seconds = time.perf_counter() - began
    latencies.sort()
    return {
        **{"level": level, "start_ms": 1e3 * statistics.median(starts)},
        **{"p50_ms": 1e3 * latencies[150], "p90_ms": 1e3 * latencies[270]},
        "cpu_ms": 1e3 * cpu,
        **{"runs_per_second": statistics.median(rates), "best_runs_per_second": max(rates)},
        **{"mixed_runs": runs, "mixed_runs_per_second": runs / seconds, "zombies_within": zombies_within},
        **{"before": before, "after": left(folder), "memory_first": memory[0], "memory_last": memory[1]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=5_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        for level in arguments.level:
            verdict = canary.check(level)
            say(str(verdict))
            if verdict.holds:
                with Sandbox(1, level) as box:
                    box.run("1")  # start what starts once per process
                results.append(measure(level, arguments.runs, arguments.workers, arguments.repeats, folder))
    columns = (
        "start_ms",
        "p50_ms",
        "p90_ms",
        "cpu_ms",
        "runs_per_second",
        "best_runs_per_second",
        "mixed_runs_per_second",
    )
    rows = [[row["level"], *(f"{row[name]:.1f}" for name in columns)] for row in results]
    print(table(rows, ("level", "start ms", "p50 ms", "p90 ms", "CPU ms a run", "runs/s", "best", "mixed runs/s")))
    for row in results:
        memory = f"{size(row['memory_first'])} -> {size(row['memory_last'])}"  # type: ignore[arg-type]
        print(f"level {row['level']}, {row['mixed_runs']:,} runs: {row['before']} -> {row['after']}; zygotes {memory}")
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
