"""What a phase leaves behind, to compare one that was stopped with one that was not."""

from pathlib import Path
from typing import Any

from lanbot.config.run import read_metrics
from lanbot.models import saved

TIMES = ("seconds", "tokens_per_second", "utilisation", "wait_seconds")


def weights(phase: Path) -> bytes:
    folder = saved.latest(phase)
    assert folder is not None
    return (folder / "model.safetensors").read_bytes()


def metrics(phase: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(phase / "metrics.jsonl")]
