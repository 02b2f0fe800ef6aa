"""Renting a machine for a run, watching it, replacing it when it is lost, and giving it back.

Nothing here ever asks twice for a machine without listing in between, or takes a failed listing for an empty one.
"""

import math
import secrets as random_names
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

from lanbot.cloud import records, storage
from lanbot.cloud.providers.base import (
    TAG,
    Busy,
    Instance,
    Launch,
    NoFundsError,
    Offer,
    Provider,
    RefusedError,
    Unsettled,
    is_of_run,
    machine_name,
)
from lanbot.cloud.records import Node, Record
from lanbot.cloud.secrets import Secrets
from lanbot.core.console import say
from lanbot.core.errors import UserError

if TYPE_CHECKING:
    from lanbot.config.recipe import Recipe
    from lanbot.core.options import Options

POLL = 10.0
"""Seconds between two looks at a machine."""
SETTLE = 60.0
"""Seconds in which a machine appears in the list after a create request whose answer was lost."""
CREATE_TRIES = 3
DOWN_WAIT = 45 * 60.0
"""Seconds that `down` waits: some clouds refuse a deletion until the machine has booted."""
MISSES = 30
"""Looks in a row that may fail before `watch` gives up; the caps end the machine all the same."""
MOST_MACHINES = 20
KINDS = ("H100", "H200", "B200")
Show = Callable[[Record], None]


@dataclass(frozen=True)
class Wanted:
    """What an offer must be. Empty fields take any."""

    gpu: str = ""
    count: int | None = 8
    """None: any number of GPUs."""
    cloud: str = ""
    region: str = ""
    type: str = ""
    spot: bool = False

    def takes(self, offer: Offer) -> bool:
        family = offer.gpu.partition("-")[0]
        kind = self.gpu.upper() in (offer.gpu, family) if self.gpu else bool(self.type) or family in KINDS
        same = [(self.cloud, offer.cloud), (self.region, offer.region), (self.type, offer.type)]
        count = self.count in (None, offer.count) or bool(self.type)
        known = offer.dollars_per_hour > 0  # one without a price would be the cheapest
        return known and kind and count and offer.spot == self.spot and all(wish in ("", value) for wish, value in same)


def planned_hours(recipe: "Recipe", options: "Options", phases: str, offer: Offer) -> float:
    """Hours that the phases are expected to take on this offer. Raises UserError if they do not fit on it."""
    from lanbot.cloud.gpus import GPUs
    from lanbot.cloud.plan import cost, plan

    made = plan(recipe, options, phases, GPUs.parse(f"{offer.count}x{offer.gpu}"), 1.0)
    if not all(phase.fits for phase in made.phases):
        raise UserError(f"{offer.count}x{offer.gpu}: too little memory", "Choose GPUs with more.")
    return cost(made)


def rank(offers: Sequence[Offer], wanted: Wanted, hours: Callable[[Offer], float]) -> list[tuple[Offer, float]]:
    """Available offers that are wanted, with the planned dollars of each, the cheapest run first.

    hours: see planned_hours; an offer for which it raises UserError is left out.
    """
    known: dict[tuple[str, int], float | None] = {}
    found = []
    for offer in offers:
        if not (offer.available and wanted.takes(offer)):
            continue
        key = (offer.gpu, offer.count)
        if key not in known:
            try:
                known[key] = hours(offer)
            except UserError:
                known[key] = None
        taken = known[key]
        if taken is not None:
            found.append((offer, taken * offer.dollars_per_hour))
    return sorted(found, key=lambda pair: (pair[1], pair[0].dollars_per_hour, pair[0].cloud, pair[0].region))


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
        envs=secrets.for_node(str(record.job.get("store", ""))),
        spend_cap=left,
        date_cap=deadline + timedelta(hours=0.5),
        tags=(TAG, f"run:{record.run}"),
        ssh_key_id=record.ssh_key_id,
    )


def node_script(job: Mapping[str, Any]) -> str:
    from lanbot.cloud.script import Job, startup

    return startup(Job(**job))


class FinalError(UserError):
    """An error after which watching on would change nothing."""


