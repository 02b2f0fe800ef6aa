"""The weights in a model's folder, in one file or in shards, read one at a time."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lanbot.core.errors import UserError


class StoredWeights:
    """By transformers' names. Raises UserError if a file is missing or damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, Any] = {}

    @cached_property
    def files(self) -> dict[str, str]:
        """The file of each weight."""
        index = self.folder / "model.safetensors.index.json"
        if not index.is_file():
            return dict.fromkeys(self._file("model.safetensors").keys(), "model.safetensors")
        try:
            return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{index}: damaged", "Fetch it again.") from None

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file(self.files[name]).get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        weight: Tensor = self._file(self.files[name]).get_tensor(name)
        return weight

    def _file(self, name: str) -> Any:
        if name not in self._open:
            path = self.folder / name
            try:
                self._open[name] = safe_open(path, "pt").__enter__()
            except FileNotFoundError:
                raise UserError(f"{path}: not there", "Is the folder a whole model's?") from None
            except SafetensorError as error:
                raise UserError(f"{path}: damaged ({error})", "Fetch or train it again.") from None
        return self._open[name]
