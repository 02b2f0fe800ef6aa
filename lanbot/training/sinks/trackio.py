"""Trackio: a dashboard on this machine (`trackio show --project lanbot`), or in a Space of the hub that
TRACKIO_SPACE_ID names. Each phase is a run, in the group of its recipe's name."""

import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from io import StringIO

from lanbot.core.console import say
from lanbot.training.sinks.sink import PROJECT, Place, Sink

WRITES = 1.0
"""Seconds until what was logged is in its database: it writes every half second and has no call that waits for that."""


class Trackio(Sink):
    name = "trackio"

    def __init__(self, place: Place) -> None:
        import trackio

        with redirect_stdout(StringIO()):  # stdout is for results, of which a phase prints none
            self.run = trackio.init(
                PROJECT,
                place.name,
                group=place.recipe.name,
                resume="never" if place.sent < 0 else "allow",  # by name: not that of a run which was deleted
                config=asdict(place.recipe),
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        say(f"{place.phase}: see it with trackio show --project {PROJECT}")

    def figures(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step)

    def samples(self, step: int, rows: Sequence[tuple[str, str]]) -> None:
        import trackio

        self.run.log({"samples": trackio.Table(["question", "answer"], [list(row) for row in rows])}, step)

    def flush(self) -> None:
        time.sleep(WRITES)

    def close(self) -> None:
        with redirect_stdout(StringIO()):
            self.run.finish()
