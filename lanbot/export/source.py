"""What is exported: a model's folder, and what is known of where it is from."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lanbot.chat.formats import load_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.config.run import Run
from lanbot.core.errors import UserError
from lanbot.models import saved
from lanbot.models.config import ModelConfig
from lanbot.models.licences import KEPT, PAPERS, Licence, licence_of, stated_in


@dataclass(frozen=True)
class Source:
    folder: Path
    """In Hugging Face layout."""
    run: Run | None = None
    phase: str = ""

    @classmethod
    def of_run(cls, run: Run, phase: str) -> "Source":
        """Raises UserError if the phase's checkpoint is damaged."""
        folder = run.phase(phase) / run.checkpoint(phase)
        if problem := saved.damage(folder):
            raise UserError(f"{folder} is damaged: {problem}", f"Run the phase again: delete {run.phase(phase)}")
        return cls(folder, run, phase)

    @classmethod
    def of_folder(cls, folder: Path) -> "Source":
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{folder}: neither a run nor a model's folder", "Name a run, or a folder with config.json."
            )
        return cls(folder)

    @cached_property
    def config(self) -> ModelConfig:
        return ModelConfig.from_hf(self.folder / "config.json")

    @cached_property
    def chat_format(self) -> ChatFormat:
        return load_format(self.folder)

    @cached_property
    def open_weights(self) -> dict[str, Any]:
        """Of the weights that somebody else trained and this model goes back to: source, revision and licence as it is
        stated there; {} if there are none."""
        if self.run is None:
            name = self.folder.resolve().name
            return {"source": name, "revision": "", "licence": stated_in(self.folder / "README.md")}
        notes = (self.run.read(phase, "imported.json") for phase in self.run.recipe.phase_names)
        return next((found["open_weights"] for found in notes if found.get("open_weights")), {})

    @cached_property
    def licence(self) -> Licence | None:
        """Of the open weights; None if there are none, or it is not known."""
        return licence_of(self.open_weights["licence"], self.config) if self.open_weights else None

    @property
    def papers(self) -> list[Path]:
        """The licence and the notices that came with the open weights."""
        folder = self.folder if self.run is None else self.run.folder / KEPT
        return [folder / name for name in PAPERS if name != "README.md" and (folder / name).is_file()]

    @property
    def name(self) -> str:
        """The exported model's name, which begins as its licence asks."""
        plain = self.folder.resolve().name if self.run is None else self.run.folder.name
        prefix = self.licence.prefix if self.licence else ""
        return plain if plain.startswith(prefix) else f"{prefix.replace(' ', '-')}-{plain}"
