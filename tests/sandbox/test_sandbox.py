"""The sandbox's interface, at the best level of this machine unless a test names another."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lanbot.core.errors import UserError
from lanbot.sandbox import canary, files, launch, sandbox
from lanbot.sandbox.canary import Verdict
from lanbot.sandbox.protocol import MOST_CALLS, MOST_OUTPUT
from lanbot.sandbox.sandbox import Sandbox
from lanbot.sandbox.worker import Worker

VERDICTS = sandbox.survey()
BEST = VERDICTS[-1].level if VERDICTS[-1].holds else None
WRITES = BEST != launch.LOCKED


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    if BEST is None:
        pytest.skip("no level of the sandbox holds here: " + "; ".join(map(str, VERDICTS)))
    with Sandbox(2, BEST) as made:
        yield made


needs_writing = pytest.mark.skipif(not WRITES, reason="files can be written at level 1 only")


def test_a_program_is_run_as_python_runs_it(box: Sandbox) -> None:
    result = box.run("import sys\nprint('hello')\nprint('ä☃', file=sys.stderr)\nassert __name__ == '__main__'")
    assert (result.stdout, result.stderr, result.exit) == ("hello\n", "ä☃\n", 0)
    assert (result.files, result.timed_out, result.truncated, result.ended, result.level) == (
        {},
        False,
        False,
        "",
        BEST,
    )


def test_an_uncaught_exception_prints_its_traceback_and_exits_with_1(box: Sandbox) -> None:
    result = box.run("print('so far')\ndef f(x):\n    return 1 / x\nf(0)")
    assert (result.stdout, result.exit) == ("so far\n", 1)
    assert result.stderr.splitlines()[:3] == [
        "Traceback (most recent call last):",
        '  File "main.py", line 4, in <module>',
        "    f(0)",
    ]
    assert result.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "lanbot" not in result.stderr


@pytest.mark.parametrize(
    ("code", "exit", "stderr"),
    [
        ("class A:\n    __str__ = None\nraise SystemExit(A())", 1, ""),
        ("import sys; sys.stderr.close(); sys.exit('no')", 1, ""),
        ("raise SystemExit", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("quit(4)", 4, ""),
        ("exit()\n1 / 0", 0, ""),
        ("exit_words = 'no'; raise SystemExit(exit_words)", 1, "no\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        ("import atexit; atexit.register(lambda: print('bye', flush=True)); raise SystemExit(2)", 2, ""),
    ],
)
def test_exit_codes(box: Sandbox, code: str, exit: int, stderr: str) -> None:
    result = box.run(code)
    assert (result.exit, result.stderr, result.ended) == (exit, stderr, "")
    assert result.stdout == ("bye\n" if "bye" in code else "")


def test_a_syntax_error_is_reported(box: Sandbox) -> None:
    assert "SyntaxError" in box.run("def f(:").stderr
    assert box.run("\0").exit == 1
    assert box.run("x = '\ud800'").exit == 1
    assert box.run("").exit == 0


def test_stdin_is_read_by_every_api(box: Sandbox) -> None:
    assert box.run("print(input() + input())", stdin="a\nb\n").stdout == "ab\n"
    assert box.run("print(open(0).read())", stdin="a\nb").stdout == "a\nb\n"
    assert box.run("import sys; print(len(sys.stdin.buffer.read()))", stdin=bytes(3_000_000)).stdout == "3000000\n"
    assert "EOFError" in box.run("input()").stderr


def test_files_are_read_and_imported(box: Sandbox) -> None:
    files = {"data/table.csv": "a,b\n1,2\n", "helper.py": "def double(x): return 2 * x", "raw": b"\xff\x00"}
    code = "import helper\nprint(open('data/table.csv').read(), helper.double(4), open('raw', 'rb').read())"
    result = box.run(code, files=files)
    assert (result.stdout, result.files) == ("a,b\n1,2\n 8 b'\\xff\\x00'\n", {})
    assert box.run("import os; print(os.listdir('.'))").stdout == "[]\n"


@needs_writing
def test_new_and_changed_files_come_back(box: Sandbox) -> None:
    code = """
