"""A provider whose machines are folders and whose start-up script really runs, until the machine is taken away."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


class Machine:
    """One that is rented: it has Python and LanBot, and nothing else."""

    def __init__(self, root: Path, script: str, envs: dict[str, str]) -> None:
        self.root = root
        root.mkdir(parents=True)
        (root / "venv").symlink_to(Path(sys.prefix))
        (root / "script").write_text(script)
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment = {**kept, "LANBOT_NODE_ROOT": str(root), "LANBOT_OFFLINE": "1", "OMP_NUM_THREADS": "1", **envs}
        with (root / "console").open("w") as console:
            self.process = subprocess.Popen(
                ["bash", str(root / "script")], env=environment, stdout=console, stderr=console, start_new_session=True
            )

    def console(self) -> str:
        return (self.root / "console").read_text()

    def vanish(self) -> None:
        """Everything on it is killed and gone at once."""
        found = [self.process.pid]
        for pid in found:  # and what these started
            os.kill(pid, signal.SIGSTOP)
            children = Path(f"/proc/{pid}/task/{pid}/children")
            found += [int(child) for child in children.read_text().split()] if children.exists() else []
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.root)


class Provider:
    def __init__(self, root: Path, envs: dict[str, str] | None = None) -> None:
        self.root, self.envs, self.machines = root, envs or {}, []  # type: ignore[var-annotated]
        self.on_gone: Callable[[Machine], None] = lambda machine: None

    def create(self, script: str) -> Machine:
        self.machines.append(Machine(self.root / f"machine{len(self.machines)}", script, self.envs))
        return self.machines[-1]  # type: ignore[no-any-return]

    def take_away(self, machine: Machine) -> None:
        machine.vanish()
        self.on_gone(machine)
