"""Which of the machines that can be rented a run takes, and what they will cost it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lanbot.cloud.providers.base import Offer
from lanbot.core.errors import UserError

if TYPE_CHECKING:
    from lanbot.config.recipe import Recipe
    from lanbot.core.options import Options

KINDS = ("H100", "H200", "B200")
"""Taken where no kind is named."""


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


def describe(offer: Offer) -> str:
    spot = ", spot" if offer.spot else ""
    return f"{offer.count}x{offer.gpu} at {offer.cloud}, {offer.region} (${offer.dollars_per_hour:.2f}/h{spot})"


def default_budget(dollars: float, dollars_per_hour: float) -> float:
    """A cap with room: twice what is planned, and an hour."""
    return float(max(1, math.ceil(2 * dollars + dollars_per_hour)))


def same_kind(wanted: Wanted, offer: Offer) -> dict[str, Any]:
    """What the machine that replaces one of this offer must be: the same GPUs, wherever the user allows."""
    return vars(replace(wanted, gpu=offer.gpu, count=offer.count))
