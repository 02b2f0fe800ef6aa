"""Machines one already has, by ssh: the script runs there under nohup, and on several hosts torchrun joins them."""

import re
import shlex
import subprocess
from collections.abc import Sequence
from typing import Any

from lanbot.cloud.providers.base import Instance, Launch, Offer, RefusedError, Status, Unsettled, hidden, ssh_command
from lanbot.cloud.records import now
from lanbot.core.console import visible
from lanbot.core.errors import UserError

TIMEOUT = 60.0
PORT = 29_400
REACH = "Check that `ssh HOST` works without a password."
FOLDER = ".lanbot"
"""In the home of the user there; one folder below it for each launch, which several hosts share."""
STATES: dict[str, Status] = {"running": "active", "stopping": "deleting", "0": "deleted"}
"""The others are exit codes, or "killed"."""
LIST = f"""cd {FOLDER} 2>/dev/null || exit 0
for d in */; do
  n=${{d%/}}
  p=$(cat "$n/pid.@RANK@" 2>/dev/null) || continue
  if kill -s 0 -- "-$p" 2>/dev/null; then
    if [ -e "$n/stopping.@RANK@" ]; then echo "$n stopping"; else echo "$n running"; fi
  else echo "$n $(cat "$n/code.@RANK@" 2>/dev/null || echo killed)"; fi
done"""
STOP = f"""cd {FOLDER}/@NAME@ 2>/dev/null || exit 0
p=$(cat pid.@RANK@ 2>/dev/null) || exit 0
kill -s 0 -- "-$p" 2>/dev/null || exec rm -f pid.@RANK@ start.@RANK@.sh
[ -e stopping.@RANK@ ] || {{ : > stopping.@RANK@; kill -s TERM "$p" 2>/dev/null || kill -s TERM -- "-$p"; }}"""
"""timeout passes the signal on to its group. Asked again once all has ended, it removes the launch from the list."""
SEE = f"""for i in $(seq @TRIES@); do
  [ "$(cat {FOLDER}/@NAME@/shared 2>/dev/null)" = @NAME@ ] && exit 0
  sleep 1
done
exit 9"""
"""Looks for the file that the first host wrote."""
SEE_TRIES = 45
"""Seconds: a network file system may show a new file late."""