import os
os.makedirs('out/deep')
open('out/deep/new.txt', 'w').write('new')
open('changed', 'a').write('!')
open('empty', 'w').close()
os.symlink('/etc/passwd', 'link')
os.unlink('gone')
"""
    result = box.run(code, files={"changed": "yes", "same": "same", "gone": "x"})
    assert result.files == {"out/deep/new.txt": b"new", "changed": b"yes!", "empty": b""}
    assert not result.truncated


@needs_writing
@pytest.mark.parametrize(
    "code",
    ["os.chmod('.', 0)", "os.utime('.', (5, 5))", "for _ in range(9): open('x', 'w').close(); os.unlink('x')"],
)
def test_changes_of_an_empty_folder_do_not_reach_the_next_run(box: Sandbox, code: str) -> None:
    look = """
import os
open('y', 'w').close()
print(os.stat('.').st_mode, os.stat('.').st_mtime > 5, os.stat('y').st_ino)
"""
    before = box.run(look)
    assert box.run(f"import os\n{code}").exit == 0
    assert (before.exit, box.run(look).stdout) == (0, before.stdout)


@needs_writing
def test_files_beyond_the_limits_are_dropped_and_reported(box: Sandbox) -> None:
    many = box.run("for i in range(100): open(f'{i:03}', 'w').write('x')")
    assert (len(many.files), many.truncated) == (64, True)
    large = box.run("open('big', 'wb').write(bytes(20 << 20)); open('small', 'w').write('x')")
    assert (large.files, large.truncated) == ({"small": b"x"}, True)


def test_a_read_only_run_returns_no_files() -> None:
    if not canary.check(launch.LOCKED).holds:
        pytest.skip(canary.check(launch.LOCKED).why)
    with Sandbox(1, launch.LOCKED) as box:
        result = box.run("print(open('in').read())\nopen('out', 'w')", files={"in": "given"})
        assert (result.stdout, result.files) == ("given\n", {})
        assert "PermissionError" in result.stderr
        first = box.run("print(open('in').read())", files={"in": "first"}, session="a")
        again = box.run("print(open('in').read())", files={"in": "again"}, session="a")
        assert (first.stdout, again.stdout) == ("first\n", "again\n")


@pytest.mark.parametrize(
    "name", ["/etc/x", "../x", "a/../../x", "a//b", "", ".", "a/", "a\0b", "\udcff", "x/" * 600 + "x", "ä" * 128]
)
def test_names_outside_the_folder_are_refused(box: Sandbox, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        box.run("", files={name: b""})


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"code": b"1"}, TypeError),
        ({"stdin": 5}, TypeError),
        ({"stdin": None}, TypeError),
        ({"files": {"a": 5}}, TypeError),
        ({"files": {"a": "", "a/b": ""}}, ValueError),
        ({"files": {"a/b/c": "", "a/b": ""}}, ValueError),
        ({"files": {"a": bytes(40 << 20), "b": bytes(40 << 20)}}, ValueError),
        ({"stdin": bytes((64 << 20) + 1)}, ValueError),
        ({"functions": {"a b": print}}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": float("inf")}, ValueError),
        ({"memory": 0}, ValueError),
        ({"memory": -1}, ValueError),
        ({"memory": 1 << 60}, ValueError),
    ],
)
def test_invalid_requests_are_refused_and_cost_no_worker(
    box: Sandbox, wrong: dict[str, object], error: type[Exception]
) -> None:
    box.run("1")
    before = list(box.idle)
    with pytest.raises(error):
        box.run(**{"code": "print(1)", **wrong})  # type: ignore[arg-type]
    assert box.idle == before
    assert all(worker.alive() for worker in before)


def test_files_can_be_read_whatever_the_umask() -> None:
    if not canary.check(launch.LOCKED).holds:
        pytest.skip(canary.check(launch.LOCKED).why)
    before = os.umask(0o077)
    try:
        with Sandbox(1, launch.LOCKED) as box:
            worker = box.take()
            files.write(worker.folder, {"a/b": b"1"})
            paths = [Path(worker.folder, name) for name in ("a", "a/b")]
            assert [path.stat().st_mode & 0o777 for path in paths] == [0o755, 0o644]
            box.give_back(worker)
            assert box.run("print(open('a/b').read())", files={"a/b": "2"}).stdout == "2\n"
    finally:
        os.umask(before)


def test_limits_leave_room_for_every_core(box: Sandbox) -> None:
    code = "from resource import *\nprint(getrlimit(RLIMIT_CPU)[0], getrlimit(RLIMIT_NPROC)[0])"
    cores = os.cpu_count() or 1
    seconds, threads = map(int, box.run(code, timeout=9.5).stdout.split())
    assert seconds >= 9.5 * cores  # a program that keeps them all busy has its whole timeout
    assert threads >= 64 * cores  # with as many workers as cores


def test_no_packages_of_a_virtual_environment_can_be_read() -> None:
    packages = Path(pytest.__file__).parents[1].resolve()
    if Path(sys.prefix) == Path(sys.base_prefix) or not packages.is_relative_to(Path(sys.prefix).resolve()):
        pytest.skip("not in a virtual environment")
    assert not [path for path in launch.readable() if packages.is_relative_to(path)]


def test_functions_are_calls_to_the_host(box: Sandbox) -> None:
    seen = []

    def record(*args: object, **kwargs: object) -> object:
        seen.append((args, kwargs, threading.current_thread()))
        return {"list": [1, None, 2.5, "ä"], "true": True}

    result = box.run("print(record('a', [1, (2, 3)], k={'x': None}))", functions={"record": record})
    assert result.stdout == "{'list': [1, None, 2.5, 'ä'], 'true': True}\n"
    assert seen == [(("a", [1, [2, 3]]), {"k": {"x": None}}, threading.current_thread())]


def test_exceptions_of_functions_arrive_as_text(box: Sandbox) -> None:
    def fails(kind: str) -> object:
        if kind == "raise":
            raise KeyError("no such thing")
        return {kind}

    code = """
