"""Another run of LanBot."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from lanbot.chat.formats import load_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.config import recipe_file
from lanbot.config.run import Run
from lanbot.core.errors import UserError
from lanbot.models import saved
from lanbot.models.config import ModelConfig
from lanbot.models.licences import KEPT
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model
from lanbot.phases.origins.base import Files, Origin, Step


class RunOrigin(Origin):
    """Another run of LanBot."""

    what = "a run"
    told_by = "recipe.toml"

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return "recipe.toml" in files.names

    @cached_property
    def run(self) -> Run:
        root = self.files.get("recipe.toml")
        return Run(root, recipe_file.load(root / "recipe.toml"))

    @cached_property
    def steps(self) -> list[Step]:
        found, names = [], frozenset(self.files.names)
        for phase in self.run.recipe.phase_names:  # a phase with adapters has them alone in all but its last step
            pattern = re.compile(rf"({re.escape(phase)}/step_)(\d+)/manifest\.json")
            matches = [match for name in names if (match := pattern.fullmatch(name))]
            matches = [match for match in matches if f"{match[1]}{match[2]}/model.safetensors" in names]
            found += sorted(Step(phase, "", int(match[2])) for match in matches)
        return found

    def _folder(self, step: Step, *names: str) -> Path:
        """With these files in it, checked."""
        name = f"{step.phase}/step_{step.number:06d}"
        folder = self.files.get(*(f"{name}/{file}" for file in (*names, "manifest.json"))) / name
        problem = saved.damage(folder, names)
        if problem:
            raise UserError(f"{folder} is damaged: {problem}", "Choose a step before it.")
        return folder

    def config(self, step: Step) -> ModelConfig:
        return ModelConfig.from_hf(self._folder(step, "config.json") / "config.json")

    def details(self, step: Step) -> dict[str, Any]:
        name = f"{step.phase}/evals.json"
        if name not in self.files.names:
            return {}
        self.files.get(name)
        found = self.run.read(step.phase, "evals.json")
        of_this = found.get("checkpoint") == f"step_{step.number:06d}"
        return {"val_bpb": found["val_bpb"]} if of_this and found.get("val_bpb") else {}

    def open_weights(self, step: Step) -> dict[str, Any]:
        for phase in self.run.recipe.phase_names:
            if f"{phase}/imported.json" in self.files.names:
                self.files.get(f"{phase}/imported.json")
                if found := self.run.read(phase, "imported.json").get("open_weights"):
                    return dict(found)
        return {}

    @property
    def papers(self) -> list[str]:
        return [name for name in self.files.names if name.startswith(f"{KEPT}/")]

    def chat_format(self, step: Step) -> ChatFormat:
        return load_format(self._folder(step, "tokenizer.json", "tokenizer_config.json"))

    def model(self, step: Step) -> Transformer:
        import torch

        return load_model(self._folder(step, "config.json", "model.safetensors"), torch.float32, torch.device("cpu"))
