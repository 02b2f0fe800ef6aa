"""Other software that shows a run while it trains: TensorBoard, Weights & Biases, Trackio."""

from lanbot.training.sinks.follow import check, following

__all__ = ["check", "following"]
