"""What was launched, in LANBOT_RUNS/.cloud/RUN.json: written before a machine is asked for, so none is forgotten."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lanbot.cloud.providers.base import Instance, Offer
from lanbot.core.errors import UserError
from lanbot.core.files import write_atomic

GONE = "gone"


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Node:
    """One machine: asked for, perhaps made, perhaps gone again."""

    name: str
    offer: Offer
    spend_cap: float
    requested: str
    id: str = ""
    state: str = "requested"
    """requested (no answer yet), the instance's status, or gone."""
    detail: str = ""
    spent: float = 0.0
    seen: str = ""
    """When the provider last showed it."""
    active: str = ""
    """When it was first seen active."""
    heard: str = ""
    """The time in the store's status when it was asked for: of a machine before it."""
    ends: str = ""
    """When its provider deletes it, whatever it has spent by then."""

    @property
    def gone(self) -> bool:
        return self.state == GONE

    @property
    def age(self) -> float:
        """Seconds since it was asked for."""
        return (now() - datetime.fromisoformat(self.requested)).total_seconds()

    def show(self, instance: Instance) -> None:
        """Takes over what the provider says."""
        self.id, self.state, self.seen = instance.id, instance.status, now().isoformat()
        if instance.status == "active":
            self.active = self.active or self.seen
        self.detail = "preempted" if instance.preempted else instance.detail
        self.spent = max(self.spent, instance.spent)

    @property
    def spent_by_now(self) -> float:
        """What it cost after it was last seen is not known: the most it can be is counted."""
        if self.state in ("deleting", "deleted", "requested", GONE):
            return self.spent
        unseen = (now() - datetime.fromisoformat(self.seen or self.requested)).total_seconds()
        most = self.spent + max(0.0, unseen) / 3_600 * self.offer.dollars_per_hour
        return max(self.spent, min(most, self.spend_cap))

    def close(self, detail: str = "") -> None:
        """It is no longer there."""
        self.spent = self.spent_by_now
        self.state, self.detail = GONE, detail or self.detail


@dataclass
class Record:
    """The launch of a run. Holds no secrets."""

    run: str
    provider: str
    phases: str
    job: dict[str, Any]
    budget: float
    """Dollars over all machines of this launch."""
    wanted: dict[str, Any] = field(default_factory=dict)
    """What an offer must be, for the machine that replaces a lost one."""
    planned: dict[str, Any] = field(default_factory=dict)
    hosts: list[str] = field(default_factory=list)
    ssh_key_id: str = ""
    num_nodes: int = 1
    """Machines of a job that train together, where the provider joins them (sky)."""
    before: float = 0.0
    """Dollars spent by earlier launches of the run."""
    closing: bool = False
    """The user asked for its end: no machine is replaced any more."""
    nodes: list[Node] = field(default_factory=list)
    started: str = ""

    @property
    def node(self) -> Node:
        return self.nodes[-1]

    @property
    def spent(self) -> float:
        return sum(node.spent for node in self.nodes)

    @property
    def spent_by_now(self) -> float:
        return sum(node.spent_by_now for node in self.nodes)

    @property
    def left(self) -> float:
        return self.budget - self.spent

    @property
    def live(self) -> list[Node]:
        return [node for node in self.nodes if not node.gone]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path_of(folder, self.run), json.dumps(asdict(self), indent=1) + "\n")


def path_of(folder: Path, run: str) -> Path:
    if not run or Path(run).name != run or run.startswith("."):
        raise UserError(f"{run or 'a run without a name'}: not the name of a run", "Name one without slashes.")
    return folder / f"{run}.json"


def load(folder: Path, run: str) -> Record | None:
    """None if the run was never launched. Raises UserError if its record cannot be read."""
    path = path_of(folder, run)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        nodes = [Node(**{**node, "offer": Offer(**node["offer"])}) for node in data.pop("nodes")]
        return Record(**data, nodes=nodes)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        remedy = "Machines of it are found by: lanbot cloud ls --orphans."
        raise UserError(f"{path}: not a record of a launch ({error})", remedy) from None


def load_all(folder: Path) -> list[Record]:
    names = sorted(path.stem for path in folder.glob("*.json") if not path.name.startswith("."))
    return [record for record in (load(folder, name) for name in names) if record]


@contextmanager
def locked(folder: Path, run: str) -> Iterator[None]:
    """One process at a time changes the record or asks for a machine of the run; others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with path_of(folder, run).with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def updating(folder: Path, run: str) -> Iterator[Record]:
    """The record, saved at the end, whatever happens. Raises UserError if there is none."""
    with locked(folder, run):
        record = load(folder, run)
        if record is None:
            raise UserError(f"{run}: never launched from here", f"Records are in {folder}: lanbot cloud ls.")
        try:
            yield record
        finally:
            record.save(folder)
