"""Where a run's first model can come from: a tree of nanochat's checkpoints, another run, or a model's folder; on disk
or on the hub.

SOURCE is a folder, a run's name or hf:OWNER/NAME[@REVISION]; after a # the step: PHASE, PHASE/STEP or PHASE/TAG/STEP.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from lanbot.chat.formats import get_format, load_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.config import recipe_file
from lanbot.config.run import Run
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.data import download, hub
from lanbot.models import nanochat_checkpoint, saved
from lanbot.models.config import ModelConfig
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model
from lanbot.tokenizers.tiktoken_pickle import read_pickle

TREE = {
    "base": "base_checkpoints",
    "mid": "mid_checkpoints",
    "sft": "chatsft_checkpoints",
    "rl": "chatrl_checkpoints",
    "agent_rl": "agentrl_checkpoints",
}
"""nanochat's folders, by phase."""

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


class Step(NamedTuple):
    phase: str
    tag: str
    """The model's name in a tree of nanochat; "" elsewhere."""
    number: int

    def __str__(self) -> str:
        return "/".join(filter(None, (self.phase, self.tag, f"{self.number:,}")))

    @property
    def exact(self) -> str:
        """As a source names it after the #."""
        return "/".join(filter(None, (self.phase, self.tag, str(self.number))))


class Wanted(NamedTuple):
    """What follows the # of a source: PHASE, PHASE/STEP or PHASE/TAG/STEP; what is left out is "" or None."""

    phase: str
    tag: str = ""
    number: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Wanted":
        phase, *rest = text.replace(",", "").split("/")
        number = int(rest.pop()) if rest and rest[-1].isdecimal() else None
        return cls(phase, "/".join(rest), number)

    def matches(self, other: "Step | Wanted") -> bool:
        return other.phase == self.phase and self.tag in ("", other.tag) and self.number in (None, other.number)


class Files:
    """The files of a folder, by their paths in it."""

    def __init__(self, root: Path) -> None:
        self.root, self.revision = root, ""

    @cached_property
    def names(self) -> list[str]:
        """Down to where a model's files are; links to folders are followed."""
        found = [path for depth in ("*", "*/*", "*/*/*") for path in self.root.glob(depth)]
        return sorted(str(path.relative_to(self.root)) for path in found if path.is_file())

    def get(self, *names: str) -> Path:
        """The folder, with these files in it. Raises UserError if one is missing."""
        for name in names:
            if name not in self.names:
                raise UserError(f"{self.root / name}: no such file", "Fetch the folder again.")
        return self.root


class HubFiles(Files):
    """The files of a model repository of the hub, downloaded when they are needed."""

    def __init__(self, name: str, options: Options) -> None:
        self.listed, self.options, self.name = hub.listing(name, options, kind="models"), options, name
        self.root, self.revision = hub.folder_of(name, options, kind="models"), hub.commit(name, options, kind="models")

    @cached_property
    def names(self) -> list[str]:
        return list(self.listed)

    def get(self, *names: str) -> Path:
        missing = [name for name in names if name not in self.listed]
        if missing:
            raise UserError(f"{self.name}: the hub has no {missing[0]} in it", hub.holds(self.listed))
        download.get([self.listed[name] for name in names], self.options)
        return self.root


class Origin(ABC):
    """A source: which steps it has, and what is in them."""

    what: str
    """Its kind, in words."""

    def __init__(self, name: str, files: Files) -> None:
        self.name, self.files = name, files

    @property
    @abstractmethod
    def steps(self) -> list[Step]:
        """In the order of phases and numbers."""

    @abstractmethod
    def config(self, step: Step) -> ModelConfig: ...

    @abstractmethod
    def details(self, step: Step) -> dict[str, Any]:
        """What the source says of a step itself: its scores."""

    @abstractmethod
    def chat_format(self, step: Step) -> ChatFormat: ...

    @abstractmethod
    def model(self, step: Step) -> Transformer:
        """With fp32 masters, on the CPU."""

    def choose(self, wanted: str) -> Step:
        """The step that PHASE[/TAG][/STEP] names; the newest of the phase if it names none.

        Raises UserError if there is none, or if several models have one.
        """
        asked = Wanted.parse(wanted)
        found = [step for step in self.steps if asked.matches(step)]
        if not found:
            raise UserError(f"{self.name}: it has no {wanted}", f"It has {', '.join(map(str, self.steps)) or 'none'}.")
        tags = sorted({step.tag for step in found})
        if len(tags) > 1:
            names = " or ".join(f"#{asked.phase}/{tag}" for tag in tags)
            raise UserError(f"{self.name}: several models have {wanted}", f"Name one: {names}.")
        return found[-1]