for kind in ('raise', 'set'):
    try: fails(kind)
    except RuntimeError as error: print(error)
try: fails({1})
except TypeError: print('not plain')
try: fails()
except RuntimeError as error: print('missing' in str(error))
try: fails('x' * (1 << 20))
except ValueError as error: print('at most' in str(error))
"""
    assert box.run(code, functions={"fails": fails}).stdout.splitlines() == [
        "'no such thing'",
        "Object of type set is not JSON serializable",
        "not plain",
        "True",
        "True",
    ]


def test_calls_that_come_together_are_answered_in_turn(box: Sandbox) -> None:
    code = """
import json, os, struct
data = [json.dumps({'call': 'f', 'args': [i], 'kwargs': {}}).encode() for i in range(3)]
os.write(3, b''.join(struct.pack('>I', len(one)) + one for one in data))
print([json.loads(os.read(3, struct.unpack('>I', os.read(3, 4))[0])) for _ in range(3)])
"""
    result = box.run(code, functions={"f": lambda x: x + 1})
    assert result.stdout == "[{'value': 1}, {'value': 2}, {'value': 3}]\n"


def test_calls_are_bounded_and_their_time_does_not_count(box: Sandbox) -> None:
    code = f"for _ in range({MOST_CALLS}): f()\nprint('all')"
    assert box.run(code, functions={"f": lambda: None}).stdout == "all\n"
    slow = box.run("f(); print('done')", functions={"f": lambda: time.sleep(0.6)}, timeout=0.5)
    assert (slow.stdout, slow.timed_out) == ("done\n", False)


def test_an_exception_that_is_not_for_the_sandbox_reaches_the_caller(box: Sandbox) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        box.run("f()", functions={"f": interrupted})
    assert box.run("print(1)").stdout == "1\n"


def test_output_before_a_timeout_is_returned(box: Sandbox) -> None:
    result = box.run("print('begun')\nwhile True: pass", timeout=0.2)
    assert (result.stdout, result.timed_out, result.exit, result.ended) == ("begun\n", True, -9, "timeout")


def test_long_output_is_cut_and_the_program_ends(box: Sandbox) -> None:
    result = box.run("for _ in range(3000): print('x' * 1000)\nraise SystemExit(4)")
    assert (len(result.stdout), result.truncated, result.exit, result.ended) == (MOST_OUTPUT, True, 4, "")


def test_memory_is_bounded_as_asked(box: Sandbox) -> None:
    code = "x = bytearray(300 << 20); print('fits')"
    assert box.run(code, memory=600).stdout == "fits\n"
    assert "MemoryError" in box.run(code, memory=250).stderr


def test_a_session_keeps_its_state(box: Sandbox) -> None:
    assert box.run("x = 20\ndef f(y): return x + y", session="s").exit == 0
    failed = box.run("x = 40\n1 / 0", session="s")
    assert (failed.exit, failed.stderr.splitlines()[1]) == (1, '  File "run2.py", line 2, in <module>')
    assert box.run("print(f(2), input())\nraise SystemExit(5)", session="s", stdin="in").stdout == "42 in\n"
    again = box.run("print(f(3), g(1))", session="s", functions={"g": lambda x: x + 1})
    assert (again.stdout, again.exit) == ("43 2\n", 0)
    assert "NameError" in box.run("x", session="t").stderr
    assert "NameError" in box.run("x").stderr
    box.close_session("s")
    assert "NameError" in box.run("x", session="s").stderr
    for name in ("s", "t"):
        box.close_session(name)
    assert not box.sessions


def test_a_session_whose_run_is_killed_restarts(box: Sandbox) -> None:
    box.run("x = 1", session="s")
    assert box.run("while True: pass", session="s", timeout=0.2).timed_out
    assert "NameError" in box.run("x", session="s").stderr
    assert box.run("import os; os._exit(9)", session="s").exit == 9
    assert box.run("import sys\nclass A: flush = None\nsys.stdout, y = A(), 2", session="s").exit == 0
    assert box.run("print(y, file=sys.stderr)", session="s").stderr == "2\n"
    box.close_session("s")
    assert box.run("print('new')", session="s").stdout == "new\n"
    box.close_session("s")


def test_a_run_waiting_for_a_session_that_ended_restarts_it(box: Sandbox) -> None:
    begun, results = threading.Event(), {}

    def first() -> None:
        results[0] = box.run("f()\nwhile True: pass", session="s", timeout=0.3, functions={"f": begun.set})

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait()
    assert box.run("x = 1", session="s").ended == ""
    thread.join()
    assert (results[0].ended, box.run("print(x)", session="s").stdout) == ("timeout", "1\n")
    box.close_session("s")


@needs_writing
def test_a_session_keeps_its_files_and_gives_each_change_once(box: Sandbox) -> None:
    assert box.run("open('a', 'w').write('1')", session="s").files == {"a": b"1"}
    assert box.run("print(open('a').read(), open('b').read())", session="s", files={"b": "2"}).files == {}
    assert box.run("open('a', 'a').write('+')", session="s").files == {"a": b"1+"}
    box.close_session("s")


def test_threads_of_a_session_are_stopped_between_runs(box: Sandbox) -> None:
    count = "import threading, time\nn = 0\ndef go():\n    global n\n    while True: n += 1; time.sleep(0.001)\n"
    box.run(count + "threading.Thread(target=go, daemon=True).start(); time.sleep(0.05)", session="s")
    first = int(box.run("print(n)", session="s").stdout)
    time.sleep(0.3)
    assert int(box.run("print(n)", session="s").stdout) - first < 100
    box.close_session("s")


def test_the_oldest_session_is_closed_when_there_are_too_many(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MOST_SESSIONS", 2)
    for name in ("a", "b", "a", "c"):
        box.run(f"{name} = 1", session=name)
    assert list(box.sessions) == ["a", "c"]
    for name in ("a", "c"):
        box.close_session(name)


def test_a_session_that_waits_for_another_is_not_closed_for_it(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MOST_SESSIONS", 1)
    outputs, own = [], Sandbox(1, box.level)

    def ask() -> str:
        return own.run("print('inner', end='')", session="b").stdout

    def outer() -> None:
        outputs.append(own.run("print(f())", session="a", functions={"f": ask}).stdout)

    thread = threading.Thread(target=outer, daemon=True)  # a hang is to fail, not to last
    thread.start()
    thread.join(60)
    assert outputs == ["inner\n"]
    own.close()


def test_asyncio_threads_and_common_modules_work(box: Sandbox) -> None:
    code = """
