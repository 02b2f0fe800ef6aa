"""The section [log] of a recipe: where the figures of training go besides the run's own files."""

from pydantic.dataclasses import dataclass

from lanbot.config.keys import CONFIG, key, require
from lanbot.core.errors import did_you_mean

SINKS = {
    "tensorboard": "lanbot.training.sinks.tensorboard:TensorBoard",
    "wandb": "lanbot.training.sinks.wandb:WandB",
    "trackio": "lanbot.training.sinks.trackio:Trackio",
}
"""The built-in sinks, each with its class (imported only when it is used); its extra has the same name."""


@dataclass(frozen=True, config=CONFIG)
class Log:
    """metrics.jsonl and evals.json are always written; sinks are sent what is in them."""

    sinks: tuple[str, ...] = key((), "tensorboard, wandb, trackio, or module:Class of a Sink.")

    def __post_init__(self) -> None:
        for name in self.sinks:
            known = name in SINKS or ":" in name
            require(known, f"sinks: no sink {name!r}.{did_you_mean(name, SINKS)} There are: {', '.join(SINKS)}")
