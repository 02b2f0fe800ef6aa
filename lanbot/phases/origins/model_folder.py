"""A model in Hugging Face layout."""

from functools import cached_property
from pathlib import Path
from typing import Any

from lanbot.chat.formats import load_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.models.config import ModelConfig
from lanbot.models.stored import INDEX, WHOLE, no_weights, shards
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model
from lanbot.phases.origins.base import Files, Origin, Step

NEEDED = ("config.json", "tokenizer.json")
BESIDE = ("tokenizer_config.json", "chat_template.jinja", "generation_config.json", "special_tokens_map.json")
"""Small files that a folder may have."""


class ModelFolder(Origin):
    """A model in Hugging Face layout, with a tokenizer whose chat format LanBot has. It is a base model if # says
    nothing else."""

    what = "a model's folder"
    told_by = "config.json"
    wanted = "base"

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return "config.json" in files.names

    @property
    def steps(self) -> list[Step]:
        return [Step(self.wanted, "", 0)]

    def choose(self, wanted: str) -> Step:
        self.wanted = wanted.partition("/")[0]
        return self.steps[0]

    @cached_property
    def folder(self) -> Path:
        """With all but the weights in it."""
        return self.files.get(*NEEDED, *(name for name in BESIDE if name in self.files.names))

    def _weights(self) -> Path:
        """The folder, with the weights in it too."""
        names = self.files.names
        if WHOLE in names:
            return self.files.get(WHOLE)
        if INDEX not in names:
            raise no_weights(f"{self.name}: {WHOLE}", names)
        return self.files.get(*shards(self.files.get(INDEX) / INDEX))

    def config(self, step: Step) -> ModelConfig:
        return ModelConfig.from_hf(self.files.get("config.json") / "config.json")

    def details(self, step: Step) -> dict[str, Any]:
        return {}

    def chat_format(self, step: Step) -> ChatFormat:
        return load_format(self.folder)

    def model(self, step: Step) -> Transformer:
        import torch

        return load_model(self._weights(), torch.float32, torch.device("cpu"))
