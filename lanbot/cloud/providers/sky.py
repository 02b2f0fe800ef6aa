"""SkyPilot: a managed job on the clouds that it supports, several nodes and spot included.

SkyPilot runs in an environment of its own (its dependencies are not LanBot's): `sky` on PATH, or LANBOT_SKY. It
recovers a lost machine itself and ends the job's machines; it has no cap on spending, so the job is ended by time.
"""

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lanbot.cloud.providers.base import Instance, Launch, Offer, RefusedError, Status, Unsettled
from lanbot.core.console import visible
from lanbot.core.errors import UserError
from lanbot.core.files import write_atomic

TIMEOUT = 15 * 60.0
"""Seconds: the first managed job also starts SkyPilot's controller."""
STATUSES: dict[str, Status] = {
    **dict.fromkeys(("PENDING", "SUBMITTED", "STARTING", "RECOVERING"), "pending"),
    **{"RUNNING": "active", "CANCELLING": "deleting", "SUCCEEDED": "deleted", "CANCELLED": "deleted"},
}
"""The others begin with FAILED; their machines are gone."""
RENDEZVOUS = """export PET_NNODES="$SKYPILOT_NUM_NODES" LANBOT_NODE_RANK="$SKYPILOT_NODE_RANK"
export PET_RDZV_ENDPOINT="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):29400"
export LANBOT_NODE_ROOT="$HOME/lanbot"
if [ "$SKYPILOT_NUM_NODES" -gt 1 ]; then  # their ranks write the parts of one checkpoint
  mkdir -p "$LANBOT_NODE_ROOT"
  if [ "$SKYPILOT_NODE_RANK" = 0 ]; then echo "$SKYPILOT_TASK_ID" > "$LANBOT_NODE_ROOT/shared"; fi
  for wait in 5 10 30 60 120 0; do
    if [ "$(cat "$LANBOT_NODE_ROOT/shared" 2> /dev/null)" = "$SKYPILOT_TASK_ID" ]; then break; fi
    if [ "$wait" = 0 ]; then
      echo "this node does not see $LANBOT_NODE_ROOT of the first one, where all of them write one run:" \
        "put it on one file system, or launch without --num-nodes" >&2
      exit 1
    fi
    sleep "$wait"
  done
fi
"""


class Sky:
    name, market = "sky", False

    def __init__(self, folder: Path) -> None:
        """folder: where task files are written."""
        self.folder = folder

    def offers(self) -> Sequence[Offer]:
        return []  # SkyPilot chooses among the clouds itself

    def task(self, launch: Launch) -> dict[str, Any]:
        """The task. Secrets are named in it, and read by `sky` from its environment. Files go through the store."""
        offer = launch.offer
        place = {"infra": offer.cloud + (f"/{offer.region}" if offer.region else "")} if offer.cloud else {}
        instance = {"instance_type": offer.type} if offer.type else {}
        resources = {"accelerators": f"{offer.gpu}:{offer.count}", "use_spot": offer.spot, **place, **instance}
        # counted where it runs: a recovered job has only what is left
        left = f"left=$(({int(launch.date_cap.timestamp())} - $(date +%s)))\n[ $left -gt 0 ] || exit 1\n"
        wrapped = f"{left}exec timeout -k 900 $left bash -c {shlex.quote(launch.script)}\n"
        task = {"name": launch.name, "num_nodes": launch.nodes, "resources": resources, "run": RENDEZVOUS + wrapped}
        return task | ({"secrets": dict.fromkeys(launch.envs)} if launch.envs else {})

    def preview(self, launch: Launch) -> str:
        return json.dumps(self.task(launch), indent=2)

    def create(self, launch: Launch) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{launch.name}.yaml"
        write_atomic(path, self.preview(launch) + "\n")  # YAML holds all of JSON
        named = [word for name in launch.envs for word in ("--secret", name)]
        done = self._run(
            "jobs", "launch", "--yes", "--detach-run", "--name", launch.name, *named, str(path), **launch.envs
        )
        if done.returncode == 2:  # of its command line: nothing was sent
            raise RefusedError(f"sky: {_said(done)}", f"Is it SkyPilot 0.10 or newer? The task is {path}.")
        if done.returncode:
            raise Unsettled(f"sky: {_said(done)}")
        return launch.name

    def info(self, id: str) -> Instance | None:
        return next((instance for instance in self.list() if instance.id == id), None)

    def list(self) -> Sequence[Instance]:
        done = self._run("jobs", "queue", "--output", "json")
        try:
            if done.returncode:
                raise ValueError(_said(done))
            return [_instance(job) for job in json.loads(done.stdout)]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"sky: its jobs cannot be listed ({error})", "Try it by hand: sky jobs queue.") from None

    def delete(self, id: str) -> None:
        done = self._run("jobs", "cancel", "--yes", "--name", id)
        if done.returncode:
            raise UserError(f"sky: {id} not cancelled ({_said(done)})", f"Try it by hand: sky jobs cancel --name {id}.")

    def logs(self, instance: Instance, follow: bool) -> Sequence[str]:
        return [self._sky(), "jobs", "logs", "--name", instance.name, *([] if follow else ["--no-follow"])]

    def ssh(self, instance: Instance) -> Sequence[str]:
        raise UserError(f"{instance.name}: a managed job has no shell", "Read its log: lanbot cloud logs.")

    def _sky(self) -> str:
        return os.environ.get("LANBOT_SKY") or "sky"

    def _run(self, *arguments: str, **envs: str) -> "subprocess.CompletedProcess[str]":
        argv = [self._sky(), *arguments]
        try:
            return subprocess.run(
                argv,
                env={**os.environ, **envs},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        except OSError as error:
            remedy = "Install skypilot in an environment of its own, and set LANBOT_SKY to its bin/sky."
            raise UserError(f"{argv[0]}: cannot be run ({error.strerror})", remedy) from None
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(argv, 1, "", f"no answer in {TIMEOUT / 60:.0f} minutes")


def _instance(job: dict[str, Any]) -> Instance:
    """Only the newest job of a name is listed as such; names are unique here."""
    status = str(job["status"]).rpartition(".")[2]
    name = str(job["job_name"])
    submitted = job.get("submitted_at")
    created = datetime.fromtimestamp(submitted, UTC).isoformat() if isinstance(submitted, int | float) else ""
    known = STATUSES.get(status, "error" if status.startswith("FAILED") else "active")
    return Instance(name, name, known, created=created, detail=status.lower())


def _said(done: "subprocess.CompletedProcess[str]") -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return visible(lines[-1])[:200] if lines else f"exit code {done.returncode}"
