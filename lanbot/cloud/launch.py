"""Renting a machine for a run, looking after it, and giving it back.

Nothing here ever asks twice for a machine without listing in between, or takes a failed listing for an empty one.
"""

import math
import re
import secrets as random_names
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from time import sleep
from typing import Any

from lanbot.cloud import data, records, storage
from lanbot.cloud.providers.base import (
    TAG,
    Busy,
    Instance,
    Launch,
    Offer,
    Provider,
    RefusedError,
    Unsettled,
    is_of_run,
    machine_name,
)
from lanbot.cloud.records import Node, Record
from lanbot.cloud.secrets import Secrets
from lanbot.core.console import duration, say
from lanbot.core.errors import UserError

POLL = 10.0
"""Seconds between two looks at a machine."""
SETTLE = 180.0
"""Seconds in which a machine appears in the list after a create request whose answer was lost."""
CREATE_TRIES = 3
DOWN_WAIT = 45 * 60.0
"""Seconds that `down` waits: some clouds refuse a deletion until the machine has booted."""
Said = Mapping[str, Mapping[str, Any]]
"""What a node wrote into the store: see storage.said."""
Show = Callable[[Record, Said], None]


def nothing(record: Record, said: Said) -> None:
    """Shows nothing."""


def request(record: Record, offer: Offer, secrets: Secrets, script: Callable[[Mapping[str, Any]], str]) -> Launch:
    """The next machine of a launch, capped by what is left of its budget, and by the time that this buys.

    The job's deadline is half an hour earlier than the machine's, so that the spend cap finds it saved.
    """
    left = math.floor(record.left * 100) / 100
    hours = min(left / offer.dollars_per_hour, 24 * 30) if offer.dollars_per_hour else 24 * 7
    deadline = (records.now() + timedelta(hours=hours)).replace(microsecond=0)
    return Launch(
        name=machine_name(record.run, random_names.token_hex(3)),
        offer=offer,
        script=script({**record.job, "gpus": offer.count, "deadline": deadline.isoformat()}),
        envs=secrets.for_node(*places(record.job)),
        spend_cap=left,
        date_cap=deadline + timedelta(hours=0.5),
        tags=(TAG, f"run:{record.run}"),
        ssh_key_id=record.ssh_key_id,
        nodes=record.num_nodes,
    )


def places(job: Mapping[str, Any]) -> list[str]:
    """Where a job reads and writes: its store, its source, and the hub if its recipe names something there."""
    hub = ["hf:"] if re.search(r"""["']hf:""", str(job.get("recipe", ""))) else []
    return [str(job.get("store", "")), str(job.get("source", "")), *hub]


def node_script(job: Mapping[str, Any]) -> str:
    from lanbot.cloud.script import Job, startup

    return startup(Job(**job))


class FinalError(UserError):
    """An error after which watching on would change nothing."""


