"""A tree of nanochat's checkpoints."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from lanbot.chat.formats import get_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.models import nanochat_checkpoint
from lanbot.models.config import ModelConfig
from lanbot.models.transformer import Transformer
from lanbot.phases.origins.base import Files, Origin, Step
from lanbot.tokenizers.tiktoken_pickle import read_pickle

TREE = {
    "base": "base_checkpoints",
    "mid": "mid_checkpoints",
    "sft": "chatsft_checkpoints",
    "rl": "chatrl_checkpoints",
    "agent_rl": "agentrl_checkpoints",
}
"""nanochat's folders, by phase."""


class NanoChatTree(Origin):
    """Checkpoints as nanochat kept them until January 2026."""

    what = "nanochat checkpoints"
    told_by = f"{', '.join(TREE.values())} with model_*.pt in one of them"

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return bool(_steps(files))

    @cached_property
    def steps(self) -> list[Step]:
        return _steps(self.files)

    def _path(self, step: Step, kind: str) -> Path:
        name = f"{TREE[step.phase]}/{step.tag}/{kind.format(f'{step.number:06d}')}"
        return self.files.get(name) / name

    def config(self, step: Step) -> ModelConfig:
        path = self._path(step, "meta_{}.json")
        return nanochat_checkpoint.model_config(nanochat_checkpoint.read_meta(path), path)

    def details(self, step: Step) -> dict[str, Any]:
        meta = nanochat_checkpoint.read_meta(self._path(step, "meta_{}.json"))
        return {key: value for key, value in meta.items() if isinstance(value, float)}

    def chat_format(self, step: Step) -> ChatFormat:
        name = "tokenizer/tokenizer.pkl"
        return get_format("nanochat")(read_pickle(self.files.get(name) / name))

    def model(self, step: Step) -> Transformer:
        return nanochat_checkpoint.load(self._path(step, "model_{}.pt"), self.config(step))

    def most_rows(self, ids: int) -> int:
        return ids


def _steps(files: Files) -> list[Step]:
    found = []
    for phase, folder in TREE.items():
        pattern = re.compile(rf"{folder}/([^/]+)/model_(\d+)\.pt")
        matches = [match for name in files.names if (match := pattern.fullmatch(name))]
        found += sorted(Step(phase, match[1], int(match[2])) for match in matches)
    return found
