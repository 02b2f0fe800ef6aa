"""Watching a run to its end: its machine is replaced when it is lost, and deleted when the run is over."""

from time import sleep

from lanbot.cloud import records, storage
from lanbot.cloud.launch import POLL, Cloud, FinalError, Show, delete, nothing
from lanbot.cloud.offers import Wanted, describe
from lanbot.cloud.providers.base import NoFundsError
from lanbot.cloud.records import Record
from lanbot.core.console import say
from lanbot.core.errors import UserError

MISSES = 30
"""Looks in a row that may fail before the watch gives up; the caps end the machine all the same."""
MOST_MACHINES = 20


class Watch:
    """recover: a lost machine is replaced, within the launch's budget."""

    def __init__(self, cloud: Cloud, run: str, recover: bool = False, show: Show = nothing) -> None:
        self.cloud, self.run, self.recover, self.show = cloud, run, recover, show
        self.misses = 0

    def wait(self) -> Record:
        """Waits for the run's end, then deletes its machine.

        Raises UserError if the run failed, or if its machine is lost and not replaced.
        """
        while True:
            try:
                ended = self._look()
                self.misses = 0
            except (FinalError, NoFundsError):
                raise
            except UserError as error:  # of a listing, of the store: the machine goes on, and so does the watch
                self.misses += 1
                if self.misses >= MISSES:
                    raise
                say(f"{error.problem}; looking again")
                ended = None
            if ended:
                return ended
            sleep(POLL)

    def _look(self) -> Record | None:
        """One look; the record once all is over."""
        with records.updating(self.cloud.folder, self.run) as record:
            there = self.cloud.refresh(record)
        if record.closing:
            return self.cloud.end(self.run, self.show)
        said = self.cloud.said(record)  # asked after the list: who said so may be gone already
        self.show(record, said)
        if outcome := storage.outcome(said):
            return self._finish(outcome)
        for instance in there:
            if instance.id != record.node.id:  # a second one, of a create request whose answer was lost
                delete(self.cloud.provider, instance)
        if record.node.state in ("error", "deleting", records.GONE):
            self._replace()
        return None

    def _finish(self, outcome: str) -> Record:
        record = self.cloud.down(self.run, self.show)
        if outcome != "done":
            remedy = f"Its log and what it saved are in {record.job.get('store')}: runs/{self.run}/node/train.log."
            raise FinalError(f"{self.run}: the run {outcome}; its machine is deleted (${record.spent:.2f})", remedy)
        return record

    def _replace(self) -> None:
        """Makes sure that the lost machine is gone, then rents another; without an offer, the next look tries again."""
        record = self.cloud.end(self.run, self.show)
        lost = f"{self.run}: its machine is lost ({record.node.detail or 'gone'}), ${record.spent:.2f} spent"
        if not self.recover:
            remedy = f"Go on from the newest checkpoint: lanbot cloud watch {self.run} --recover."
            raise FinalError(lost, remedy)
        wanted = Wanted(**record.wanted)
        offers = [record.node.offer]
        if self.cloud.provider.market:
            offers = [offer for offer in self.cloud.provider.offers() if offer.available and wanted.takes(offer)]
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
        with records.updating(self.cloud.folder, self.run) as record:
            if record.closing or record.live:
                return
            say(f"{lost}; replacing it by {describe(offer)}")
            self.cloud.rent(record, offer)