class Cloud:
    """The launches of a runs folder, at one provider.

    script: the start-up script of a job. said, clear: of the run's store, as in storage.py.
    """

    def __init__(
        self,
        folder: Path,
        provider: Provider,
        secrets: Secrets,
        script: Callable[[Mapping[str, Any]], str] = node_script,
        said: Callable[[Record], Said] | None = None,
        clear: Callable[[Record], None] | None = None,
    ) -> None:
        self.folder, self.provider, self.secrets, self.script = folder, provider, secrets, script
        self.said, self.clear = said or storage.said, clear or storage.clear

    # -- launching

    def launch(self, record: Record, offer: Offer, send: Callable[[str], None] = lambda store: None) -> Node:
        """Rents the first machine of a new launch. Raises UserError if the run has one already.

        send: puts into the store what the machine will need there."""
        with records.locked(self.folder, record.run):
            old = records.load(self.folder, record.run)
            remedy = f"See it: lanbot cloud status {record.run}. End it: lanbot cloud down {record.run}."
            if old and old.live:
                raise UserError(f"{record.run}: launched already, as {old.node.name}", remedy)
            for instance in self.provider.list():
                if is_of_run(instance.name, record.run) and instance.status not in ("deleting", "deleted"):
                    raise UserError(f"{record.run}: {instance.name} is there already, not by a record here", ORPHANS)
            record.before = old.before + old.spent if old else 0.0
            record.started = records.now().isoformat()
            self.clear(record)
            store = str(record.job.get("store", ""))
            send(store)
            data.send(record.job.get("data", {}), store)
            return self.rent(record, offer)

    def preview(self, record: Record, offer: Offer) -> str:
        """What `launch` would send, without the values of secrets."""
        launch = request(record, offer, self.secrets, self.script)
        return f"{self.provider.preview(launch)}\n\nIts start-up script:\n{launch.script}"

    def rent(self, record: Record, offer: Offer, heard: str = "") -> Node:
        """Asks for a machine, with the record written first. Whatever interrupts it, `down` finds what was made.

        heard: the time in the status that an earlier machine left in the store.
        """
        launch = request(record, offer, self.secrets, self.script)
        asked, ends = records.now().isoformat(), launch.date_cap.isoformat()
        node = Node(launch.name, offer, launch.spend_cap, asked, heard=heard, ends=ends)
        record.nodes.append(node)
        record.save(self.folder)
        try:
            if self._create(launch, node) > 1:
                self._await_twin(record)
        finally:
            if node.state == "requested":
                say(f"A machine may have been made as {node.name}. To make sure: lanbot cloud down {record.run}")
            record.save(self.folder)
        return node

    def _create(self, launch: Launch, node: Node) -> int:
        """The number of requests that were sent and may each have made a machine."""
        sent = 0
        for left in reversed(range(CREATE_TRIES)):
            try:
                node.id, node.state = self.provider.create(launch), "pending"
                return sent + 1
            except RefusedError as refused:
                if not sent:
                    node.close(refused.problem)
                raise
            except Busy as busy:
                why, wait = str(busy), POLL
            except Unsettled as unsettled:
                sent, why, wait = sent + 1, str(unsettled), 0.0
                say(f"{why}: looking for {launch.name} in the list")
                found = self._appears(launch.name)
                if found:
                    node.show(found)
                    return sent
            say(f"{why}; {left} more tries")
            sleep(wait if left else 0)
        if not sent:
            node.close(why)
        raise UserError(f"{launch.name}: not made, {why} ({CREATE_TRIES} tries)", "Try again later.")

    def _appears(self, name: str) -> Instance | None:
        for _ in range(math.ceil(SETTLE / POLL) + 1):
            found = [instance for instance in self.provider.list() if instance.name == name]
            if found:
                return found[0]
            sleep(POLL)
        return None

    def _await_twin(self, record: Record) -> None:
        """Deletes the machine of an earlier request, should it come into the list now; later on, the watch does."""
        say(f"{record.node.name} was asked for more than once: for {duration(SETTLE)}, another one is looked for")
        for _ in range(math.ceil(SETTLE / POLL)):
            sleep(POLL)
            try:
                self.part(record, self.refresh(record))
            except UserError as error:
                say(f"{error.problem}; looking again")

    # -- looking

    def refresh(self, record: Record) -> list[Instance]:
        """Brings the record's nodes up to date; returns their machines that still exist, the newest node's first."""
        listed = self.provider.list()
        for instance in listed:
            self._add_twin(record, instance)
        there = []
        for node in reversed(record.live):
            own = self.provider.info(node.id) if node.id else None
            own = own or next((instance for instance in listed if node.id and instance.id == node.id), None)
            if own:
                node.show(own)
            if not self.provider.market:  # it does not say what was spent
                node.spent = max(node.spent, node.age / 3_600 * node.offer.dollars_per_hour)
            if own and own.status != "deleted":
                there.append(own)
            elif own or node.id or node.age > SETTLE:
                node.close("" if own else "gone from the list" if node.id else "never made")
        return there

    def _add_twin(self, record: Record, instance: Instance) -> None:
        """Names are unique: a listed machine of a node's name is the node's, or of a request that was made twice. Then
        it becomes a node of its own, because it costs money too."""
        node = next((node for node in record.nodes if node.name == instance.name), None)
        if node is None or instance.id in [node.id for node in record.nodes]:
            return
        if not (node.id or node.gone):
            node.id = instance.id
        else:
            twin = Node(node.name, node.offer, node.spend_cap, node.requested, instance.id, ends=node.ends)
            record.nodes.insert(record.nodes.index(node), twin)

    def part(self, record: Record, there: Sequence[Instance]) -> None:
        """Deletes the machines of a record that are not its newest node's."""
        for instance in there:
            if instance.id != record.node.id and instance.status != "deleting":
                say(f"{instance.name}: deleting {instance.id}, which was made by a second request of that name")
                delete(self.provider, instance)

    def orphans(self) -> list[Instance]:
        """Machines that LanBot rented, that cost money, and that no record of this runs folder holds."""
        known = {node.name for record in records.load_all(self.folder) for node in record.live}
        ours = [instance for instance in self.provider.list() if instance.ours and instance.name not in known]
        return [instance for instance in ours if instance.status not in ("deleting", "deleted")]

    # -- the end

    def down(self, run: str, show: Show = nothing) -> Record:
        """Deletes the run's machines and waits until they are gone; none is replaced any more."""
        with records.updating(self.folder, run) as record:
            record.closing = True
        return self.end(run, show)

    def end(self, run: str, show: Show = nothing) -> Record:
        """Deletes the run's machines and waits until they are gone."""
        waited, why = 0.0, ""
        while True:
            with records.updating(self.folder, run) as record:
                there = self.refresh(record)
                for instance in there:
                    why = delete(self.provider, instance) or why
            show(record, {})
            if not there and not record.live:
                return record
            if waited >= DOWN_WAIT:
                names = ", ".join(instance.name for instance in there)
                remedy = "Run the command again, or delete it on the provider's page; the caps hold all the same."
                raise FinalError(f"{names}: still there after {waited / 60:.0f} minutes. {why}", remedy)
            sleep(POLL)
            waited += POLL


def delete(provider: Provider, instance: Instance) -> str:
    """Asks for a machine's deletion, unless it is under way. Returns why it is refused for now, or ""."""
    try:
        if instance.status != "deleting":
            provider.delete(instance.id)
    except Busy as busy:
        return str(busy)
    return ""


def delete_orphan(provider: Provider, id: str) -> float:
    """Deletes a machine that no record knows, and waits until it is gone. Returns the dollars it cost."""
    waited, why, spent = 0.0, "", 0.0
    while (found := provider.info(id)) and found.status != "deleted":
        if not found.ours:
            raise UserError(f"{id}: {found.name} is not one that LanBot rented", "Delete it on the provider's page.")
        spent = found.spent
        if waited >= DOWN_WAIT:
            raise UserError(f"{id}: still there after {waited / 60:.0f} minutes. {why}", "Run the command again.")
        why = delete(provider, found) or why
        sleep(POLL)
        waited += POLL
    return found.spent if found else spent


ORPHANS = "It may be billed: lanbot cloud ls --orphans shows it, lanbot cloud down --id ID deletes it."