class NanoChatTree(Origin):
    """Checkpoints as nanochat kept them until January 2026."""

    what = "nanochat checkpoints"

    @cached_property
    def steps(self) -> list[Step]:
        found = []
        for phase, folder in TREE.items():
            pattern = re.compile(rf"{folder}/([^/]+)/model_(\d+)\.pt")
            matches = [match for name in self.files.names if (match := pattern.fullmatch(name))]
            found += sorted(Step(phase, match[1], int(match[2])) for match in matches)
        return found

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


class RunOrigin(Origin):
    """Another run of LanBot."""

    what = "a run"

    @cached_property
    def run(self) -> Run:
        root = self.files.get("recipe.toml")
        return Run(root, recipe_file.load(root / "recipe.toml"))

    @cached_property
    def steps(self) -> list[Step]:
        found = []
        for phase in self.run.recipe.phase_names:
            pattern = re.compile(rf"{re.escape(phase)}/step_(\d+)/manifest\.json")
            matches = [match for name in self.files.names if (match := pattern.fullmatch(name))]
            found += sorted(Step(phase, "", int(match[1])) for match in matches)
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

    def chat_format(self, step: Step) -> ChatFormat:
        return load_format(self._folder(step, "tokenizer.json", "tokenizer_config.json"))

    def model(self, step: Step) -> Transformer:
        import torch

        return load_model(self._folder(step, "config.json", "model.safetensors"), torch.float32, torch.device("cpu"))


class ModelFolder(Origin):
    """A model in Hugging Face layout, with a tokenizer whose chat format LanBot has. It is a base model if # says
    nothing else."""

    what = "a model's folder"
    wanted = "base"

    @property
    def steps(self) -> list[Step]:
        return [Step(self.wanted, "", 0)]

    def choose(self, wanted: str) -> Step:
        self.wanted = wanted.partition("/")[0]
        return self.steps[0]

    @cached_property
    def folder(self) -> Path:
        return self.files.get(*MODEL_FILES)

    def config(self, step: Step) -> ModelConfig:
        return ModelConfig.from_hf(self.files.get("config.json") / "config.json")

    def details(self, step: Step) -> dict[str, Any]:
        return {}

    def chat_format(self, step: Step) -> ChatFormat:
        return load_format(self.folder)

    def model(self, step: Step) -> Transformer:
        import torch

        return load_model(self.folder, torch.float32, torch.device("cpu"))


def split(source: str) -> tuple[str, str]:
    """(what is before the #, the step after it)."""
    where, _, wanted = source.partition("#")
    return where, wanted


def open_origin(where: str, options: Options) -> Origin:
    """The source at a folder, a run's name or hf:OWNER/NAME[@REVISION]. Raises UserError if it is none."""
    if where.startswith("hf:") and options.mirror is None:
        files: Files = HubFiles(where.removeprefix("hf:"), options)
    else:
        files = Files(_folder(where, options))
    names = files.names
    if "recipe.toml" in names:
        return RunOrigin(where, files)
    if any(name.startswith(f"{folder}/") for name in names for folder in TREE.values()):
        tree = NanoChatTree(where, files)
        if tree.steps:
            return tree
    if "config.json" in names:
        return ModelFolder(where, files)
    raise UserError(
        f"{where}: neither nanochat's checkpoints, nor a run, nor a model's folder",
        f"It needs one of {', '.join(TREE.values())} with model_*.pt in it, a recipe.toml or a config.json.",
    )


def _folder(where: str, options: Options) -> Path:
    """The local folder: of a hub's repository the mirror's OWNER/NAME."""
    if where.startswith("hf:"):
        assert options.mirror is not None
        return hub.find(where, where.removeprefix("hf:").partition("@")[0], options.mirror)
    choices: Sequence[Path] = (Path(where).expanduser(), options.runs / where)
    found = next((path for path in choices if where and path.is_dir()), None)
    if found is None:
        raise UserError(f"{where}: no such folder or run", "Name a folder, a run, or hf:OWNER/NAME.")
    return found
