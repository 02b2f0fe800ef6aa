"""A model in one GGUF file, llama.cpp's format."""

import json
import re
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from lanbot.chat.formats import load_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.core.errors import UserError
from lanbot.models.config import ModelConfig
from lanbot.models.gguf_read import GGUFFile, load
from lanbot.models.transformer import Transformer
from lanbot.phases.origins.base import Files, Step
from lanbot.phases.origins.model_folder import ModelFolder

T = TypeVar("T")


class GGUFModel(ModelFolder):
    """Like a model's folder; weights of any type become fp32, the tokenizer a tokenizer.json."""

    what = "a GGUF file"
    told_by = "a file *.gguf"

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return any(name.endswith(".gguf") for name in files.names)

    @cached_property
    def file(self) -> GGUFFile:
        names = [name for name in self.files.names if name.endswith(".gguf")]
        if len(names) > 1:
            raise UserError(
                f"{self.name}: several GGUF files ({', '.join(names[:4])})",
                "Name the file itself: PATH/FILE.gguf, or hf:OWNER/NAME/FILE.gguf.",
            )
        return GGUFFile(self.files.get(names[0]) / names[0])

    @cached_property
    def unpacked(self) -> tempfile.TemporaryDirectory[str]:
        """All but the weights as a model's folder has it."""
        text, config = self.file.tokenizer()
        folder = tempfile.TemporaryDirectory()
        for name, content in (("config", self.file.config), ("tokenizer_config", config)):
            (Path(folder.name) / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        (Path(folder.name) / "tokenizer.json").write_text(text, encoding="utf-8")
        return folder

    def open_weights(self, step: Step) -> dict[str, Any]:
        return {**super().open_weights(step), "licence": str(self.file.field("general.license", ""))}

    def config(self, step: Step) -> ModelConfig:
        return self._of_folder(lambda folder: ModelConfig.from_hf(folder / "config.json"))

    def chat_format(self, step: Step) -> ChatFormat:
        return self._of_folder(load_format)

    def _of_folder(self, read: Callable[[Path], T]) -> T:
        """What is read there; errors name the file."""
        folder = Path(self.unpacked.name)
        try:
            return read(folder)
        except UserError as error:
            inside = re.sub(rf"{re.escape(str(folder))}(/\S+\.json)?", str(self.file.path), error.problem)
            raise UserError(inside, error.remedy) from None

    def model(self, step: Step) -> Transformer:
        return load(self.file, self.config(step))