import asyncio, concurrent.futures, decimal, hashlib, sqlite3, unittest, zoneinfo
async def f(): await asyncio.sleep(0); return 1
pool = concurrent.futures.ThreadPoolExecutor(2)
print(asyncio.run(f()), list(pool.map(abs, [-1, -2])), hashlib.sha256(b'').hexdigest()[:4])
print(sqlite3.connect(':memory:').execute('select 2').fetchone())
"""
    result = box.run(code)
    assert (result.stdout, result.stderr) == ("1 [1, 2] e3b0\n(2,)\n", "")


def test_sets_of_strings_have_one_order_in_all_runs(box: Sandbox) -> None:
    code = "print(list({str(i) for i in range(50)}))"
    assert len({result.stdout for result in box.map([code] * 6)}) == 1


def test_many_programs_come_back_in_their_order(box: Sandbox) -> None:
    results = list(box.map([f"import time; time.sleep({0.02 * (i % 3)}); print({i})" for i in range(30)], timeout=5))
    assert [result.stdout for result in results] == [f"{i}\n" for i in range(30)]
    assert len(box.idle) <= box.workers


def test_abandoned_programs_are_not_started(box: Sandbox) -> None:
    begun, gate = [], threading.Event()

    def begin(number: int) -> None:
        begun.append(number)
        if number:
            gate.wait()

    results = box.map([f"f({i})" for i in range(20)], functions={"f": begin})
    next(results)
    threading.Timer(0.5, gate.set).start()
    results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 1 + box.workers


def test_a_worker_that_dies_is_replaced(box: Sandbox) -> None:
    box.run("1")
    for worker in box.idle:
        worker.zygote.kill()
        worker.zygote.wait()
    assert box.run("print('again')").stdout == "again\n"


def test_a_worker_that_dies_in_a_run_is_reported(box: Sandbox) -> None:
    def kill() -> None:
        [worker] = [one for one in seen if one.process]
        worker.zygote.kill()

    box.run("1")
    seen = list(box.idle)
    result = box.run("f()\nwhile True: pass", functions={"f": kill})
    assert (result.exit, result.ended) == (-9, "lost")
    assert box.run("print('again')").stdout == "again\n"


def test_a_forked_host_has_workers_of_its_own(box: Sandbox) -> None:
    box.run("1")
    if not (pid := os.fork()):
        right = False
        try:
            right = box.run("print('child')").stdout == "child\n"
            for worker in box.idle:
                worker.close()
        finally:
            os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert box.run("print('parent')").stdout == "parent\n"


def test_a_host_that_forks_while_it_starts_a_run_and_closes_before_its_child(box: Sandbox) -> None:
    with Sandbox(1, box.level) as own:
        own.run("1")
        [worker] = own.idle
        held, released = threading.Event(), threading.Event()

        def hold() -> None:
            with own.lock:
                held.set()
                released.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(60)
        read_end, write_end = os.pipe()
        if not (pid := os.fork()):
            signal.alarm(60)  # a hang is to fail, not to last
            os._exit(0 if own.run("print('child')").stdout == "child\n" and os.read(read_end, 1) else 1)
        released.set()
        thread.join()
        own.close()
        assert worker.zygote.returncode == 0  # it exited by itself, although the child has its socket too
        os.write(write_end, b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.close(read_end)
        os.close(write_end)


def test_the_canary_detects_leaks() -> None:
    """Level 4 protects nothing, so the canary must report every attack."""
    worker = Worker(launch.OPEN)
    try:
        through, tried = canary.attack(worker)
    finally:
        worker.close()
    assert {"a process forked", "a program started", "a socket", "a file read", "a file written"} <= set(through)
    assert "another process" in through
    assert "what must work" not in through
    assert tried > len(through)


def test_nothing_runs_without_a_level_that_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "check", lambda level: Verdict(level, level == launch.OPEN, "got through: a socket"))
    with pytest.raises(UserError, match=r"no sandbox holds .*got through: a socket") as refusal:
        Sandbox()
    assert "--unsafe-exec" in refusal.value.remedy
    with pytest.raises(UserError, match="level 1"):
        Sandbox(level=1)
    with pytest.raises(UserError, match="level 4"):
        Sandbox(level=launch.OPEN)
    assert sandbox.doctor().startswith("sandbox: none; code that a model wrote is not run\n  not level 1")
    with Sandbox(unsafe=True) as box:
        result = box.run("open('out', 'w').write('x'); print(1)")
        assert (result.stdout, result.files, result.level) == ("1\n", {"out": b"x"}, launch.OPEN)
    assert sandbox.choose(unsafe=True).level == launch.OPEN


def test_a_level_that_holds_is_used_even_if_the_unsafe_one_is_allowed() -> None:
    if BEST is None:
        pytest.skip("no level holds here")
    assert sandbox.choose(unsafe=True).level == BEST
    assert sandbox.doctor().startswith(f"sandbox: level {BEST} (")


def test_the_module_runs_in_a_sandbox_of_the_process() -> None:
    if BEST is None:
        pytest.skip("no level holds here")
    assert sandbox.run("print(input())", stdin="x", timeout=5).stdout == "x\n"
    assert sandbox.shared() is sandbox.shared()
    sandbox.shared().close()
    with pytest.raises(RuntimeError, match="closed"):
        sandbox._shared.run("1")  # type: ignore[union-attr]
    assert sandbox.run("print(2)").stdout == "2\n"
    sandbox.shared().close()
