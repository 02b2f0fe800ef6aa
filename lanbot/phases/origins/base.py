"""The interface of a kind of source, and the files that it reads."""

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from lanbot.chat.formats.base import ChatFormat
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.data import download, hub
from lanbot.models.config import ModelConfig
from lanbot.models.licences import PAPERS, stated_in
from lanbot.models.transformer import Transformer


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
    """The files of a folder by their paths in it, or one file alone."""

    def __init__(self, path: Path) -> None:
        self.root, self.revision = path, ""
        if path.is_file():
            self.root, self.names = path.parent, [path.name]

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
    """The files of a model repository of the hub, or one GGUF file of it, downloaded when they are needed."""

    def __init__(self, name: str, options: Options) -> None:
        """name: OWNER/NAME[/FILE.gguf][@REVISION]. Raises UserError."""
        path, at, revision = name.partition("@")
        owner, _, rest = path.partition("/")
        repository, _, self.file = rest.partition("/") if path.endswith(".gguf") else (rest, "", "")
        name = f"{owner}/{repository}{at}{revision}"
        self.listed, self.options, self.name = hub.listing(name, options, kind="models"), options, name
        self.root, self.revision = hub.folder_of(name, options, kind="models"), hub.commit(name, options, kind="models")
        if self.file:
            self.get(self.file, fetch=False)

    @cached_property
    def names(self) -> list[str]:
        return [name for name in self.listed if not self.file or name in (self.file, *PAPERS)]

    def get(self, *names: str, fetch: bool = True) -> Path:
        missing = [name for name in names if name not in self.listed]
        if missing:
            raise UserError(f"{self.name}: the hub has no {missing[0]} in it", hub.holds(self.listed))
        if fetch:
            download.get([self.listed[name] for name in names], self.options)
        return self.root


class Origin(ABC):
    """A source: which steps it has, and what is in them."""

    what: ClassVar[str]
    """Its kind, in words."""
    told_by: ClassVar[str]
    """The files that tell it, in words."""

    @classmethod
    @abstractmethod
    def recognises(cls, files: Files) -> bool:
        """Whether a source with these files is of this kind."""

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

    def open_weights(self, step: Step) -> dict[str, Any]:
        """Of the weights that somebody else trained and the step goes back to: source, revision, and licence as it is
        stated there; {} if there are none."""
        readme = [name for name in self.papers if name == "README.md"]
        licence = stated_in(self.files.get(*readme) / "README.md") if readme else ""
        return {"source": self.name, "revision": self.files.revision, "licence": licence}

    @property
    def papers(self) -> list[str]:
        """The files that say under which terms those are."""
        return [name for name in PAPERS if name in self.files.names]

    @abstractmethod
    def chat_format(self, step: Step) -> ChatFormat: ...

    @abstractmethod
    def model(self, step: Step) -> Transformer:
        """With fp32 masters, on the CPU."""

    def most_rows(self, ids: int) -> int:
        """Rows that the embedding may have for a tokenizer of so many ids: many are padded, to make products faster."""
        return ids + max(128, ids // 16)

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
