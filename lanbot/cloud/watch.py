"""Watching a run to its end: its machine is replaced when it is lost, and deleted when the run is over."""

import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep

from lanbot.cloud import records, storage
from lanbot.cloud.launch import POLL, Cloud, FinalError, Said, Show, nothing
from lanbot.cloud.offers import Wanted, describe
from lanbot.cloud.providers.base import Instance, NoFundsError, RefusedError
from lanbot.cloud.records import Record
from lanbot.core.console import duration, say
from lanbot.core.errors import UserError

PAUSE_MOST = 300.0
"""Seconds to the next look after one that failed: POLL, doubled with each further one in a row, and at most this."""
AFTER_CAP = timedelta(hours=1)
"""After the end of the machine's time, until which failing looks go on: it is paid no longer then."""
MOST_MACHINES = 20
START = timedelta(minutes=45)
"""From when a machine was first seen active to its first status in the store: installing takes some minutes of it."""
LOG_TIMEOUT = 60.0


class Watch:
    """recover: a lost machine is replaced, within the launch's budget."""

    def __init__(self, cloud: Cloud, run: str, recover: bool = False, show: Show = nothing) -> None:
        self.cloud, self.run, self.recover, self.show = cloud, run, recover, show
        self.misses, self.looked = 0, False
        self.failure: tuple[str, str] | None = None
        """Problem and remedy, once the run has failed: its machine is deleted first."""
        self.told: set[str] = set()

    def wait(self) -> Record:
        """Waits for the run's end, then deletes its machine.

        Raises UserError if the run failed, or if its machine is lost and not replaced.
        """
        while True:
            try:
                ended = self._look()
            except (FinalError, NoFundsError):
                raise
            except UserError as error:  # of a listing, of the store: the machine goes on, and so does the watch
                sleep(self._missed(error))
                continue
            self.misses = 0
            if ended:
                return ended
            sleep(POLL)

    def _missed(self, error: UserError) -> float:
        """Seconds until the next look. Raises UserError where looking on is in vain."""
        record = records.load(self.cloud.folder, self.run)
        if record is None or (isinstance(error, RefusedError) and not self.looked):  # the key is wrong
            raise error
        self.misses += 1
        pause = min(PAUSE_MOST, POLL * 2 ** min(self.misses - 1, 10))
        again = f"{error.problem}; looking again in {duration(pause)}"
        ends = [datetime.fromisoformat(node.ends) for node in record.live if node.id and node.ends]
        if ends:
            cap, down = f"{max(ends).astimezone(UTC):%Y-%m-%d %H:%M} UTC", f"lanbot cloud down {self.run}"
            if records.now() > max(ends) + AFTER_CAP:
                problem = f"{self.run}: {error.problem}; its machine's time ended at {cap}, but it may be there still"
                raise FinalError(problem, f"Look at the provider's page, then: {down}.")
            if pause == PAUSE_MOST:
                again += f". Its machine is paid, until {cap} at most. End it: {down}, or on the provider's page."
        say(again)
        return pause

    def _look(self) -> Record | None:
        """One look; the record once all is over."""
        with records.updating(self.cloud.folder, self.run) as record:
            there = self.cloud.refresh(record)
        self.looked = True
        if record.closing:
            return self._finish()
        said = self.cloud.said(record)  # asked after the list: who said so may be gone already
        self.show(record, said)
        if outcome := storage.outcome(said):
            if outcome != "done":
                remedy = f"Its log and what it saved are in {record.job.get('store')}: runs/{self.run}/node/train.log."
                self.failure = f"the run {outcome}", remedy
            return self._finish()
        if self._never_started(record, said):
            self.failure = self._no_report(record, there)
            return self._finish()
        self._tell(storage.warning(record, said))
        self.cloud.part(record, there)
        if record.node.state in ("error", "deleting", records.GONE):
            self._replace(said)
        return None

    def _finish(self) -> Record:
        """Deletes the machine. Raises FinalError if the run failed."""
        record = self.cloud.down(self.run, self.show)
        if self.failure:
            problem, remedy = self.failure
            raise FinalError(f"{self.run}: {problem}; its machine is deleted (${record.spent:.2f})", remedy)
        return record

    def _tell(self, text: str) -> None:
        """Says it once, not at every look."""
        if text and text not in self.told:
            self.told.add(text)
            say(text)

    def _never_started(self, record: Record, said: Said) -> bool:
        """Own hosts cost nothing, and what they write may be seen only there."""
        if record.hosts:
            return False
        since = storage.silent_since(record, said)
        return since is not None and not storage.reported(record, said) and records.now() - since > START

    def _no_report(self, record: Record, there: Sequence[Instance]) -> tuple[str, str]:
        """Problem and remedy of a machine whose start-up never came to an end. Another would not do better."""
        problem = f"active for {START.seconds // 60} minutes and no status in {record.job.get('store')}"
        if log := next(filter(None, map(self._saved_log, there)), None):
            return problem, f"Its start-up log is in {log}."
        why = "its token may not write to the store, or --package cannot be installed"
        remedy = f"Its log could not be read; {why}. Launch it again and look early: lanbot cloud logs {self.run}."
        return problem, remedy

    def _saved_log(self, instance: Instance) -> Path | None:
        """The file into which the machine's log was copied, as it is deleted with the machine; None if it failed."""
        path = self.cloud.folder / f"{instance.name}.log"
        try:
            command = self.cloud.provider.logs(instance, False)
            # in a session of its own, ssh cannot ask for a password
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=LOG_TIMEOUT,
                check=False,
                start_new_session=True,
            )
        except (UserError, OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode or not done.stdout:
            return None
        path.write_text(self.cloud.secrets.redact(done.stdout.decode(errors="replace")), encoding="utf-8")
        return path

    def _replace(self, said: Said) -> None:
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
            self._tell(f"{lost}; no offer to replace it yet")
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
            self.cloud.rent(record, offer, str(said.get("status.json", {}).get("time", "")))