class SSH:
    name, market = "ssh", False

    def __init__(self, hosts: tuple[str, ...]) -> None:
        """hosts: user@host, or names of ~/.ssh/config; the first one is where ranks meet."""
        for host in hosts:
            if not re.fullmatch(r"[\w.@:%-]+", host) or host.startswith("-"):
                raise UserError(f"--host {host!r}: not a host", "Write user@host.")
        self.hosts = hosts

    def offers(self) -> Sequence[Offer]:
        return []

    def preview(self, launch: Launch) -> str:
        lines = [f"ssh {host} < start.sh" for host in self.hosts]
        return "\n".join([*lines, *(f"{name}={value}" for name, value in hidden(launch.envs).items())])

    def create(self, launch: Launch) -> str:
        """Starts the script on every host; what a host already runs is not touched."""
        seconds = max(1, int((launch.date_cap - now()).total_seconds()))
        self._check_shared(launch.name)
        for rank, host in enumerate(self.hosts):
            folder, file = f"{FOLDER}/{launch.name}", f"start.{rank}.sh"
            # all in one process group, that of timeout; the script deletes itself, so that no secret stays on the host
            start = f"nohup setsid timeout -k 900 {seconds} bash -c 'bash {file}; echo $? > code.{rank}'"
            start = f"{start} > log.{rank} 2>&1 < /dev/null & echo $! > pid.{rank}"
            command = f"umask 077; mkdir -p {folder} && cd {folder} && cat > {file} && {{ {start}; }}"
            envs = {**launch.envs, **self._rendezvous()}
            exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in envs.items())
            root = f'export LANBOT_NODE_ROOT="$PWD/node" LANBOT_NODE_RANK={rank}\n'
            done = self._run(host, command, f"rm -f {file}\n" + exports + root + launch.script)
            if done.returncode == 255 and rank == 0:
                raise RefusedError(f"{host}: {_said(done)}", REACH)
            if done.returncode:
                raise Unsettled(f"{host}: {_said(done)}")
        return launch.name

    def _check_shared(self, name: str) -> None:
        """Raises RefusedError, before anything is started, unless all hosts see the launch's folder of the first one:
        their ranks write the parts of one checkpoint."""
        if len(self.hosts) < 2:
            return
        first, *others = self.hosts
        done = self._run(first, f"umask 077; mkdir -p {FOLDER}/{name} && echo {name} > {FOLDER}/{name}/shared")
        if done.returncode:
            raise RefusedError(f"{first}: {_said(done)}", REACH)
        look = SEE.replace("@NAME@", name).replace("@TRIES@", str(SEE_TRIES))
        for host in others:
            done = self._run(host, look)
            if done.returncode:
                self._run(first, f"rm -r {FOLDER}/{name}")
            if done.returncode == 9:
                problem = f"{host} does not see ~/{FOLDER} of {first}, where all of them write one run"
                raise RefusedError(
                    problem, f"Put ~/{FOLDER} of every host on one file system (NFS), or name one --host."
                )
            if done.returncode:
                raise RefusedError(f"{host}: {_said(done)}", REACH)

    def _rendezvous(self) -> dict[str, str]:
        """Where the ranks meet (cloud/hosts.py)."""
        if len(self.hosts) < 2:
            return {}
        address = self.hosts[0].rpartition("@")[2]
        return {"PET_NNODES": str(len(self.hosts)), "PET_RDZV_ENDPOINT": f"{address}:{PORT}"}

    def info(self, id: str) -> Instance | None:
        return next((instance for instance in self.list() if instance.id == id), None)

    def list(self) -> Sequence[Instance]:
        """A launch is active while it runs on any host; with an error if it ended badly on one."""
        found: dict[str, dict[str, str]] = {}
        for rank, host in enumerate(self.hosts):
            done = self._run(host, LIST.replace("@RANK@", str(rank)))
            if done.returncode:
                raise UserError(f"{host}: cannot be asked ({_said(done)})", "Check that `ssh HOST` works.")
            for line in done.stdout.decode(errors="replace").splitlines():
                name, _, state = line.partition(" ")
                found.setdefault(name, {})[host] = state
        return [self._instance(name, states) for name, states in found.items()]

    def _instance(self, name: str, states: dict[str, str]) -> Instance:
        seen = [state for state in ("running", "stopping") if state in states.values()]
        bad = sorted(set(states.values()) - STATES.keys())
        status: Status = STATES[seen[0]] if seen else "error" if bad else "deleted"
        detail = seen[0] if seen else f"ended with {bad[0]}" if bad else "ended"
        user, _, address = self.hosts[0].rpartition("@")
        return Instance(name, name, status, ip=address, ssh_user=user, detail=detail, tags=("lanbot",))

    def delete(self, id: str) -> None:
        """Stops what runs, after it has saved, and removes the launch's mark; its files stay."""
        stop = STOP.replace("@NAME@", shlex.quote(id))
        for rank, host in enumerate(self.hosts):
            done = self._run(host, stop.replace("@RANK@", str(rank)))
            if done.returncode:
                raise UserError(f"{host}: not stopped ({_said(done)})", "Run the same command again.")

    def logs(self, instance: Instance, follow: bool) -> Sequence[str]:
        tail = f"tail -n 200{' -F' if follow else ''} {FOLDER}/{instance.name}/log.0"
        return [*self._command(self.hosts[0]), tail]

    def ssh(self, instance: Instance) -> Sequence[str]:
        return self._command(self.hosts[0])

    def _command(self, host: str) -> Sequence[str]:
        return ssh_command(host, host.rpartition("@")[2])

    def _run(self, host: str, command: str, given: str = "") -> "subprocess.CompletedProcess[bytes]":
        argv = [*self._command(host)[:-1], "-o", "BatchMode=yes", host, command]
        extra: dict[str, Any] = {"input": given.encode(), "capture_output": True, "timeout": TIMEOUT, "check": False}
        try:
            return subprocess.run(argv, **extra)
        except FileNotFoundError:
            raise UserError("no ssh here", "Install an ssh client.") from None
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(argv, 254, b"", b"no answer")


def _said(done: "subprocess.CompletedProcess[bytes]") -> str:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return visible(lines[-1])[:200] if lines else f"exit code {done.returncode}"
