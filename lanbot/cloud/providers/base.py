"""What every provider of machines has in common. All amounts are dollars."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from lanbot.core.errors import UserError

Status = Literal["pending", "active", "error", "deleting", "deleted"]
TAG = "lanbot"
"""The tag of every machine that LanBot rents; its name begins with the same word."""


@dataclass(frozen=True)
class Offer:
    """A kind of machine in one region, rented on demand or as spot."""

    provider: str
    cloud: str
    region: str
    type: str
    gpu: str
    """The kind, as in gpus.py: H100, H200, B200."""
    count: int
    dollars_per_hour: float
    vram_gb: int = 0
    spot: bool = False
    available: bool = True
    nvlink: bool = False


@dataclass(frozen=True)
class Instance:
    """A rented machine as its provider describes it."""

    id: str
    name: str
    status: Status
    preempted: bool = False
    ip: str = ""
    ssh_user: str = ""
    ssh_port: int = 22
    dollars_per_hour: float = 0.0
    spent: float = 0.0
    created: str = ""
    detail: str = ""
    """The provider's own word for its status."""
    tags: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        return TAG in self.tags or self.name.startswith(f"{TAG}-")


@dataclass(frozen=True)
class Launch:
    """A request for a machine. It is deleted by its provider at spend_cap dollars or at date_cap, the earlier."""

    name: str
    offer: Offer
    script: str
    """The start-up script. It holds no secrets: they are in envs."""
    envs: Mapping[str, str]
    spend_cap: float
    date_cap: datetime
    tags: tuple[str, ...] = ()
    ssh_key_id: str = ""
    nodes: int = field(default=1)

    def __post_init__(self) -> None:
        if not self.spend_cap > 0:
            raise UserError(f"{self.name}: no cap on its spending", "Set --spend-limit to more than 0 dollars.")
        if self.date_cap.tzinfo is None:
            raise UserError(f"{self.name}: no date at which it ends", "Give one with its time zone.")


class Unsettled(Exception):  # noqa: N818  (not an error yet: the list of instances settles it)
    """A create request whose answer was lost: the machine may exist. Never repeat it before listing."""


class RefusedError(UserError):
    """The provider has not made a machine, and says why."""


class NoFundsError(RefusedError):
    """The account has too little credit."""


class Busy(Exception):  # noqa: N818  (not an error yet: it is asked again)
    """The provider does not delete this machine yet, or asks to wait before it makes one."""


class Provider(Protocol):
    name: str
    market: bool
    """Whether it has offers to choose from, and says what was spent."""

    def offers(self) -> Sequence[Offer]:
        """Everything that can be rented, spot and unavailable offers included."""

    def preview(self, launch: Launch) -> str:
        """What `create` would send, without the values of envs."""

    def create(self, launch: Launch) -> str:
        """The id of a new machine. Raises Unsettled, Busy (none was made; later perhaps) or RefusedError."""

    def info(self, id: str) -> Instance | None:
        """None if there is no such machine (any more)."""

    def list(self) -> Sequence[Instance]:
        """All machines of the account. Raises UserError if the list cannot be read: that is never an empty list."""

    def delete(self, id: str) -> None:
        """Asks for its deletion. Raises Busy if it cannot be deleted yet."""

    def logs(self, instance: Instance, follow: bool) -> Sequence[str]:
        """The command that shows the start-up script's output."""

    def ssh(self, instance: Instance) -> Sequence[str]:
        """The command that opens a shell on the machine."""


def machine_name(run: str, suffix: str) -> str:
    """lanbot-RUN-XXXXXX, of letters, digits and hyphens."""
    return f"{TAG}-{re.sub('[^a-z0-9]+', '-', run.lower()).strip('-')[:40]}-{suffix}"


def is_of_run(name: str, run: str) -> bool:
    """Whether machine_name made this name for that run."""
    return bool(re.fullmatch(re.escape(machine_name(run, "")) + "[0-9a-f]{6}", name))


def hidden(envs: Mapping[str, Any]) -> dict[str, str]:
    return dict.fromkeys(envs, "***")


def ssh_command(target: str, name: str, port: int = 22) -> list[str]:
    """ssh to a machine whose host key is kept under its unique name: addresses are used again by other machines."""
    options = ["-o", "StrictHostKeyChecking=accept-new", "-o", f"HostKeyAlias={name}", "-o", "ConnectTimeout=15"]
    return ["ssh", *options, *(["-p", str(port)] if port != 22 else []), target]
