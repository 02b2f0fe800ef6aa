"""Weights & Biases: each phase is a run, in the group of its recipe's name. The key is WANDB_API_KEY's, or that of
`wandb login`. With WANDB_MODE=offline all stays in the phase's folder, until `wandb sync`."""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from types import ModuleType

from lanbot.core.console import say
from lanbot.core.errors import UserError
from lanbot.training.sinks.sink import PROJECT, Place, Sink

ANSWERS, UPLOADS = 15.0, 8.0
"""Seconds in which its server must answer in the beginning, and in which what is left may be uploaded at the end, less
than a phase waits for; the rest stays in the phase's folder, for `wandb sync`."""

WRITES = 0.5
"""Seconds between its writes to its file, but for the last step, which it holds open for further figures."""

SETTINGS = {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB__TRANSACTION_LOG_FLUSH_INTERVAL": str(WRITES)}
"""For its environment, which it reads once; the last is 15 s without it."""


class WandB(Sink):
    name = "wandb"

    @classmethod
    def check(cls) -> None:
        super().check()
        wandb = _wandb()
        online = os.environ.get("WANDB_MODE", "online") == "online"
        if online and not wandb.login(prompt=False, verify=False):
            remedy = "Set WANDB_API_KEY, or run: wandb login. Or set WANDB_MODE=offline."
            raise UserError("log.sinks: wandb has no key", remedy)

    def __init__(self, place: Place) -> None:
        wandb = _wandb()
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=place.name,
            group=place.recipe.name,
            job_type=place.phase,
            id=place.id,
            resume="allow",
            reinit="create_new",
            dir=place.folder.parent,  # where wandb makes, or finds, a folder `wandb`
            config=asdict(place.recipe),
            settings=wandb.Settings(init_timeout=ANSWERS, finish_timeout=UPLOADS),
        )
        if not self.run.offline:
            say(f"{place.phase}: {self.run.url}")

    def figures(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def samples(self, step: int, rows: Sequence[tuple[str, str]]) -> None:
        table = _wandb().Table(["question", "answer"], [list(row) for row in rows])
        self.run.log({"samples": table}, step=step)

    def flush(self) -> None:
        time.sleep(2 * WRITES)  # it has no call that waits

    def close(self) -> None:
        self.run.finish()


def _wandb() -> ModuleType:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import wandb

    return wandb