class Cloud:
    """The launches of a runs folder, at one provider.

    script: the start-up script of a job. outcome: "done", or "failed: why", once the node has said so, else "".
    """

    def __init__(
        self,
        folder: Path,
        provider: Provider,
        secrets: Secrets,
        script: Callable[[Mapping[str, Any]], str] = node_script,
        outcome: Callable[[Record], str] | None = None,
        clear: Callable[[Record], None] | None = None,
    ) -> None:
        self.folder, self.provider, self.secrets, self.script = folder, provider, secrets, script
        self.outcome, self.clear = outcome or storage.outcome, clear or storage.clear

    # -- launching

    def launch(self, record: Record, offer: Offer) -> Node:
        """Rents the first machine of a new launch. Raises UserError if the run has one already."""
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
            return self._rent(record, offer)

    def preview(self, record: Record, offer: Offer) -> str:
        """What `launch` would send, without the values of secrets."""
        launch = request(record, offer, self.secrets, self.script)
        return f"{self.provider.preview(launch)}\n\nIts start-up script:\n{launch.script}"

    def _rent(self, record: Record, offer: Offer) -> Node:
        """Asks for a machine, with the record written first. Whatever interrupts it, `down` finds what was made."""
        launch = request(record, offer, self.secrets, self.script)
        node = Node(launch.name, offer, launch.spend_cap, records.now().isoformat())
        record.nodes.append(node)
        record.save(self.folder)
        try:
            self._create(launch, node)
        finally:
            if node.state == "requested":
                say(f"A machine may have been made as {node.name}. To make sure: lanbot cloud down {record.run}")
            record.save(self.folder)
        return node

    def _create(self, launch: Launch, node: Node) -> None:
        lost = False
        for left in reversed(range(CREATE_TRIES)):
            try:
                node.id, node.state = self.provider.create(launch), "pending"
                return
            except RefusedError as refused:
                if not lost:
                    node.close(refused.problem)
                raise
            except Busy as busy:
                why, wait = str(busy), POLL
            except Unsettled as unsettled:
                lost, why, wait = True, str(unsettled), 0.0
                say(f"{why}: looking for {launch.name} in the list")
                found = self._appears(launch.name)
                if found:
                    node.show(found)
                    return
            say(f"{why}; {left} more tries")
            sleep(wait if left else 0)
        if not lost:
            node.close(why)
        raise UserError(f"{launch.name}: not made, {why} ({CREATE_TRIES} tries)", "Try again later.")

    def _appears(self, name: str) -> Instance | None:
        for _ in range(math.ceil(SETTLE / POLL) + 1):
            found = [instance for instance in self.provider.list() if instance.name == name]
            if found:
                return found[0]
            sleep(POLL)
        return None

    # -- looking

    def refresh(self, record: Record) -> list[Instance]:
        """Brings the record's nodes up to date; returns their machines that still exist, doubles included."""
        listed = self.provider.list()
        there = []
        for node in record.live:
            same = {instance.id: instance for instance in listed if instance.name == node.name}
            own = self.provider.info(node.id) if node.id else None
            own = own or same.get(node.id) or (None if node.id else next(iter(same.values()), None))
            if own:
                node.show(own)
            if not self.provider.market:  # it does not say what was spent
                node.spent = max(node.spent, node.age / 3_600 * node.offer.dollars_per_hour)
            others = [instance for instance in same.values() if not own or instance.id != own.id]
            here = [instance for instance in ([own] if own else []) + others if instance.status != "deleted"]
            there += here
            if not here and (own or node.id or node.age > SETTLE):
                node.close("" if own else "gone from the list" if node.id else "never made")
        return there

    def orphans(self) -> list[Instance]:
        """Machines that LanBot rented, that cost money, and that no record of this runs folder holds."""
        known = {node.name for record in records.load_all(self.folder) for node in record.live}
        ours = [instance for instance in self.provider.list() if instance.ours and instance.name not in known]
        return [instance for instance in ours if instance.status not in ("deleting", "deleted")]

    # -- the end

    def down(self, run: str, show: Show = lambda record: None) -> Record:
        """Deletes the run's machines and waits until they are gone; none is replaced any more."""
        with records.updating(self.folder, run) as record:
            record.closing = True
        return self._end(run, show)

    def _end(self, run: str, show: Show) -> Record:
        waited, why = 0.0, ""
        while True:
            with records.updating(self.folder, run) as record:
                there = self.refresh(record)
                for instance in there:
                    why = delete(self.provider, instance) or why
            show(record)
            if not there and not record.live:
                return record
            if waited >= DOWN_WAIT:
                names = ", ".join(instance.name for instance in there)
                remedy = "Run the command again, or delete it on the provider's page; the caps hold all the same."
                raise FinalError(f"{names}: still there after {waited / 60:.0f} minutes. {why}", remedy)
            sleep(POLL)
            waited += POLL

    # -- watching

    def watch(self, run: str, recover: bool, show: Show = lambda record: None) -> Record:
        """Waits for the run's end, then deletes its machine. recover: a lost machine is replaced, within the budget.

        Raises UserError if the run failed, or if its machine is lost and not replaced.
        """
        misses = 0
        while True:
            try:
                ended = self._step(run, recover, show)
                misses = 0
            except (FinalError, NoFundsError):
                raise
            except UserError as error:  # of a listing, of the store: the machine goes on, and so does the watch
                misses += 1
                if misses >= MISSES:
                    raise
                say(f"{error.problem}; looking again")
                ended = None
            if ended:
                return ended
            sleep(POLL)

    def _step(self, run: str, recover: bool, show: Show) -> Record | None:
        """One look; the record once all is over."""
        with records.updating(self.folder, run) as record:
            there = self.refresh(record)
        show(record)
        if record.closing:
            return self._end(run, show)
        if outcome := self.outcome(record):  # asked after the list: who said so may be gone already
            return self._finish(run, outcome, show)
        for instance in there:
            if instance.id != record.node.id:  # a second one, of a create request whose answer was lost
                delete(self.provider, instance)
        if record.node.state in ("error", "deleting", records.GONE):
            self._replace(run, recover, show)
        return None

    def _finish(self, run: str, outcome: str, show: Show) -> Record:
        record = self.down(run, show)
        if outcome != "done":
            remedy = f"Read its log: lanbot cloud logs {run}. What it saved is in {record.job.get('store')}."
            raise FinalError(f"{run}: the run {outcome}; its machine is deleted (${record.spent:.2f})", remedy)
        return record

    def _replace(self, run: str, recover: bool, show: Show) -> None:
        """Makes sure that the lost machine is gone, then rents another; without an offer, the next look tries again."""
        record = self._end(run, show)
        lost = f"{run}: its machine is lost ({record.node.detail or 'gone'}), ${record.spent:.2f} spent"
        if not recover:
            remedy = f"Go on from the newest checkpoint: lanbot cloud watch {run} --recover."
            raise FinalError(lost, remedy)
        wanted = Wanted(**record.wanted)
        offers = [record.node.offer]
        if self.provider.market:
            offers = [offer for offer in self.provider.offers() if offer.available and wanted.takes(offer)]
        if not offers:
            say(f"{lost}; no offer to replace it yet")
            return
        offer = min(offers, key=lambda offer: offer.dollars_per_hour)
        if (
            record.left < max(offer.dollars_per_hour / 4, 0.01)
            or sum(bool(node.id) for node in record.nodes) >= MOST_MACHINES
        ):
            remedy = "Its checkpoints are in the store: launch it again with a higher --spend-limit."
            raise FinalError(f"{lost} of ${record.budget:.2f}: too little is left for another", remedy)
        with records.updating(self.folder, run) as record:
            if record.closing or record.live:
                return
            say(f"{lost}; replacing it by {describe(offer)}")
            self._rent(record, offer)


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


def describe(offer: Offer) -> str:
    spot = ", spot" if offer.spot else ""
    return f"{offer.count}x{offer.gpu} at {offer.cloud}, {offer.region} (${offer.dollars_per_hour:.2f}/h{spot})"


def default_budget(dollars: float, dollars_per_hour: float) -> float:
    """A cap with room: twice what is planned, and an hour."""
    return float(max(1, math.ceil(2 * dollars + dollars_per_hour)))


def same_kind(wanted: Wanted, offer: Offer) -> dict[str, Any]:
    """What the machine that replaces one of this offer must be: the same GPUs, wherever the user allows."""
    return vars(replace(wanted, gpu=offer.gpu, count=offer.count))
