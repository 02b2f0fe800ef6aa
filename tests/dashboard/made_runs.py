"""A runs folder as runs write it."""

import json
from pathlib import Path
from typing import Any

from lanbot.config import recipe_file
from lanbot.core.options import Options


def line(step: int, **more: Any) -> dict[str, Any]:
    """A line of metrics, whose loss is 4 at step 1 and falls."""
    figures = {"step": step, "progress": step / 100, "loss": round(3 + 1 / step, 6), "bpb": 1.5, "grad_norm": 0.4}
    clocks = {"tokens": 2_048 * step, "seconds": 0.5 * step, "tokens_per_second": 4_096.0, "utilisation": 0.25}
    return figures | clocks | {"lr_scale": 1.0, "skipped": 0} | more


class Made:
    """A runs folder; what is written there is what a run would write."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, name: str = "one", recipe: str = "smoke") -> Path:
        folder = self.root / name
        folder.mkdir(parents=True)
        text = recipe_file.dump(recipe_file.load(recipe))
        (folder / "recipe.toml").write_text(text, encoding="utf-8")
        return folder

    def lines(self, name: str, phase: str, rows: list[dict[str, Any]], mode: str = "a") -> Path:
        path = self.root / name / phase / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def done(self, name: str, phase: str, **more: Any) -> None:
        folder = self.root / name / phase
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evals.json").write_text(json.dumps(more), encoding="utf-8")

    @property
    def options(self) -> Options:
        return Options(None, True, self.root / "cache", self.root, False)
