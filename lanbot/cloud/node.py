"""python -m lanbot.cloud.node JOB.json: runs a job on a rented machine, which may be lost at any time.

It fetches the inputs, runs `lanbot run` and starts it again if it dies, pushes checkpoints, metrics and logs to the
store as they appear, compares all of it at the end, and writes done.json or failed.json there. It does not delete the
machine: whoever launched it does, on reading either, so the provider's key never is on the machine.

In the store: runs/NAME/ as in LanBot's runs folder, and in runs/NAME/node/ status.json (every 30 seconds), train.log,
done.json or failed.json. Of several hosts in one folder only the first does all that, the others train when it does
(hosts.py); where one is lost for good, all end with 1 and without failed.json, and the job goes on in another launch.
Exit codes: 0 done; 1 failed; 143 stopped by a signal, saved and pushed. After any other the same command goes on.
"""

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lanbot.cloud.hosts import HostLost, Hosts, follow
from lanbot.cloud.inputs import fetch_inputs
from lanbot.cloud.processes import children, die_with_parent, kill_all
from lanbot.cloud.script import Job, load_job
from lanbot.cloud.stores import Store, open_store
from lanbot.cloud.sync import NODE, RunSync
from lanbot.config.run import LOCK
from lanbot.core.console import duration, say
from lanbot.core.errors import UserError

MARGIN = 600.0
"""Seconds before the deadline at which training is stopped, so that its last checkpoint can be pushed; at most a tenth
of the time that there was."""
GRACE = 300.0
"""Seconds that training has to save and end once it was told to, before it is killed; at most half of those left."""
CRASHES, ERRORS = 5, 2
"""Ends at the same step, by a signal and with an error, after which training is not started again."""
PAUSE, PAUSE_MOST = 5.0, 300.0
"""Seconds before the second start and before a second push; doubled with each further failure; the most."""
INPUTS = 900.0
"""Seconds after which inputs that cannot be fetched end the job."""
POLL = 0.5
TAIL = 40
"""Lines of the training's log that failed.json has."""


class GivenUp(Exception):  # noqa: N818
    """The job failed for good; the message says why."""


