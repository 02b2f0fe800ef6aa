"""How fast model-written programs run in the sandbox, and whether its memory grows over 5,000 of them.

    python benchmarks/sandbox.py [--level 1 2] [--runs 5000] [--workers 2] [--repeats 3] [--json]

The program is like HumanEval's: a function, a few assertions, one printed line. start: time until a worker is ready.
Latency is measured with one worker, one program at a time; runs/s with a pool (the median of --repeats, then the best).
CPU ms a run, summed over all processes, shows the runs/s possible on an otherwise idle machine.
Then --runs programs run, some of which fail, print a lot, start threads or write files, and the memory of the zygotes
(their private pages) is measured before and after them. tests/sandbox/test_left_behind.py checks that no process, file
or descriptor is left.
"""

import argparse
import json
import os
import statistics
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

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


def fields(pid: int) -> list[str]:
    """A process's state, parent, ... from /proc/PID/stat."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def descendants() -> set[int]:
    """The processes below this one."""
    parents = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            parents[int(entry)] = int(fields(int(entry))[1])
    found: set[int] = set()
    while more := {pid for pid, parent in parents.items() if parent in (os.getpid(), *found)} - found:
        found |= more
    return found


def private_bytes() -> int:
    """Of the processes below this one."""
    total = 0
    for pid in descendants():
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        total += sum(1_024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return total


def cpu_seconds() -> float:
    """Of this process and its descendants, including those that have been waited for."""
    ticks = 0
    for pid in (os.getpid(), *descendants()):
        ticks += sum(map(int, fields(pid)[11 : 13 if pid == os.getpid() else 15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(level: int, runs: int, workers: int, repeats: int) -> dict[str, Any]:
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
    began = time.perf_counter()
    with Sandbox(workers, level) as box:
        assert all(not result.ended for result in box.map([PROGRAM] * 2 * workers))
        memory = private_bytes()
        for number, result in enumerate(box.map((MIXED[i % len(MIXED)] for i in range(runs)), timeout=30)):
            assert not result.ended, (number, result)
        memory_last = private_bytes()
    seconds = time.perf_counter() - began
    latencies.sort()
    return {
        **{"level": level, "start_ms": 1e3 * statistics.median(starts)},
        **{"p50_ms": 1e3 * latencies[150], "p90_ms": 1e3 * latencies[270]},
        "cpu_ms": 1e3 * cpu,
        **{"runs_per_second": statistics.median(rates), "best_runs_per_second": max(rates)},
        **{"mixed_runs": runs, "mixed_runs_per_second": runs / seconds},
        **{"memory_first": memory, "memory_last": memory_last},
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
    for level in arguments.level:
        verdict = canary.check(level)
        say(str(verdict))
        if verdict.holds:
            results.append(measure(level, arguments.runs, arguments.workers, arguments.repeats))
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
        memory = f"{size(row['memory_first'])} -> {size(row['memory_last'])}"
        print(f"level {row['level']}, {row['mixed_runs']:,} runs: memory of the zygotes {memory}")
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
