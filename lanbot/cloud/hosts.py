"""Several hosts that train one run in a folder that all of them see: what each says there of itself.

The first one leads: it fetches, pushes, decides and says in hosts/0.json when to train and when the job is over. The
others train when it does. Each writes its file again every BEAT seconds, so that the others know that it is there.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from lanbot.core.console import say
from lanbot.core.errors import UserError
from lanbot.core.files import write_atomic

BEAT, POLL = 2.0, 0.5
ABSENT = 600.0
"""Seconds without a beat after which a host is taken for lost; a network file system may show one a minute late."""
GRACE = 120.0
"""Seconds that training has to end by itself when it has ended on another host."""
PORTS = 100
"""Each attempt meets at the next port: what is left of the one before may hold its own for a while."""


class HostLost(Exception):  # noqa: N818
    """Another host does not answer; the message says which."""


class Hosts:
    def __init__(self, root: Path) -> None:
        self.count = int(os.environ.get("PET_NNODES") or 1)
        self.rank = int(os.environ.get("LANBOT_NODE_RANK") or 0) if self.count > 1 else 0
        self.folder = root / "hosts"
        self.others = [rank for rank in range(self.count) if rank != self.rank] if not self.rank else [0]
        self.said: dict[str, Any] = {"host": uuid4().hex, "beat": 0, "attempt": "", "port": 0, "training": False}
        self.heard: dict[int, dict[str, Any]] = {}
        self.beats: dict[int, float] = {}
        """When another host's file was last seen to change: what was there at first may be of an earlier launch."""
        self.attempts, self.began = 0, time.monotonic()
        self.alone_since: float | None = None
        self.speaking = threading.Lock()

    def start(self) -> None:
        """Begins to be there for the others."""
        if self.count > 1:
            self.folder.mkdir(parents=True, exist_ok=True)
            threading.Thread(target=self._beat, daemon=True).start()

    def meeting(self) -> list[str]:
        """torchrun's arguments: where the ranks of this attempt meet. The first host has rank 0, whose output tells how
        training goes; the rendezvous of c10d would give it to any of them."""
        if self.count == 1:
            return ["--standalone"]
        address, _, port = os.environ["PET_RDZV_ENDPOINT"].rpartition(":")
        endpoint = f"{address}:{int(port) + self.said['port']}"
        return ["--nnodes", str(self.count), "--node-rank", str(self.rank), "--rdzv-backend", "static",
                "--rdzv-endpoint", endpoint, "--rdzv-id", self.said["attempt"]]  # fmt: skip

    # -- the first host ------------------------------------------------------------------------------------

    def begin(self, arguments: list[str], stopped: Callable[[], bool]) -> None:
        """Waits until all others are there and idle, and says that an attempt begins. Raises HostLost."""
        if self.count == 1:
            return
        end = time.monotonic() + ABSENT
        while missing := [rank for rank in self.others if not self._idle(rank)]:
            if stopped():
                return
            if time.monotonic() >= end:
                raise HostLost(f"host {missing[0]} of 0 to {self.count - 1} does not answer")
            time.sleep(POLL)
        self.attempts += 1
        attempt, port = f"{self.said['host'][:8]}-{self.attempts}", (self.said["port"] + 1) % PORTS
        self._take_up(attempt, port, arguments=arguments, hosts=self._ids())

    def over(self, code: int) -> None:
        """Says that the job has ended; the others end with the same code."""
        if self.count > 1:
            self._listen()
            self._say(training=False, over=code, hosts=self._ids())

    def _idle(self, rank: int) -> bool:
        self._listen()
        return self._there(rank) and not self.heard[rank]["training"]

    def _ids(self) -> dict[str, str]:
        return {str(rank): said["host"] for rank, said in self.heard.items()}

    # -- the others ----------------------------------------------------------------------------------------

    def called(self) -> dict[str, Any]:
        """What the first host says to this one, and to no earlier process in its place: attempt and arguments, or over;
        {} until it says something new. Raises HostLost."""
        self._listen()
        first = self.heard.get(0, {})
        mine = first.get("hosts", {}).get(str(self.rank)) == self.said["host"]
        if mine and ("over" in first or (first["training"] and first["attempt"] != self.said["attempt"])):
            return first
        if time.monotonic() - max(self.beats.get(0, 0.0), self.began) >= ABSENT:
            raise HostLost("the first host does not answer")
        return {}

    def join(self, first: dict[str, Any]) -> None:
        self._take_up(first["attempt"], first["port"])

    # -- both ----------------------------------------------------------------------------------------------

    def ended(self) -> None:
        """Says that training has ended here."""
        if self.count > 1:
            self._say(training=False)

    def abandoned(self) -> bool:
        """Whether another host has left the attempt GRACE seconds ago."""
        self._listen()
        if all(map(self._takes_part, self.others)):
            self.alone_since = None
            return False
        self.alone_since = self.alone_since or time.monotonic()
        return time.monotonic() - self.alone_since >= GRACE

    def _takes_part(self, rank: int) -> bool:
        other = self.heard.get(rank, {})
        if not self._there(rank) or (not self.rank and other["host"] != self.said["hosts"][str(rank)]):
            return False
        same = other["attempt"] == self.said["attempt"]
        return bool(other["training"]) if same else not self.rank  # it may be about to begin

    def _there(self, rank: int) -> bool:
        return rank in self.beats and time.monotonic() - self.beats[rank] < ABSENT

    def _take_up(self, attempt: str, port: int, **more: Any) -> None:
        self.alone_since = None
        self._say(attempt=attempt, port=port, training=True, **more)

    def _listen(self) -> None:
        for rank in self.others:
            with suppress(OSError, ValueError):
                said = json.loads((self.folder / f"{rank}.json").read_text(encoding="utf-8"))
                if rank in self.heard and said != self.heard[rank]:
                    self.beats[rank] = time.monotonic()
                self.heard[rank] = said

    def _say(self, **changes: Any) -> None:
        with self.speaking:
            self.said |= changes
            self.said["beat"] += 1
            write_atomic(self.folder / f"{self.rank}.json", json.dumps(self.said))

    def _beat(self) -> None:
        while True:
            with suppress(UserError):  # the disk is full
                self._say()
            time.sleep(BEAT)


def follow(hosts: Hosts, train: Callable[[list[str]], int], stopped: Callable[[], bool]) -> int:
    """What another host than the first does: it trains when that one does, until the job is over; the exit code."""
    while not stopped():
        try:
            first = hosts.called()
        except HostLost as error:
            say(str(error))
            return 1
        if "over" in first:
            return int(first["over"])
        if first:
            hosts.join(first)
            say(f"training ended with {train(first['arguments'])}")
        time.sleep(POLL)
    return 143
