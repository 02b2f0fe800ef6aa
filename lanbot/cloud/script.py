"""What a rented machine is told: the job, and the start-up script that installs LanBot and runs the job."""

import json
import re
import shlex
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path

from lanbot.config.recipe import Recipe
from lanbot.core.errors import UserError

PASSED = (
    *("HF_TOKEN", "HF_ENDPOINT", "WANDB_API_KEY"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"),
    *("LANBOT_MIRROR", "LANBOT_CACHE", "LANBOT_OFFLINE", "OMP_NUM_THREADS"),
)
"""The instance's environment variables that the job gets. They are never part of the script or of job.json."""


@dataclass(frozen=True)
class Job:
    run: str
    """The run's name; in the store it is runs/RUN."""
    recipe: str
    """The recipe's TOML text."""
    phases: str
    """As `lanbot run --phase`: sft+rl, or all."""
    store: str
    """Where results go, and where a lost run is continued from: see stores.open_store."""
    source: str = ""
    """The model to begin from, unless the recipe says it: hf:OWNER/NAME#mid/813, or #mid of the store itself; a tree of
    nanochat's checkpoints or a run. The jsonl files at its top are fetched too."""
    gpus: int = 1
    package: str = "lanbot"
    """What pip installs: a requirement, a git URL or a path."""
    data: dict[str, str] = field(default_factory=dict)
    """Further files: the path that the recipe names (jsonl:PATH), and the name in the store."""
    deadline: str = ""
    """RFC 3339: when the machine is deleted. The node stops earlier and saves."""
    push_seconds: float = 0.0
    """Between two pushes; 0: as the store can bear it."""
    overrides: list[str] = field(default_factory=list)
    """Further arguments of `lanbot run`."""

    def __post_init__(self) -> None:
        """Raises UserError."""
        try:
            Recipe(name=self.run)
        except ValueError:
            remedy = "At most 100 letters, digits, '-', '_' and '.'."
            raise UserError(f"run = {self.run!r:.100}: it cannot name a folder", remedy) from None
        for path in self.data:
            if Path(path).is_absolute() or ".." in Path(path).parts:
                raise UserError(f"data: {path!r:.100} leaves the job's folder", "Name it as the recipe does.")
        if self.deadline:
            self.ends()

    def ends(self) -> float:
        """The deadline in seconds since 1970; infinity if there is none. Raises UserError."""
        if not self.deadline:
            return float("inf")
        try:
            when = datetime.fromisoformat(self.deadline)
        except ValueError:
            when = datetime.min
        if when.tzinfo is None:
            raise UserError(f"deadline = {self.deadline!r}: not a time with a zone", "Write 2026-01-31T12:00:00Z.")
        return when.timestamp()

    def json(self) -> str:
        """On one line."""
        return json.dumps(asdict(self))


def load_job(path: Path) -> Job:
    """Raises UserError for a file that is not a job."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        unknown = values.keys() - {key.name for key in fields(Job)}
        if unknown:
            raise TypeError(f"it has {', '.join(sorted(unknown))}")
        return Job(**values)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a job ({error})", "lanbot cloud launch writes it.") from None


def startup(job: Job) -> str:
    """The start-up script, for bash. It prints no value of a variable and holds no secret."""
    s3 = any(place.startswith("s3:") for place in (job.store, job.source))
    packages = [job.package, *(["boto3"] if s3 else [])]
    values = {"JOB": job.json(), "PACKAGES": shlex.join(packages), "PASSED": " ".join(PASSED)}
    return re.sub("@(JOB|PACKAGES|PASSED)@", lambda mark: values[mark[1]], _SCRIPT)


_SCRIPT = r"""#!/bin/bash
# Installs LanBot and runs a job, again after each boot until it is done.
set -euo pipefail
umask 077
root="${LANBOT_NODE_ROOT:-${HOME:-/root}/lanbot}"
mkdir -p "$root"
cd "$root"
if [ "${PET_NNODES:-1}" -gt 1 ] && [ "${LANBOT_NODE_RANK:-0}" != 0 ]; then  # beside the files of the first host
  mkdir -p "host$LANBOT_NODE_RANK"
  ln -sfn ../venv "host$LANBOT_NODE_RANK/venv"
  cd "host$LANBOT_NODE_RANK"
fi
exec > >(tee -a setup.log) 2>&1

for name in @PASSED@; do
  if [ -n "${!name:-}" ]; then declare -p "$name"; fi
done > ./env

again() { for wait in 5 30 60 120 0; do if "$@"; then return; fi; sleep "$wait"; done; return 1; }
new_enough() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; }

install() {
  if ! new_enough python3 && [ "$(id -u)" = 0 ]; then
    apt-get update -q && apt-get install -q -y python3-venv
  fi
  if new_enough python3; then
    python3 -m venv venv
  else
    python3 -m venv uv
    uv/bin/python -m pip install -q uv
    UV_PYTHON_INSTALL_DIR="$root/python" uv/bin/uv venv -q --clear --seed --python 3.12 venv
  fi
  venv/bin/python -m pip install -q @PACKAGES@
}
(
  cd "$root"
  flock 9 || echo "no lock: is another host installing here?"
  if ! venv/bin/python -c 'import lanbot.cloud.node' 2> /dev/null; then
    echo "installing LanBot"
    again install
  fi
) 9> "$root/install.lock"

cat > job.json << 'END_OF_JOB'
@JOB@
END_OF_JOB

cat > start << 'END_OF_START'
#!/bin/bash
# Runs the job; again if it is killed. 0: done. 1: failed, see failed.json. 143: stopped.
cd "$(dirname "$0")" && . ./env
trap 'kill -TERM "$node" 2> /dev/null' TERM INT
while :; do
  venv/bin/python -m lanbot.cloud.node job.json &
  node=$!
  while :; do
    wait "$node"
    code=$?
    kill -0 "$node" 2> /dev/null || break
  done
  case $code in 0 | 1 | 143) exit "$code" ;; esac
  echo "the job ended with $code: starting it again"
  sleep 10
done
END_OF_START

if [ -z "${LANBOT_NODE_ROOT:-}" ] && [ "$(id -u)" = 0 ] && [ -d /run/systemd/system ]; then
  cat > /etc/systemd/system/lanbot-node.service << END_OF_UNIT
[Unit]
Description=LanBot training
Wants=network-online.target
After=network-online.target
[Service]
ExecStart=/bin/bash "$root/start"
KillMode=mixed
TimeoutStopSec=900
[Install]
WantedBy=multi-user.target
END_OF_UNIT
  systemctl daemon-reload
  systemctl enable --now lanbot-node
  echo "started: journalctl -u lanbot-node -f"
else
  exec /bin/bash start
fi
"""