class Node:
    def __init__(self, job: Job, root: Path, store: Store | None = None) -> None:
        self.job, self.root, self.store = job, root, store or open_store(job.store)
        self.folder = root / "runs" / job.run
        self.hosts = Hosts(root)
        self.torchrun = job.gpus > 1 or self.hosts.count > 1
        self.log_file = root / (f"train.{self.hosts.rank}.log" if self.hosts.rank else "train.log")
        self.sync = RunSync(self.store, job.run, self.folder)
        self.every = job.push_seconds or self.store.every
        self.began, self.ends = time.time(), job.ends()
        self.stop_training_at = self.ends - min(MARGIN, 0.1 * max(0.0, self.ends - self.began))
        self.state, self.problem, self.restarts = "starting", "", 0
        self.stopped, self.killed = 0, False
        self.training: subprocess.Popen[bytes] | None = None
        self.log: deque[str] = deque(maxlen=TAIL)
        self.trained, self.over = threading.Event(), threading.Event()
        self.pushing, self.talking = threading.Lock(), threading.Lock()

    def run(self) -> int:
        """Runs the job to its end; the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signal)
        self.hosts.start()
        if self.hosts.rank:
            return follow(self.hosts, lambda more: self._once(self.command(more)), lambda: bool(self.stopped))
        code = self._lead()
        self.hosts.over(code)
        return code

    def _lead(self) -> int:
        threads = [threading.Thread(target=work, daemon=True) for work in (self._heartbeat, self._push_all_the_time)]
        threads[0].start()
        try:
            arguments = self._tried("the inputs", self.inputs, min(self.ends, self.began + INPUTS))
            threads[1].start()
            self._train(arguments)
            self.trained.set()
            self.state = "verifying"
            self._tried("the push", self._finish)
        except (GivenUp, UserError) as error:
            return self._failed(str(error))
        except HostLost as error:  # not failed for good: a launch on other hosts may go on
            return self._failed(str(error), "lost")
        except Exception as error:  # starting the node again would come to the same
            say(traceback.format_exc())
            return self._failed(f"{type(error).__name__}: {error}")
        return 0 if not self.stopped else 143

    def inputs(self) -> list[str]:
        self.state = "fetching"
        return fetch_inputs(self.job, self.root, self.store, self.sync)

    # -- training ------------------------------------------------------------------------------------------

    def command(self, arguments: list[str]) -> list[str]:
        lanbot = str(Path(sys.executable).with_name("lanbot"))
        many = ["-m", "torch.distributed.run", *self.hosts.meeting(), "--nproc-per-node", str(self.job.gpus)]
        recipe = self.root / "recipe.toml"
        if not self.hosts.rank:
            recipe.write_text(self.job.recipe, encoding="utf-8")
        start = [sys.executable, *many, "--no-python", lanbot] if self.torchrun else [lanbot]
        return [*start, "run", str(recipe), f"--name={self.job.run}", "--phase", self.job.phases, *self.job.overrides,
                *arguments]  # fmt: skip

    def _train(self, arguments: list[str]) -> None:
        """Until training is done, or stopped by a signal. Raises GivenUp."""
        place: Any = None
        failures = 0
        while not self.stopped:
            self._wait_for_lock()
            self.state = "joining"
            self.hosts.begin(arguments, lambda: bool(self.stopped))
            self.state = "training"
            code = self._once(self.command(arguments))
            if code == 0 or self.stopped:
                return
            if time.time() >= self.stop_training_at:
                hung = "training did not stop and was killed; what it had saved before is kept"
                raise GivenUp(
                    f"the deadline came before the end; {hung if self.killed else 'what was trained is saved'}"
                )
            now = self._place()
            failures, place = (failures + 1 if now == place else 1), now
            phase, step = now[:2]
            what = f"training ended with {code} at {phase or 'its start'}, step {step}"
            if code == 2 or failures >= (ERRORS if code > 0 else CRASHES):
                raise GivenUp(f"{what}, {failures} times there: it is not started again")
            self.restarts += 1
            pause = min(PAUSE_MOST, PAUSE * 2 ** (failures - 1))
            say(f"{what}; starting it again in {duration(pause)}")
            self.state = "restarting"
            self._sleep(pause)

    def _once(self, command: list[str]) -> int:
        """Runs training to its end, or stops it at the deadline; if it does not stop, kills it. Its exit code."""
        environment = {**os.environ, "LANBOT_RUNS": str(self.root / "runs"), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            command, cwd=self.root, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip
        self.training = process
        reader = threading.Thread(target=self._copy_log, args=(process,), daemon=True)
        reader.start()
        if self.stopped:  # a signal came while it was started
            self._stop_training()
        late, left, kill_at = False, False, math.inf
        while process.poll() is None:
            now = time.time()
            if not (left or late or self.stopped) and self.hosts.abandoned():
                left = True
                say("training has ended on another host: it is ended here")
                process.terminate()
            if not late and now >= self.stop_training_at:
                late = True
                say("the deadline is near: training is stopped and saved")
                self._stop_training()
            if kill_at == math.inf and (late or left or self.stopped):
                kill_at = now + min(GRACE, 0.5 * max(0.0, self.ends - now))
            if now >= kill_at:
                self.killed = True
                say("training does not stop: it is killed")
                kill_all(process.pid)
                with suppress(subprocess.TimeoutExpired):  # a process in the kernel cannot be waited for
                    process.wait(30)
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
        reader.join(10)
        self.training = None
        self.hosts.ended()
        return -signal.SIGKILL if process.returncode is None else process.returncode

    def _copy_log(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.decode(errors="replace").rstrip("\n")
            self.log.append(text)
            say(text)
            with suppress(OSError), self.log_file.open("ab") as file:  # the disk may be full
                file.write(line)

    def _signal(self, number: int, frame: Any) -> None:
        self.stopped = number
        self._stop_training()

    def _stop_training(self) -> None:
        """Sends SIGTERM to training itself: torchrun would kill its workers before they have saved."""
        if (process := self.training) and process.poll() is None:
            workers = children(process.pid) if self.torchrun else []
            for pid in workers or [process.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    def _wait_for_lock(self) -> None:
        """Until the training that an earlier, killed node started has ended."""
        if not (path := self.folder / LOCK).is_file():
            return
        with path.open() as file:
            while not self.stopped and time.time() < self.stop_training_at:
                with suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                time.sleep(POLL)

    def _place(self) -> tuple[Any, ...]:
        """Where training is: phase, step, and the micro-batch, which is halved where memory runs out."""
        last = self._last_metrics()
        lowered = [path.read_text("utf-8") for path in sorted(self.folder.glob("*/micro_tokens"))]
        return last.get("phase", ""), last.get("step", 0), lowered

    # -- the store -----------------------------------------------------------------------------------------

    def _tried(self, what: str, work: Callable[[], Any], until: float = math.inf) -> Any:
        """What `work` returns, tried until then or the deadline. Raises GivenUp, and UserError at once."""
        pause = PAUSE
        while True:
            try:
                with self.pushing:
                    result = work()
                self.problem = ""
                return result
            except (UserError, GivenUp):
                raise
            except Exception as error:  # every client has its own
                self.problem = f"{what}: {type(error).__name__}: {error}".splitlines()[0]
                if time.time() + pause >= min(until, self.ends) or (
                    self.stopped and self.state in ("starting", "fetching")
                ):
                    raise GivenUp(self.problem) from None
                say(f"{self.problem}; trying again in {duration(pause)}")
            time.sleep(pause)
            pause = min(PAUSE_MOST, 2 * pause)

    def _push_all_the_time(self) -> None:
        """Training goes on if this fails; the next pass tries again."""
        while not self.trained.wait(self.every):
            with self.pushing:
                try:
                    self._push()
                    self.problem = ""
                except Exception as error:
                    self.problem = f"push: {type(error).__name__}: {error}".splitlines()[0]
                    say(self.problem)

    def _push(self) -> bool:
        extra = {}
        if not self.folder.is_dir():  # training has not begun
            return True
        for log in self.root.glob("train*.log"):  # of all hosts
            extra[f"{NODE}{log.name}"] = log.read_bytes()
        return self.sync.push(extra)

    def _finish(self) -> None:
        """Pushes the rest, compares everything, and says so."""
        if not self._push():
            raise OSError("a checkpoint went away while it was pushed")
        if problems := self.sync.verify():
            raise OSError(problems[0])
        self.problem, self.state = "", "stopped" if self.stopped else "done"
        self._last_words({} if self.stopped else {"done.json": {"files": self.sync.pushed}})

    def _failed(self, why: str, state: str = "failed") -> int:
        self.state = state
        self.trained.set()
        say(why)

        def push() -> None:
            self._push()
            self._last_words({"failed.json": {"reason": why, "log": list(self.log)}} if state == "failed" else {})

        with suppress(GivenUp, UserError):
            self._tried("the push", push)
        return 143 if self.stopped else 1

    def _heartbeat(self) -> None:
        while not self.over.wait(self.every):
            with suppress(Exception), self.talking:
                if not self.over.is_set():
                    self._say({"status.json": {}})

    def _last_words(self, files: dict[str, dict[str, Any]]) -> None:
        with self.talking:
            self.over.set()
            self._say({**files, "status.json": {}})

    def _say(self, files: dict[str, dict[str, Any]]) -> None:
        """Writes JSON files to the store: the status and what is given."""
        for name, more in files.items():
            text = json.dumps({**self._status(), **more}, indent=1) + "\n"
            self.store.push({f"{self.sync.prefix}{NODE}{name}": text.encode()})

    def _status(self) -> dict[str, Any]:
        """What `lanbot cloud status` shows."""
        last = self._last_metrics()
        progress, seconds = last.get("progress"), last.get("seconds")
        left = round(seconds / progress * (1 - progress)) if progress and seconds else None
        return {
            "run": self.job.run,
            "phases": self.job.phases,
            "state": self.state,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self.began),
            "phase": last.get("phase"),
            "step": last.get("step"),
            "progress": progress,
            "loss": last.get("loss"),
            "tokens_per_second": last.get("tokens_per_second"),
            "phase_seconds_left": left,
            "pushed": self.sync.checkpoints(),
            "restarts": self.restarts,
            "problem": self.problem,
        }

    def _last_metrics(self) -> dict[str, Any]:
        """The last step's line of the phase that wrote last, with its name; {} before the first step."""
        with suppress(OSError, ValueError):
            path = max(self.folder.glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - 65_536))
                lines = file.read().split(b"\n")[:-1]  # the last one may be half written
            for line in reversed(lines):
                if b'"loss"' in line:
                    return {"phase": path.parent.name, **json.loads(line)}
        return {}

    def _sleep(self, seconds: float) -> None:
        end = time.time() + seconds
        while not self.stopped and time.time() < min(end, self.stop_training_at):
            time.sleep(min(POLL, seconds))


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m lanbot.cloud.node JOB.json")
    path = Path(sys.argv[1]).absolute()
    try:
        # a host that is not the first has a folder of its own for its job.json, beside what all of them share
        root = Path(os.environ["LANBOT_NODE_ROOT"]) if Hosts(path.parent).rank else path.parent
        sys.exit(Node(load_job(path), root).run())
    except UserError as error:
        say(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
